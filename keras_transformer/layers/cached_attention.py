"""Attention to what a cache holds, read as far as it is written.

Shapes: `B` batch, `T` query length, `S` room in the cache, `H` heads, `G` heads of keys and values, `K` width of a
head's queries and keys, `V` of its values.

A cache has its full length from the start, so that a compiled loop can carry it. Most of it is empty most of the time:
to attend to all of it at each step would cost a sentence of 30 tokens as much as one of `S`.
"""

import numpy as np
from keras import ops

from keras_transformer.layers.dot_product import grouped, ungrouped, wide

BLOCK = 64
"""Keys that are read at a time."""


def cached_attention(query, key, value, visibility, position, written):
    """`softmax(Q K^T) V` over the first `written` keys, in blocks, by an online softmax (see `linear_memory`).

    On JAX it has no gradient in reverse, as any loop whose end is not known beforehand.

    Args:
        query: `(B, T, H, K)`, scaled.
        key: `(B, G, S, K)`; `G` divides `H`.
        value: `(B, G, S, V)`.
        visibility: a `Visibility` of queries and of all `S` keys.
        position: None or a part with `scores`.
        written: how many keys there are, a scalar tensor.

    Returns:
        `(B, T, H, V)` in the dtype of `query`. A query with nothing to attend to gets exactly zero.
    """
    room, heads_first = ops.shape(key)[2], ops.swapaxes(query, 1, 2)
    size = min(BLOCK, room) if isinstance(room, int) else ops.minimum(BLOCK, room)
    many_queries = grouped(heads_first, key)
    lowest = float(np.finfo("float32").min) / 2

    def more(block, *_):
        return block * size < written

    def read(block, largest, total, weighted):
        first = block * size
        start = ops.minimum(first, room - size)  # the last block begins within the one before it
        keys, values = (_part(x, start, size) for x in (key, value))
        seen = visibility.of_keys(start, size)
        mask = (start + ops.arange(size, dtype="int32") >= first)[None, None, None, :]
        said = seen.mask()
        mask = mask if said is None else ops.logical_and(mask, said)
        scores = wide(ungrouped(ops.einsum("...tk,...sk->...ts", many_queries, keys), heads_first))
        if position is not None:
            bias = position.scores(query, seen.query_positions, seen.key_positions)
            scores = scores + ops.cast(wide(bias), scores.dtype)
        scores = ops.where(mask, scores, ops.cast(lowest, scores.dtype))
        new_largest = ops.maximum(largest, ops.max(scores, axis=-1, keepdims=True))
        weights = ops.where(mask, ops.exp(scores - new_largest), ops.zeros((), scores.dtype))
        kept = ops.exp(largest - new_largest)
        total = total * kept + ops.sum(weights, axis=-1, keepdims=True)
        weights = grouped(ops.cast(weights, query.dtype), key)
        sums = ungrouped(ops.einsum("...ts,...sk->...tk", weights, values), heads_first)
        return block + 1, new_largest, total, weighted * kept + ops.cast(sums, weighted.dtype)

    batch, heads, length, _ = ops.shape(heads_first)
    blank = wide(ops.zeros((batch, heads, length, 1), query.dtype))
    _, _, total, weighted = ops.while_loop(
        more,
        read,
        (
            ops.zeros((), "int32"),
            blank + lowest,
            blank,
            wide(ops.zeros((batch, heads, length, value.shape[-1]), query.dtype)),
        ),
    )
    found = ops.where(total > 0, weighted / ops.where(total > 0, total, ops.ones((), total.dtype)), 0)
    return ops.swapaxes(ops.cast(found, query.dtype), 1, 2)


def _part(x, start, size):
    batch, heads, _, width = ops.shape(x)
    return ops.slice(x, (0, 0, start, 0), (batch, heads, size, width))
