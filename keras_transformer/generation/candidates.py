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


GROUP = 128
"""Logits of which the largest is found first, where there are many."""


def largest_of(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What `ops.top_k` finds in `x` (N, V), ties included: the `count` largest of each row, and where they are.

    The `count` groups with the largest maxima hold them. XLA for CPUs searches a row on one core, after it has brought
    all rows into order; maxima it finds on all cores, and in whichever order the rows are.
    """
    size = x.shape[-1]
    # Take no slice of what `top_k` gives: XLA then no longer sees it, and sorts all of V.
    if size < 2 * count * GROUP:
        return ops.top_k(x, count)
    groups = ops.pad(x, [[0, 0], [0, -size % GROUP]], constant_values=-float("inf")) if size % GROUP else x
    groups = ops.reshape(groups, (-1, -(-size // GROUP), GROUP))
    _, chosen = ops.top_k(ops.max(groups, axis=-1), count)
    chosen = ops.sort(ops.cast(chosen, "int32"), axis=-1)  # of equals the first is taken
    candidates = ops.take_along_axis(groups, chosen[..., None], axis=1)
    best, at = ops.top_k(ops.reshape(candidates, (-1, count * GROUP)), count)
    at = ops.cast(at, "int32")
    return best, ops.take_along_axis(chosen, at // GROUP, axis=1) * GROUP + at % GROUP


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
    if count == 1:  # two reductions cost less than a sort, and XLA makes no vector operations of an argmax
        places, none = ops.arange(logits.shape[-1], dtype="int32"), ops.cast(logits.shape[-1], "int32")
        best, ids = largest, ops.min(ops.where(logits == largest, places, none), axis=-1, keepdims=True)
    else:
        best, ids = largest_of(logits, min(count, logits.shape[-1]))
    # Of the softmax only what was chosen: a pass over all of V costs as much as a part of the product with the table.
    log_p = best - largest - ops.log(ops.sum(ops.exp(logits - largest), axis=-1, keepdims=True))
    return ops.where(ops.isnan(log_p), -float("inf"), log_p), ops.cast(ids, "int32")
