"""The step from logits to log-probabilities of the best tokens."""

from keras import ops

from keras_transformer.generation.protocol import Tensor


def without_nan(logits: Tensor) -> Tensor:
    """Logits (N, V) of any float dtype in float32, with -inf in place of NaN.

    Such a token is never chosen, and sorting, which NaN can upset, never sees one beside a number.
    """
    if len(logits.shape) != 2 or logits.shape[-1] is None:
        raise ValueError(
            "`decoder.step` must return logits of shape (rows, vocabulary) with a vocabulary of "
            f"known size. Received shape: {tuple(logits.shape)}."
        )
    logits = ops.cast(logits, "float32")
    return ops.where(ops.isnan(logits), -float("inf"), logits)


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities (N, V) float32 of logits (N, V) of any float dtype.

    A row of nothing but -inf, or with +inf in it, offers nothing to choose: all its log p are -inf.
    """
    return without_nan(ops.log_softmax(without_nan(logits)))


def best_tokens(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most probable tokens of each row, or all V if those are fewer.

    Args:
        logits: (N, V) of any float dtype.

    Returns:
        log_p: (N, C) float32, descending, at most 0, where C = min(count, V).
        ids: (N, C) int32.
    """
    logits = without_nan(logits)
    largest = ops.max(logits, axis=-1, keepdims=True)
    if count == 1:  # two reductions cost less than a sort
        best, ids = largest, ops.argmax(logits, axis=-1, keepdims=True)
    else:
        # Take no slice of what comes back: XLA then no longer sees a top_k, and sorts all of V.
        best, ids = ops.top_k(logits, min(count, logits.shape[-1]))
    # Of the softmax only what was chosen: a pass over all of V costs as much as a part of the product with the table.
    log_p = best - largest - ops.log(ops.sum(ops.exp(logits - largest), axis=-1, keepdims=True))
    return ops.where(ops.isnan(log_p), -float("inf"), log_p), ops.cast(ids, "int32")
