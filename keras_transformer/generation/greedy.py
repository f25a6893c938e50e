"""Greedy search: the most probable token, one after another."""

from typing import Any

from keras import ops

from keras_transformer.generation import penalties
from keras_transformer.generation.arguments import check_start_ids, sentence_limits
from keras_transformer.generation.candidates import best_tokens
from keras_transformer.generation.protocol import Decoder, Hypotheses, State, Tensor


def greedy_search(
    decoder: Decoder,
    start_ids: Any,
    max_length: Any,
    end_token_id: int,
    pad_token_id: int = 0,
    limits: Any = None,
    length_penalty: Any = 0.6,
) -> Hypotheses:
    """Follows the most probable token until the end token or the sentence's limit.

    Args:
        decoder: see `Decoder`.
        start_ids: (B,), the token each sentence starts from.
        max_length: most tokens generated, the end token included: an int, or a scalar tensor where
            the backend allows shapes that are not known beforehand.
        end_token_id: an id outside the vocabulary, such as -1, ends no sentence.
        pad_token_id: fills `token_ids` after a sentence's end.
        limits: (B,), the maximum of each sentence, cut to `max_length`; None for `max_length`. A
            sentence that reaches its limit without an end token is finished as it is.
        length_penalty: a number is GNMT's alpha, see `penalties`. Here it changes the score only.

    Returns:
        `Hypotheses` with token_ids (B, max_length), lengths (B,) and scores (B,).
    """
    start_ids = check_start_ids(start_ids)
    limits = sentence_limits(limits, max_length, start_ids)
    penalty = penalties.get(length_penalty)
    batch = ops.shape(start_ids)[0]

    def unfinished(step: Tensor, state: State, ids: Tensor, done: Tensor, *found: Tensor) -> Tensor:
        return ops.any(ops.logical_not(done))

    def extend(
        step: Tensor,
        state: State,
        ids: Tensor,
        done: Tensor,
        token_ids: Tensor,
        lengths: Tensor,
        log_p: Tensor,
    ) -> tuple[Any, ...]:
        logits, state = decoder.step(ids, state)
        chosen_log_p, ids = (ops.reshape(x, (batch,)) for x in best_tokens(logits, 1))
        written = ops.where(done, pad_token_id, ids)
        token_ids = ops.slice_update(token_ids, (0, step), written[:, None])
        lengths = ops.where(done, lengths, step + 1)
        log_p = ops.where(done, log_p, log_p + chosen_log_p)
        # Without probability left (log p of -inf) there is no token to choose, now or later.
        ended = (ids == end_token_id) | (step + 1 >= limits) | (log_p == -float("inf"))
        return step + 1, state, ids, done | ended, token_ids, lengths, log_p

    *_, token_ids, lengths, log_p = ops.while_loop(
        unfinished,
        extend,
        (
            ops.zeros((), "int32"),
            decoder.start(1),
            start_ids,
            limits < 1,
            ops.full((batch, max_length), pad_token_id, "int32"),
            ops.zeros((batch,), "int32"),
            ops.zeros((batch,), "float32"),
        ),
    )
    exists = (lengths > 0) & (log_p > -float("inf"))
    return Hypotheses(
        token_ids=ops.where(exists[:, None], token_ids, pad_token_id),
        lengths=ops.where(exists, lengths, 0),
        scores=ops.where(exists, log_p / penalty(ops.maximum(lengths, 1)), -float("inf")),
    )
