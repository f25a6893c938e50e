"""The loop of every search that keeps one sentence a row and never looks back: one token after another."""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_transformer.generation.protocol import Decoder, Hypotheses, State, Tensor


def follow(
    decoder: Decoder,
    choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    start_ids: Tensor,
    limits: Tensor,
    max_length: Any,
    end_token_id: int,
    pad_token_id: int,
    penalty: Callable[[Tensor], Tensor],
    num_rows: int = 1,
) -> tuple[Hypotheses, State]:
    """Follows the tokens that `choose` takes until the end token or the sentence's limit.

    Args:
        decoder, max_length, end_token_id, pad_token_id: as in `greedy_search`.
        choose: of logits (N, V) and the step (), the log-probabilities (N,) and ids (N,) of the next tokens.
        start_ids, limits: (B,) int32, checked.
        penalty: see `penalties`.
        num_rows: rows of each sentence; N is B * num_rows.

    Returns:
        `Hypotheses` with token_ids (N, max_length), lengths (N,) and scores (N,), and the decoder's state after it.
    """
    start_ids, limits = (ops.repeat(x, num_rows, axis=0) if num_rows > 1 else x for x in (start_ids, limits))
    rows = ops.shape(start_ids)[0]

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
        chosen_log_p, ids = choose(logits, step)
        written = ops.where(done, pad_token_id, ids)
        token_ids = ops.slice_update(token_ids, (0, step), written[:, None])
        lengths = ops.where(done, lengths, step + 1)
        log_p = ops.where(done, log_p, log_p + chosen_log_p)
        # Without probability left (log p of -inf) there is no token to choose, now or later.
        ended = (ids == end_token_id) | (step + 1 >= limits) | (log_p == -float("inf"))
        return step + 1, state, ids, done | ended, token_ids, lengths, log_p

    _, state, _, _, token_ids, lengths, log_p = ops.while_loop(
        unfinished,
        extend,
        (
            ops.zeros((), "int32"),
            decoder.start(num_rows),
            start_ids,
            limits < 1,
            ops.full((rows, max_length), pad_token_id, "int32"),
            ops.zeros((rows,), "int32"),
            ops.zeros((rows,), "float32"),
        ),
    )
    exists = (lengths > 0) & (log_p > -float("inf"))
    found = Hypotheses(
        token_ids=ops.where(exists[:, None], token_ids, pad_token_id),
        lengths=ops.where(exists, lengths, 0),
        scores=ops.where(exists, log_p / penalty(ops.maximum(lengths, 1)), -float("inf")),
    )
    return found, state
