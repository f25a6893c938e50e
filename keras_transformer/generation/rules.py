"""Processors that go by what has been generated, and by what must or must not be: repetitions, lengths, prefixes."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_transformer.generation.processor import (
    LogitsProcessor,
    SearchContext,
    is_count,
    is_number,
    refuse,
    registered,
)
from keras_transformer.generation.protocol import Tensor


@registered
@dataclass(frozen=True)
class RepetitionPenalty(LogitsProcessor):
    """Makes what has been generated less likely: its logits are divided by the penalty.

    Keskar et al. 2019, "CTRL", section 4.1. 1 changes nothing, the paper's is 1.2; below 1 favours repetition.
    Differs from the paper: negative logits are multiplied, since dividing would raise them (as in Hugging Face).
    """

    repetition_penalty: float
    needs_history: ClassVar[bool] = True
    sees_prompt: ClassVar[bool] = True

    def __post_init__(self):
        if not is_number(self.repetition_penalty) or not 0 < self.repetition_penalty < math.inf:
            refuse(self, "repetition_penalty", "a finite number above 0", "Use 1 for no penalty.")

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        seen = among(context.token_ids, generated(context), logits)
        penalty = self.repetition_penalty
        return ops.where(seen, ops.where(logits < 0, logits * penalty, logits / penalty), logits)


@registered
@dataclass(frozen=True)
class NoRepeatNGram(LogitsProcessor):
    """Forbids the token that would complete an n-gram of that size a second time in its sentence."""

    no_repeat_ngram_size: int
    needs_history: ClassVar[bool] = True
    sees_prompt: ClassVar[bool] = True

    def __post_init__(self):
        if not is_count(self.no_repeat_ngram_size):
            refuse(self, "no_repeat_ngram_size", "an integer of at least 1", "None lets n-grams be repeated.")

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        token_ids, step, before = context.token_ids, context.step, self.no_repeat_ngram_size - 1
        last = ops.clip(step - before + ops.arange(before, dtype="int32"), 0, ops.shape(token_ids)[1] - 1)
        # Where the tokens from a place on are the last `before`, and another follows them: that one is forbidden.
        repeats = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None] + before < step
        for n in range(before):
            repeats = repeats & (ops.roll(token_ids, -n, axis=1) == ops.take(token_ids, last[n : n + 1], axis=1))
        forbidden = among(ops.roll(token_ids, -before, axis=1), repeats, logits)
        return ops.where(forbidden, -float("inf"), logits)


@registered
@dataclass(frozen=True)
class MinLength(LogitsProcessor):
    """Forbids the end token where the sentence, the end token counted, would have fewer than `min_length` tokens.

    A sentence that reaches its limit before is finished as it is.
    """

    min_length: int
    sees_prompt: ClassVar[bool] = True

    def __post_init__(self):
        if not is_count(self.min_length, least=0):
            refuse(self, "min_length", "an integer of at least 0")

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        is_end = ops.arange(logits.shape[-1], dtype="int32") == context.end_token_id
        return ops.where(is_end & (context.step + 1 < self.min_length), -float("inf"), logits)


@registered
@dataclass(frozen=True)
class SuppressTokens(LogitsProcessor):
    """Forbids the tokens `suppress_tokens` everywhere."""

    suppress_tokens: tuple[int, ...]

    def __post_init__(self):
        given = self.suppress_tokens
        if not isinstance(given, list | tuple | np.ndarray) or not all(is_count(token, least=0) for token in given):
            refuse(self, "suppress_tokens", "a list of integers of at least 0")
        object.__setattr__(self, "suppress_tokens", tuple(int(token) for token in given))

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        self.check_vocabulary(logits.shape[-1])
        forbidden = np.zeros(logits.shape[-1], "bool")
        forbidden[list(self.suppress_tokens)] = True
        return ops.where(forbidden, -float("inf"), logits)

    def check_vocabulary(self, size):
        if any(token >= size for token in self.suppress_tokens):
            refuse(self, "suppress_tokens", f"below {size}, the size of the vocabulary")


@registered
@dataclass(frozen=True, eq=False)
class ForcedPrefix(LogitsProcessor):
    """Gives each sentence its first tokens.

    They have probability 1, so that the score is that of what follows them; they count in the length. A prefix with
    an end token ends there, one that is longer than its sentence's limit is cut. Belongs after processors that might
    forbid its tokens.

    Args:
        prefix_ids: (B, P) integers.
        prefix_lengths: (B,), how many tokens of each row count; None: all P.
    """

    prefix_ids: Any
    prefix_lengths: Any = None

    def __post_init__(self):
        for name, rank in (("prefix_ids", 2), ("prefix_lengths", 1)):
            value = getattr(self, name)
            if value is None and name == "prefix_lengths":
                continue
            if not ops.is_tensor(value):
                value = np.asarray(value)
                if value.size and value.dtype.kind not in "iu":
                    refuse(self, name, "integers")
                if value.size and value.min() < 0:
                    refuse(self, name, "at least 0 everywhere")
                object.__setattr__(self, name, value.astype("int32"))
            if len(value.shape) != rank:
                shape = "(batch, length)" if rank == 2 else "(batch,)"
                raise ValueError(f"`{name}` of ForcedPrefix must have the shape {shape}. Received: {value.shape}.")
        if isinstance(self.prefix_ids, np.ndarray) and isinstance(self.prefix_lengths, np.ndarray):
            prefixes, most = self.prefix_ids.shape
            if len(self.prefix_lengths) != prefixes or self.prefix_lengths.max(initial=0) > most:
                raise ValueError(
                    f"`prefix_lengths` of ForcedPrefix must be at most {most}, one for each of the {prefixes} rows of "
                    f"`prefix_ids`. Received: {self.prefix_lengths.tolist()}."
                )

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        token_ids = ops.cast(ops.convert_to_tensor(self.prefix_ids), "int32")
        if token_ids.shape[1] == 0:
            return logits
        self.check_vocabulary(logits.shape[-1])
        self._check_sentences(token_ids.shape[0], logits.shape[0], context.num_beams)
        column = ops.minimum(context.step, ops.shape(token_ids)[1] - 1)
        token = ops.take(token_ids, column, axis=1)
        lengths = ops.full_like(token, token_ids.shape[1]) if self.prefix_lengths is None else self.prefix_lengths
        lengths = ops.minimum(ops.cast(ops.convert_to_tensor(lengths), "int32"), ops.shape(token_ids)[1])
        is_given = context.step < lengths
        token, is_given = (ops.repeat(x, context.num_beams, axis=0)[:, None] for x in (token, is_given))
        alone = ops.where(ops.arange(logits.shape[-1], dtype="int32") == token, 0.0, -float("inf"))
        return ops.where(is_given, alone, logits)

    def check_vocabulary(self, size):
        if isinstance(self.prefix_ids, np.ndarray) and self.prefix_ids.size and self.prefix_ids.max() >= size:
            raise ValueError(
                f"`prefix_ids` of ForcedPrefix must be below {size}, the size of the vocabulary. "
                f"Received: {self.prefix_ids.max()} among them."
            )

    def _check_sentences(self, prefixes, rows, num_beams):
        if None not in (prefixes, rows) and prefixes * num_beams != rows:
            raise ValueError(
                "`prefix_ids` of ForcedPrefix must have a row for each sentence. "
                f"Received: {prefixes} rows for {rows // num_beams} sentences. Use a length of 0 for no prefix."
            )


def generated(context: SearchContext) -> Tensor:
    """Which columns of `context.token_ids` are tokens: (1, max_length)."""
    return ops.arange(ops.shape(context.token_ids)[1], dtype="int32")[None] < context.step


def among(token_ids: Tensor, which: Tensor, logits: Tensor) -> Tensor:
    """Whether each token of the vocabulary is among those of `token_ids` (N, L) where `which` is true: (N, V).

    An id of -1 is no token.
    """
    which = ops.logical_and(which, token_ids >= 0)
    token_ids = ops.maximum(token_ids, 0)
    rows = ops.broadcast_to(ops.arange(ops.shape(token_ids)[0], dtype="int32")[:, None], ops.shape(token_ids))
    places = ops.reshape(ops.stack([rows, token_ids], axis=-1), (-1, 2))
    counts = ops.reshape(ops.cast(ops.broadcast_to(which, ops.shape(token_ids)), logits.dtype), (-1,))
    return ops.scatter_update(ops.zeros_like(logits), places, counts, reduction="add") > 0
