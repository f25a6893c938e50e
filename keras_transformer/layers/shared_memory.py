"""Rows of queries that share a row of keys and values, as the beams of a sentence share the encoder's states.

`n` rows `(B n, T, ...)` that follow each other become `n T` queries of one row `(B, n T, ...)`, so that nothing of the
memory is repeated.
"""

from keras import ops


def side_by_side(x, batch):
    """`(B, n T, ...)` of `x` `(B n, T, ...)`; `batch` is `B`."""
    rows, length, *rest = ops.shape(x)
    return ops.reshape(x, (batch, sharing(rows, batch) * length, *rest))


def visibility_side_by_side(visibility, batch, rows):
    """The `Visibility` of such queries; `rows` is `B n`."""
    n = sharing(rows, batch)

    def of_each_row(x):
        return None if x is None else side_by_side(x, batch)

    positions, mask = visibility.query_positions, visibility.attention_mask
    if positions is not None:
        positions = positions if len(positions.shape) == 2 else positions[None]
        positions = ops.tile(positions, (1, n)) if positions.shape[0] == 1 else side_by_side(positions, batch)
    if mask is not None and mask.shape[0] == 1:
        mask = mask if mask.shape[2] == 1 else ops.tile(mask, (1, 1, n, 1))
    elif mask is not None:
        _, heads, length, source = ops.shape(mask)
        mask = ops.swapaxes(ops.reshape(mask, (batch, n, heads, length, source)), 1, 2)
        mask = ops.reshape(mask, (batch, heads, n * length, source))
    return visibility._replace(
        attention_mask=mask,
        query_mask=of_each_row(visibility.query_mask),
        query_positions=positions,
        query_segments=of_each_row(visibility.query_segments),
    )


def scores_row_by_row(scores, rows, length):
    """`(B n, H, T, S)` of scores `(B, H, n T, S)`."""
    batch, heads, _, source = ops.shape(scores)
    scores = ops.reshape(scores, (batch, heads, sharing(rows, batch), length, source))
    return ops.reshape(ops.swapaxes(scores, 1, 2), (rows, heads, length, source))


def is_one(n):
    """Whether `n` is known to be 1: nothing is shared."""
    return isinstance(n, int) and n == 1


def sharing(rows, batch):
    """`n`; 1 in a batch of none. (On JAX an unknown batch is no tensor but a symbol, of at least 1.)"""
    if ops.is_tensor(batch):
        return ops.maximum(rows // ops.maximum(batch, 1), 1)
    return 1 if isinstance(rows, int) and rows == 0 else rows // max(batch, 1)
