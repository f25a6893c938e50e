"""Positions of tokens, and how far keys are from queries.

Positions are integers: of shape `(T,)` where they are consecutive, as in a block of a sequence, or `(1, T)` or `(B, T)`
where they may be anything, as in rows packed of several texts.
"""

import keras
from keras import ops


def as_positions(positions, argument="positions", of=None):
    """`positions` as an int32 tensor of rank 1 or 2.

    Args:
        of: the shape `(B, T, ...)` of what they are the positions of; None: not checked.
    """
    positions = ops.convert_to_tensor(positions)
    dtype = keras.backend.standardize_dtype(positions.dtype)
    if "int" not in dtype or len(positions.shape) not in (1, 2):
        raise ValueError(
            f"`{argument}` must be integers of the shape (length,) or (batch, length). "
            f"Received: dtype={dtype}, shape={tuple(positions.shape)}. Cast them, or add or take away an axis."
        )
    if of is not None:
        found = (1, *positions.shape)[-2:]
        if not axes_fit(found, of) or (found[1] == 1 and of[1] not in (1, None)):
            raise ValueError(
                f"`{argument}` must be one for each place along the sequence, of the shape ({of[1]},), (1, {of[1]}) "
                f"or ({of[0]}, {of[1]}). Received: shape={tuple(positions.shape)}"
            )
    return ops.cast(positions, "int32")


def axes_fit(shape, expected):
    """Whether each axis is 1 or as expected, as far as both are known."""
    return all(a in (1, b) for a, b in zip(shape, expected) if isinstance(a, int) and isinstance(b, int))


def is_placeholder(x):
    """Whether `x` may have a length in its shape that no data has.

    Where Keras infers shapes on JAX and PyTorch, an axis of None has a size of its own invention, 83 or 89. TensorFlow
    has unknown sizes.
    """
    if keras.backend.backend() == "torch":
        return str(getattr(x, "device", None)) == "meta"
    if keras.backend.backend() == "jax":
        import jax

        return isinstance(x, jax.core.Tracer)
    return False


def relative_positions(query_positions, key_positions):
    """How far each key is behind (positive: after) each query: int32 `(1|B, T, S)`."""
    query, key = (p if len(p.shape) == 2 else p[None] for p in (query_positions, key_positions))
    return key[:, None, :] - query[:, :, None]


def diagonals(query_positions, key_positions):
    """The relative positions of consecutive queries `(T,)` and keys `(S,)`: int32 `(T + S - 1,)`, in rising order.

    There are no more than these, one for each diagonal of the `T x S` matrix of `relative_positions`.
    """
    queries, keys = ops.shape(query_positions)[0], ops.shape(key_positions)[0]
    first = key_positions[0] - query_positions[0] - (queries - 1)
    return first + ops.arange(queries + keys - 1, dtype="int32")


def skew(x):
    """What stands at each query's diagonals, moved to the keys': `(B, T, T + S - 1, H)` to `(B, T, S, H)`.

    `x[:, t, n]` belongs to the n-th of `diagonals`, so the result at `t, s` is `x[:, t, s - t + T - 1]`. Written as a
    padding and a reading in rows of another length (Huang et al. 2018, section 3.4.1; there for `T = S` and for keys up
    to the query alone), so that neither it nor its gradient gathers anything.
    """
    batch, rows, columns, heads = ops.shape(x)
    x = ops.pad(x, [[0, 0], [0, 0], [0, 1], [0, 0]])
    x = ops.reshape(x, (batch, rows * (columns + 1), heads))[:, : rows * columns]
    return ops.reshape(x, (batch, rows, columns, heads))[:, :, rows - 1 :]
