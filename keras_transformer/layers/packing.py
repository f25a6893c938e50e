"""Several short sequences in one row, told apart by segment ids."""

from keras import ops


def restarting_positions(segment_ids):
    """Positions that count from 0 in each segment: int32 `(B, T)` of `segment_ids` `(B, T)`.

    A segment is a run of equal ids.

    >>> import numpy as np
    >>> np.asarray(restarting_positions([[7, 7, 7, 4, 4, 0]]))
    array([[0, 1, 2, 0, 1, 0]], dtype=int32)
    """
    segment_ids = ops.cast(segment_ids, "int32")
    batch, length = ops.shape(segment_ids)
    changes = ops.cast(ops.not_equal(segment_ids[:, 1:], segment_ids[:, :-1]), "int32")
    number = ops.pad(ops.cumsum(changes, axis=1), ((0, 0), (1, 0)))  # of the segment in its row
    row = ops.arange(batch, dtype="int32")[:, None]
    ones = ops.ones((batch * length,), "int32")
    sizes = ops.segment_sum(ones, ops.reshape(row * length + number, (-1,)), num_segments=batch * length)
    sizes = ops.reshape(sizes, (batch, length))
    starts = ops.cumsum(sizes, axis=1) - sizes
    return ops.arange(length, dtype="int32") - ops.take_along_axis(starts, number, axis=1)
