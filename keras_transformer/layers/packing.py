"""Several short sequences in one row, told apart by segment ids."""

from keras import ops


def numbered_segments(segment_ids):
    """The number in its row of the segment that each place is in: int32 `(B, T)` of `segment_ids` `(B, T)`.

    A segment is a run of equal ids: an id that comes again begins another one.

    >>> import numpy as np
    >>> np.asarray(numbered_segments([[7, 7, 4, 4, 7, 0]]))
    array([[0, 0, 1, 1, 2, 3]], dtype=int32)
    """
    segment_ids = ops.cast(segment_ids, "int32")
    changes = ops.cast(ops.not_equal(segment_ids[:, 1:], segment_ids[:, :-1]), "int32")
    return ops.pad(ops.cumsum(changes, axis=1), ((0, 0), (1, 0)))


def restarting_positions(segment_ids):
    """Positions that count from 0 in each segment: int32 `(B, T)` of `segment_ids` `(B, T)`.

    >>> import numpy as np
    >>> np.asarray(restarting_positions([[7, 7, 7, 4, 4, 0]]))
    array([[0, 1, 2, 0, 1, 0]], dtype=int32)
    """
    number = numbered_segments(segment_ids)
    batch, length = ops.shape(number)
    row = ops.arange(batch, dtype="int32")[:, None]
    ones = ops.ones((batch * length,), "int32")
    sizes = ops.segment_sum(ones, ops.reshape(row * length + number, (-1,)), num_segments=batch * length)
    sizes = ops.reshape(sizes, (batch, length))
    starts = ops.cumsum(sizes, axis=1) - sizes
    return ops.arange(length, dtype="int32") - ops.take_along_axis(starts, number, axis=1)
