"""Prompts of several lengths in one batch: moved to the right end, so that all rows go on at the same place.

Shapes: `B` sentences, `P` places for their prompts, `N = B * num_beams` rows.
"""

from collections.abc import Iterable
from typing import Any

from keras import ops

from keras_transformer.generation.processor import SearchContext
from keras_transformer.generation.protocol import Hypotheses, Tensor


def right_aligned(token_ids: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The real tokens of each row in their order at its right end, and how many they are.

    Args:
        token_ids: (B, P) int32.
        padding_mask: (B, P) bool, True = real, anywhere in the row.

    Returns:
        (B, P) int32, of which the places before the prompt hold what was padding, and (B,) int32.

    >>> from keras import ops
    >>> from keras_transformer.generation.prompts import right_aligned
    >>> token_ids = ops.array([[5, 6, 0], [0, 7, 0]])
    >>> token_ids, lengths = right_aligned(token_ids, token_ids > 0)
    >>> ops.convert_to_numpy(token_ids), ops.convert_to_numpy(lengths)
    (array([[0, 5, 6],
           [0, 0, 7]], dtype=int32), array([2, 1], dtype=int32))
    """
    real = ops.cast(padding_mask, "int32")
    places = ops.shape(token_ids)[1]
    order = ops.argsort(real * places + ops.arange(places, dtype="int32"), axis=1)
    return ops.take_along_axis(token_ids, order, axis=1), ops.sum(real, axis=1)


def joined(token_ids: Tensor, lengths: Tensor, found: Any, max_length: Any, pad_token_id: int) -> Hypotheses:
    """`found`, continuations of prompts, with the prompts before them, counted in `lengths` and not in the scores.

    Args:
        token_ids, lengths: as `right_aligned` returns them.
        found: with token_ids (B, [n,] G); G is at least what `max_length` leaves room for after the shortest prompt.
        max_length: of a row of the result, (B, [n,] max_length).
    """
    places, room = ops.shape(token_ids)[1], ops.shape(found.token_ids)[-1]
    column = ops.arange(max_length, dtype="int32")[None]
    after = column - lengths[:, None]  # of the prompt's end
    prompt = ops.take_along_axis(token_ids, ops.clip(after + places, 0, places - 1), axis=1)
    continuation = ops.clip(after, 0, room - 1)
    if len(found.token_ids.shape) == 3:
        after, prompt, continuation, lengths = (ops.expand_dims(x, 1) for x in (after, prompt, continuation, lengths))
        continuation = ops.broadcast_to(continuation, (*ops.shape(found.token_ids)[:2], max_length))
    token_ids = ops.where(after < 0, prompt, ops.take_along_axis(found.token_ids, continuation, axis=-1))
    lengths = lengths + found.lengths
    token_ids = ops.where(column < lengths[..., None], token_ids, pad_token_id)
    return Hypotheses(token_ids, lengths, found.scores)


def with_prompts(processors: Iterable[Any], token_ids: Tensor, lengths: Tensor) -> tuple[Any, ...]:
    """`processors` such that those which look at the whole of a text (`sees_prompt`) have its prompt before them.

    Args:
        token_ids, lengths: as `right_aligned` returns them.
    """
    column = ops.arange(ops.shape(token_ids)[1], dtype="int32")
    prompts = ops.where(column >= ops.shape(token_ids)[1] - lengths[:, None], token_ids, -1)
    return tuple(
        AfterPrompt(processor, prompts, lengths) if getattr(processor, "sees_prompt", False) else processor
        for processor in processors
    )


class AfterPrompt:
    """A processor around one that `sees_prompt`: what it is told was generated begins with the prompt.

    Prompts end at the same column; the columns before a shorter one hold -1, which no token is.
    """

    def __init__(self, processor: Any, prompts: Tensor, lengths: Tensor):
        self._processor, self._prompts, self._lengths = processor, prompts, lengths
        self.needs_history = processor.needs_history

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        if not self.needs_history:  # it counts tokens and looks at none: those of each row by itself
            lengths = ops.repeat(self._lengths, context.num_beams, axis=0)
            return self._processor(logits, context._replace(step=context.step + lengths[:, None]))
        prompts = ops.repeat(self._prompts, context.num_beams, axis=0)
        step = context.step + ops.shape(prompts)[1]
        token_ids = ops.concatenate([prompts, context.token_ids], axis=1)
        return self._processor(logits, context._replace(step=step, token_ids=token_ids))
