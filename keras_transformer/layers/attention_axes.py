"""Attention over any axes of an N-D input, brought to the case of one sequence.

Shapes: inputs are `(*dims, width)`, `dims` with the batch in front. Of `dims` some are attended over, in the order
given; `T` and `S` here are the products of those of queries and sources. The others count as batch axes, `B` is their
product.
"""

import math

from keras import ops

from keras_transformer.layers.masks import as_boolean
from keras_transformer.layers.positions import axes_fit


class AttentionAxes:
    """Brings tensors of inputs of `rank` to `(B, T, ...)` and back. For sequences, rank 3, that is nothing to do.

    Args:
        rank: of the inputs, with batch and width.
        axes: those attended over; negative ones count from the last axis, the width (as in Keras); None: all.
    """

    def __init__(self, rank, axes):
        attended = tuple(range(1, rank - 1)) if axes is None else tuple(a + rank if a < 0 else a for a in axes)
        if not attended or len(set(attended)) < len(attended) or not all(0 < a < rank - 1 for a in attended):
            raise ValueError(
                "`attention_axes` must be different axes of the inputs, neither the batch's (0) nor the last. "
                f"Received: attention_axes={axes} with inputs of rank {rank}"
            )
        self.rank = rank
        self.attended = attended
        self.batch = tuple(a for a in range(rank - 1) if a not in attended)
        self.is_sequence = rank == 3

    def length(self, dims):
        """`T` of inputs of `dims`."""
        return math.prod(dims[a] for a in self.attended)

    def flatten(self, x):
        """`(B, T, ...)` of `x` `(*dims, ...)`."""
        if self.is_sequence:
            return x
        order = self.batch + self.attended
        rest = ops.shape(x)[len(order) :]
        dims = ops.shape(x)[: len(order)]
        x = ops.transpose(x, (*order, *range(len(order), len(x.shape))))
        return ops.reshape(x, (math.prod(dims[a] for a in self.batch), self.length(dims), *rest))

    def unflatten(self, x, dims):
        """The inverse of `flatten`."""
        if self.is_sequence:
            return x
        order = self.batch + self.attended
        x = ops.reshape(x, (*(dims[a] for a in order), *ops.shape(x)[2:]))
        return ops.transpose(x, (*(order.index(a) for a in range(len(order))), *range(len(order), len(x.shape))))

    def scores_shape(self, heads, query_dims, source_dims):
        """Keras's shape of scores: `(*batch axes, H, *T, *S)`."""
        return (
            *(query_dims[a] for a in self.batch),
            heads,
            *(query_dims[a] for a in self.attended),
            *(source_dims[a] for a in self.attended),
        )

    def unflatten_scores(self, scores, query_dims, source_dims):
        """Scores `(B, H, T, S)` in Keras's shape."""
        if self.is_sequence:
            return scores
        return ops.reshape(scores, self.scores_shape(scores.shape[1], query_dims, source_dims))

    def flatten_padding_mask(self, mask, dims, argument):
        """bool `(B, S)` of a mask `dims`, or of one along the batch and the only attended axis."""
        mask = as_boolean(mask, argument)
        if mask is None:
            return None
        received = tuple(mask.shape)
        if len(received) == 2 and len(self.attended) == 1:
            for axis in sorted({*range(1, len(dims))} - {*self.attended}):
                mask = ops.expand_dims(mask, axis)
        fits = len(mask.shape) == len(dims) and axes_fit(mask.shape, dims)
        # One row may stand for a batch, but one place for no sequence: a mask (B, 1) is the wrong mask.
        if not fits or any(mask.shape[a] == 1 and dims[a] != 1 and isinstance(dims[a], int) for a in self.attended):
            raise ValueError(
                f"`{argument}` must have the shape of its input without the last axis, {_text(dims)}. "
                f"Received: shape={received}. Who attends to whom, (T, S), goes into `attention_mask`."
            )
        return mask if self.is_sequence else self.flatten(ops.broadcast_to(mask, dims))

    def flatten_attention_mask(self, mask, heads, query_dims, source_dims):
        """bool, broadcastable to `(B, H, T, S)`, of a mask in Keras's shape.

        That is the shape of the scores, of which the axes before `*T` may be missing, all or all but the batch's.
        """
        mask = as_boolean(mask, "attention_mask")
        if mask is None:
            return None
        received = tuple(mask.shape)
        shape = self.scores_shape(heads, query_dims, source_dims)
        pairs = 2 * len(self.attended)
        is_of_a_rank = pairs <= len(received) <= len(shape)
        if not (is_of_a_rank and axes_fit(received[-pairs:], shape[-pairs:]) and axes_fit(received[:-pairs], shape)):
            allowed = "(T, S), (B, T, S) or (B, heads, T, S)" if self.is_sequence else "(*batch axes, heads, *T, *S)"
            raise ValueError(
                f"`attention_mask` must have the shape {allowed} with (*batch axes, heads) = {_text(shape[:-pairs])} "
                f"and (*T, *S) = {_text(shape[-pairs:])}. "
                f"Received: shape={received}. A padding mask (B, S) goes into `padding_mask` or `value_mask`."
            )
        if len(received) == pairs:
            mask = mask[None]
        while len(mask.shape) < len(shape):
            mask = ops.expand_dims(mask, -pairs - 1)
        if self.is_sequence:
            return mask
        heads, cut = mask.shape[len(self.batch)], len(self.batch) + 1
        mask = ops.broadcast_to(mask, (*shape[: cut - 1], heads, *shape[cut:]))
        batch = math.prod(shape[: cut - 1])
        return ops.reshape(mask, (batch, heads, self.length(query_dims), self.length(source_dims)))


def _text(dims):
    return "(" + ", ".join(str(d) if isinstance(d, int) else "any" for d in dims) + ")"
