"""Attention whose memory is linear in the length of the sequences, on TensorFlow.

Shapes: `B` batch, `T` query length, `S` source length, `H` heads, `G` heads of keys and values, `R = H / G`,
`K` width of a head's queries and keys, `V` of its values; `Q` and `C` are the lengths of a block of queries
and of keys.

The scores of a block of queries against a block of keys are computed, used and forgotten, block after block. What a
softmax needs of the blocks before (the greatest score, the sum of exponentials) is carried along and corrected: the
online softmax of Milakov & Gimelshein 2018 ("Online normalizer calculation for softmax", algorithm 3), in attention as
in Rabe & Staats 2021 ("Self-attention Does Not Need O(n^2) Memory") and Dao et al. 2022 ("FlashAttention", algorithm
1). The gradient keeps the logarithm of each query's sum and computes the weights anew (ibid., algorithm 4; the one
number a query, and the loop over queries outside, are those of Dao 2023, "FlashAttention-2", section 3.1).
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from keras_transformer.layers.dropout import is_dropped, kept_scale

# A dozen operations on each index: compiled, they are one pass over a block, in a graph that is not compiled too.
_is_dropped = tf.function(is_dropped, jit_compile=True)

_NO_SECOND_GRADIENT = (
    "linear_memory_attention has no second-order gradients: its gradient recomputes the weights in loops that keep "
    "nothing. Use the plain path (`flash_attention=False` in MultiHeadAttention)."
)


def linear_memory_attention(query, key, value, visibility, position=None, dropout=None, query_block=256, key_block=512):
    """`softmax(Q K^T) V` as `dot_product_attention` computes it, without a tensor of size `T x S` at any time.

    Blocks of keys in which a block of queries sees nothing are left out: causal attention takes half the time and a
    sliding window, but for one look at the mask of each block, a time linear in `T`. Memory: the inputs, the output
    and their gradients, a number for each query and head, and a few blocks of scores `(H, Q, C)` of one row of the
    batch, however large the batch is.

    Statistics and sums are float32 or wider; the result is cast once. There are no second-order gradients: asking
    for them raises a `LookupError`.

    Args:
        query: `(B, T, H, K)`, scaled.
        key: `(B, S, G, K)`; `G` divides `H`, and `H / G` neighbouring query heads share a head of keys.
        value: `(B, S, G, V)`.
        visibility: a `Visibility`.
        position: None or a part whose `scores(query, query_positions, key_positions)` are added to the products. If
            `visibility` has no positions, they count from 0. Unless `Q` divides `T` and `C` divides `S`, it is
            also asked for (finite) scores of positions after the last, which are not used.
        dropout: None or `(rate, seed)`, seed two int32; drops the weights that `Dropout` drops with this seed from a
            tensor `(B, H, T, S)`.
        query_block, key_block: the longest `Q` and `C`.

    Returns:
        `(B, T, H, V)` in the dtype of `query`. A query with nothing to attend to gets exactly zero.

    Raises:
        ValueError: if the heads of keys do not divide those of the queries.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers.linear_memory import linear_memory_attention
    >>> from keras_transformer.layers.masks import Visibility, causal
    >>> x = np.random.default_rng(1).normal(size=(1, 3000, 2, 4)).astype("float32")
    >>> positions = np.arange(3000)
    >>> visibility = Visibility(query_positions=positions, key_positions=positions, patterns=(causal,))
    >>> output = linear_memory_attention(x / 2, x, x, visibility)
    >>> bool(np.allclose(output[:, 0], x[:, 0]))  # the first token sees itself
    True
    """
    query, key, value = (tf.convert_to_tensor(x) for x in (query, key, value))
    plan = _plan(query, key, visibility, position, dropout, query_block, key_block)
    seen = _Seen.of(plan)

    @tf.custom_gradient
    def attend(query, key, value):
        output, log_sums = _forward(plan, seen, query, key, value)

        def gradient(output_gradient, variables=()):
            found = _backward(plan, seen, query, key, value, output, log_sums, output_gradient, variables)
            found = [tf.raw_ops.PreventGradient(input=x, message=_NO_SECOND_GRADIENT) for x in found]
            return (found[:3], found[3:]) if variables else found

        return output, gradient

    # Cast here, for the gradient needs the output unrounded: what it subtracts from each row is a sum over it.
    return tf.cast(attend(query, key, value), query.dtype)


class _Plan(NamedTuple):
    """How the work is cut up, who sees whom, and what else the loops of both directions share."""

    batch: Any
    """`B`; it and the lengths are integers where they are known, else tensors."""
    queries: Any
    """`T`."""
    keys: Any
    """`S`."""
    heads: int
    groups: int
    query_block: int
    key_block: int
    visibility: Any
    """Padded to whole blocks."""
    scores: Any
    """None or the function of the position part."""
    dropout: Any
    dtype: Any
    """Of statistics and sums."""

    @property
    def query_blocks(self):
        """How many there are in a row of the batch."""
        return -(-self.queries // self.query_block)

    @property
    def key_blocks(self):
        return -(-self.keys // self.key_block)

    @property
    def kept_scale(self):
        return 1.0 if self.dropout is None else kept_scale(self.dropout[0])

    def block(self, row, i, j):
        """Who sees whom in blocks `i` of the queries and `j` of the keys: a `Visibility` and its mask `(1|H, Q, C)`."""
        block = self.visibility.block(row, i * self.query_block, j * self.key_block, self.query_block, self.key_block)
        mask = block.mask()
        return block, None if mask is None else mask[0]

    def dropped(self, row, i, j):
        """Where dropout sets the weights of a block to zero, `(H, Q, C)`; None without dropout."""
        if self.dropout is None:
            return None
        head = row * self.heads + tf.range(self.heads)
        query = i * self.query_block + tf.range(self.query_block)
        key = j * self.key_block + tf.range(self.key_block)
        # The index in the whole (B, H, T, S), in int32 that wraps around.
        indices = (head[:, None] * self.queries + query)[..., None] * self.keys + key
        rate, seed = self.dropout
        return _is_dropped(indices, rate, tf.cast(seed, tf.int32))

    def added(self, query, block):
        """The scores of positions, `(H, Q, C)`, for a block of queries `(H, Q, K)`; None without a part."""
        if self.scores is None:
            return None
        query = tf.transpose(query, (1, 0, 2))[None]
        added = tf.cast(self.scores(query, block.query_positions, block.key_positions), self.dtype)
        added = tf.reshape(added, added.shape[-3:])  # of the one row, if there is an axis of rows
        return tf.broadcast_to(added, (self.heads, self.query_block, self.key_block))

    def products(self, query, key):
        """`(H, Q, K)`, `(G, C, K)` -> `(H, Q, C)`."""
        return self.by_head(tf.matmul(self.by_group(query), key, transpose_b=True))

    def by_group(self, x):
        """The queries of heads that share a key, as more queries of one head: `(H, Q, K)` -> `(G, R Q, K)`."""
        return tf.reshape(x, (self.groups, -1, x.shape[-1]))

    def by_head(self, x):
        """`(G, R Q, K)` -> `(H, Q, K)`."""
        return tf.reshape(x, (self.heads, self.query_block, x.shape[-1]))


def _plan(query, key, visibility, position, dropout, query_block, key_block):
    (batch, queries, heads, width), (_, keys, groups, _) = ops.shape(query), ops.shape(key)
    if heads % groups:
        raise ValueError(
            f"The heads of `key` must divide those of `query`, {heads}. Received: {groups} heads of keys, "
            f"key.shape={tuple(key.shape)}. Project to a divisor of {heads} heads, as `num_key_value_heads` does."
        )
    query_block, key_block = _even_block(queries, query_block), _even_block(keys, key_block)
    query_positions, key_positions = (
        tf.range(length) if positions is None else tf.cast(positions, tf.int32)
        for length, positions in ((queries, visibility.query_positions), (keys, visibility.key_positions))
    )
    visibility = visibility._replace(query_positions=query_positions, key_positions=key_positions)
    scores = None
    if position is not None:
        # Traced once, here: in the gradient, variables would no longer be cast as they are inside a layer's call.
        scores = tf.function(position.scores, autograph=False).get_concrete_function(
            tf.TensorSpec((1, query_block, heads, width), query.dtype),
            _positions_spec(query_positions, query_block),
            _positions_spec(key_positions, key_block),
        )
    return _Plan(
        batch=batch,
        queries=queries,
        keys=keys,
        heads=heads,
        groups=groups,
        query_block=query_block,
        key_block=key_block,
        visibility=visibility.padded(queries, keys, query_block, key_block),
        scores=scores,
        dropout=dropout,
        dtype=tf.float64 if query.dtype == tf.float64 else tf.float32,
    )


def _even_block(length, longest):
    """The length of a block: at most `longest`, and such that all blocks are as nearly full as can be."""
    if not isinstance(length, int) or length == 0:
        return longest
    return -(-length // -(-length // longest))


def _positions_spec(positions, block):
    return tf.TensorSpec((block,) if len(positions.shape) == 1 else (1, block), positions.dtype)


class _Seen(NamedTuple):
    """The blocks of keys in which a block of queries sees anything: the others are never visited."""

    indices: Any
    """`(B ceil(T / Q), ceil(S / C))` for each block of queries, those first that it sees; None: it sees all."""
    counts: Any
    """`(B ceil(T / Q),)` how many it sees, or the number of all."""

    @classmethod
    def of(cls, plan):
        if plan.block(0, 0, 0)[1] is None:
            return cls(None, plan.key_blocks)
        shape = (plan.batch * plan.query_blocks, plan.key_blocks)

        def look(n, seen):
            row, i, j = n // shape[1] // plan.query_blocks, n // shape[1] % plan.query_blocks, n % shape[1]
            return n + 1, seen.write(n, tf.reduce_any(plan.block(row, i, j)[1]))

        _, seen = _loop(shape[0] * shape[1], look, tf.TensorArray(tf.bool, shape[0] * shape[1], element_shape=()))
        seen = tf.cast(tf.reshape(seen.stack(), shape), tf.int32)
        return cls(tf.argsort(seen, direction="DESCENDING", stable=True), tf.reduce_sum(seen, axis=1))

    def block(self, n, nth):
        """Which block of keys is the `nth` that block `n` of the queries sees."""
        return nth if self.indices is None else self.indices[n, nth]

    def blocks(self, n):
        """How many it sees."""
        return self.counts if self.indices is None else self.counts[n]


def _forward(plan, seen, query, key, value):
    """The output `(B, T, H, V)`, and the logarithm of each query's sum of exponentials, `(B ceil(T / Q), H, Q, 1)`."""
    width = value.shape[3]
    query_blocks, key_blocks = _split(query, plan.query_block), _split(key, plan.key_block)
    value_blocks = _split(value, plan.key_block)

    def of_query_block(n, outputs, log_sums):
        row, i = n // plan.query_blocks, n % plan.query_blocks
        original = query_blocks[n]
        queries = tf.cast(original, plan.dtype)

        def of_key_block(nth, greatest, total, weighted):
            j = seen.block(n, nth)
            block, mask = plan.block(row, i, j)
            keys, values = (tf.cast(x[row * plan.key_blocks + j], plan.dtype) for x in (key_blocks, value_blocks))
            scores = _hide(mask, _add(plan.products(queries, keys), plan.added(original, block)))
            new = tf.maximum(greatest, tf.reduce_max(scores, axis=-1, keepdims=True))
            weights, correction = tf.exp(scores - new), tf.exp(greatest - new)
            kept = _zero_where(plan.dropped(row, i, j), weights)
            total = total * correction + tf.reduce_sum(weights, axis=-1, keepdims=True)
            weighted = weighted * correction + plan.by_head(tf.matmul(plan.by_group(kept), values))
            return nth + 1, new, total, weighted

        _, greatest, total, weighted = _loop(
            seen.blocks(n),
            of_key_block,
            # Finite: -inf less this is -inf, and not NaN, in a row that sees nothing.
            tf.fill((*queries.shape[:2], 1), tf.constant(plan.dtype.min / 2, plan.dtype)),
            tf.zeros((*queries.shape[:2], 1), plan.dtype),
            tf.zeros((*queries.shape[:2], width), plan.dtype),
        )
        empty = total == 0
        output = weighted * (plan.kept_scale / tf.where(empty, tf.ones_like(total), total))
        # exp of anything less inf is 0: the weights of a query that sees nothing.
        log_sum = tf.where(empty, tf.constant(np.inf, plan.dtype), greatest + tf.math.log(total))
        return n + 1, outputs.write(n, output), log_sums.write(n, log_sum)

    count = plan.batch * plan.query_blocks
    _, outputs, log_sums = _loop(
        count,
        of_query_block,
        tf.TensorArray(plan.dtype, count, element_shape=(plan.heads, plan.query_block, width)),
        tf.TensorArray(plan.dtype, count, element_shape=(plan.heads, plan.query_block, 1)),
    )
    return _join(outputs.stack(), plan.batch, plan.queries), log_sums.stack()


def _backward(plan, seen, query, key, value, output, log_sums, output_gradient, variables):
    """Gradients of query, key, value and `variables`, given what `_forward` returned and the output's gradient.

    With the weights `P` and what dropout leaves of them `P'`: `dV = P'^T dO`, `dP' = dO V^T`, and the softmax's
    `dS = P (dP - rowsum(P dP))`, where the sum is that of `dO O` (Dao et al. 2022, appendix B.2).
    """
    query_blocks, key_blocks = _split(query, plan.query_block), _split(key, plan.key_block)
    value_blocks = _split(value, plan.key_block)
    output_blocks, gradient_blocks = (_split(x, plan.query_block) for x in (output, output_gradient))

    def of_query_block(n, query_gradients, key_gradients, value_gradients, *variable_gradients):
        row, i = n // plan.query_blocks, n % plan.query_blocks
        original = query_blocks[n]
        queries, gradients, log_sum = tf.cast(original, plan.dtype), gradient_blocks[n], log_sums[n]
        along = tf.reduce_sum(output_blocks[n] * gradients, axis=-1, keepdims=True)
        gradients *= plan.kept_scale
        # Products with a transposed weight matrix take XLA up to three times as long as those with this small one.
        queries_t, gradients_t = (tf.linalg.matrix_transpose(plan.by_group(x)) for x in (queries, gradients))

        def of_key_block(nth, query_gradient, key_gradients, value_gradients, *variable_gradients):
            j = seen.block(n, nth)
            at = row * plan.key_blocks + j
            block, mask = plan.block(row, i, j)
            keys, values = (tf.cast(x[at], plan.dtype) for x in (key_blocks, value_blocks))
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([original, *variables])
                added = plan.added(original, block)
            weights = tf.exp(_hide(mask, _add(plan.products(queries, keys), added)) - log_sum)
            dropped = plan.dropped(row, i, j)
            kept = plan.by_group(_zero_where(dropped, weights))
            change = weights * (_zero_where(dropped, plan.products(gradients, values)) - along)
            by_group = plan.by_group(change)
            query_gradient += plan.by_head(tf.matmul(by_group, keys))
            key_gradients = _add_at(key_gradients, at, tf.matmul(queries_t, by_group))
            value_gradients = _add_at(value_gradients, at, tf.matmul(gradients_t, kept))
            if added is not None:
                of_query, *of_variables = tape.gradient(
                    added, [original, *variables], output_gradients=change, unconnected_gradients="zero"
                )
                query_gradient += tf.cast(of_query, plan.dtype)
                variable_gradients = tuple(
                    x + tf.convert_to_tensor(y) for x, y in zip(variable_gradients, of_variables)
                )
            return nth + 1, query_gradient, key_gradients, value_gradients, *variable_gradients

        _, query_gradient, *rest = _loop(
            seen.blocks(n),
            of_key_block,
            tf.zeros_like(queries),
            key_gradients,
            value_gradients,
            *variable_gradients,
        )
        return n + 1, query_gradients.write(n, tf.cast(query_gradient, query.dtype)), *rest

    count, key_count = plan.batch * plan.query_blocks, plan.batch * plan.key_blocks
    _, query_gradients, *sums = _loop(
        count,
        of_query_block,
        tf.TensorArray(query.dtype, count, element_shape=query_blocks.shape[1:]),
        *(_zeros_array((key_count, plan.groups, x.shape[3], plan.key_block), plan.dtype) for x in (key, value)),
        *(tf.zeros(x.shape, x.dtype) for x in variables),
    )
    key_gradient, value_gradient = (
        tf.cast(_join(tf.linalg.matrix_transpose(sum.stack()), plan.batch, plan.keys), x.dtype)
        for sum, x in zip(sums, (key, value))
    )
    return [_join(query_gradients.stack(), plan.batch, plan.queries), key_gradient, value_gradient, *sums[2:]]


def _loop(count, body, *carried):
    # One iteration at a time: each uses all cores, and more would each hold blocks of scores.
    return tf.while_loop(lambda n, *_: n < count, body, (tf.constant(0), *carried), parallel_iterations=1)


def _add(scores, added):
    return scores if added is None else scores + added


def _hide(mask, scores):
    """`scores` with -inf where `mask` is False."""
    if mask is None:
        return scores
    hidden = tf.constant(-np.inf, scores.dtype)
    return tf.cond(tf.reduce_all(mask), lambda: scores, lambda: tf.where(mask, scores, hidden))


def _zero_where(dropped, weights):
    return weights if dropped is None else tf.where(dropped, tf.zeros((), weights.dtype), weights)


def _zeros_array(shape, dtype):
    # Each element is written many times: sums grow in it.
    array = tf.TensorArray(dtype, shape[0], element_shape=shape[1:], clear_after_read=False)
    return array.unstack(tf.zeros(shape, dtype))


def _add_at(array, index, x):
    return array.write(index, array.read(index) + x)


def _split(x, block):
    """`(B, L, N, width)` -> `(B ceil(L / block), N, block, width)`, the last block of each row filled with zeros."""
    _, length, heads, width = ops.shape(x)
    blocks = -(-length // block)
    x = tf.pad(x, ((0, 0), (0, blocks * block - length), (0, 0), (0, 0)))
    return tf.transpose(tf.reshape(x, (-1, block, heads, width)), (0, 2, 1, 3))


def _join(x, batch, length):
    """The inverse of `_split`."""
    heads, width = x.shape[1], x.shape[3]
    x = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (batch, -1, heads, width))
    return x[:, :length]
