"""Scaled dot-product attention (Vaswani et al. 2017, equation 1) for any number of heads.

Shapes: `B` batch, `T` query length, `S` source length, `H` heads, `G` heads of keys and values, `K` width of a head.
"""

import keras
import numpy as np
from keras import ops


def masked_softmax(scores, mask=None):
    """Softmax over the last axis, over the places where `mask` is True; zero elsewhere.

    Computed in float32 or wider. A row with no place left is zero everywhere, and its gradient is finite.
    """
    scores = wide(scores)
    if mask is None:
        return _softmax(scores)
    # Far below any score and, unlike -inf, without NaN in a row that has nothing else.
    lowest = np.finfo(keras.backend.standardize_dtype(scores.dtype)).min / 2
    weights = _softmax(ops.where(mask, scores, ops.cast(lowest, scores.dtype)))
    return ops.where(mask, weights, ops.zeros((), weights.dtype))


def wide(scores):
    """`scores` in float32 or wider. A product that overflowed is a large score, not NaN in its row."""
    if keras.backend.standardize_dtype(scores.dtype) == "float16":
        largest = float(np.finfo("float16").max)
        scores = ops.clip(scores, -largest, largest)
    return ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))


def _softmax(scores):
    # Keras warns of a softmax over one element, which here is a sequence of one token and nothing to warn of.
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


def dot_product_attention(query, key, value, mask=None, bias=None, dropout=None):
    """`softmax(Q K^T + bias) V` for each head; query head `h` uses head `h // (H / G)` of keys and values.

    Equation 1 of Vaswani et al. 2017, with grouped queries (Ainslie et al. 2023, section 2.2) where `G < H`.

    Args:
        query: `(B, T, H, K)`, already divided by `sqrt(K)`.
        key: `(B, S, G, K)`, `G` a divisor of `H`.
        value: `(B, S, G, V)`.
        mask: bool, broadcastable to `(B, H, T, S)`; True = may attend.
        bias: broadcastable to `(B, H, T, S)`, added to the scores before the softmax.
        dropout: a function of the weights, applied before they weigh the values.

    Returns:
        `(B, T, H, V)` and the weights before dropout, `(B, H, T, S)`, both in the dtype of `query`. A query
        with nothing to attend to has weights of zero and a sum of exactly zero.
    """
    query, key, value = (ops.swapaxes(x, 1, 2) for x in (query, key, value))
    output, weights = attend_by_heads(query, key, value, mask, bias, dropout)
    return ops.swapaxes(output, 1, 2), weights


def attend_by_heads(query, key, value, mask=None, bias=None, dropout=None):
    """`dot_product_attention` of tensors whose heads come first: `(B, H, T, K)`, `(B, G, S, K)`, `(B, G, S, V)`."""
    # Both factors of the scores keep K last, so that each is copied row by row. Of the letters "bhtk,bhsk->bhts" Keras
    # makes, on TensorFlow, a product with keys that are transposed element by element; of dots it does not.
    scores = ungrouped(ops.einsum("...tk,...sk->...ts", grouped(query, key), key), query)
    if bias is not None:
        scores = wide(scores)
        scores = scores + ops.cast(wide(bias), scores.dtype)
    weights = ops.cast(masked_softmax(scores, mask), query.dtype)
    dropped = weights if dropout is None else dropout(weights)
    return ungrouped(ops.einsum("...ts,...sk->...tk", grouped(dropped, key), value), query), weights


def grouped(x, key):
    """The queries of heads that share a head of `key` `(B, G, S, K)`, as more queries of one head.

    `(B, H, T, ...)` -> `(B, G, H / G T, ...)`.
    """
    groups = key.shape[1]
    if groups == x.shape[1]:
        return x
    batch, heads, length, width = ops.shape(x)
    return ops.reshape(x, (batch, groups, heads // groups * length, width))


def ungrouped(x, query):
    """The inverse of `grouped`: `(B, H, T, ...)`."""
    if x.shape[1] == query.shape[1]:
        return x
    return ops.reshape(x, (*ops.shape(query)[:3], ops.shape(x)[3]))


def fused_attention(query, key, value, mask=None, is_causal=False, flash_attention=None):
    """`dot_product_attention` without bias, dropout and weights, by the backend's own kernel (JAX, PyTorch).

    Args:
        is_causal: instead of a mask: query `t` attends to keys up to `t`.
        flash_attention: as in `keras.ops.dot_product_attention`.

    Returns:
        `(B, T, H, V)`.
    """
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:
        key, value = ops.repeat(key, repeats, axis=2), ops.repeat(value, repeats, axis=2)
    value_width = value.shape[-1]
    if keras.backend.backend() == "jax" and value_width != query.shape[-1]:  # whose kernel wants one width of all
        width = max(value_width, query.shape[-1])
        query, key, value = (_widen(x, width) for x in (query, key, value))
    sees_any = None
    if mask is not None:
        # The kernels disagree on a query with nothing to attend to: it may see all, and its sum is set to zero.
        sees_any = ops.any(mask, axis=-1, keepdims=True)
        mask = ops.broadcast_to(
            ops.logical_or(mask, ops.logical_not(sees_any)),
            (*ops.shape(query)[:1], mask.shape[1], ops.shape(query)[1], ops.shape(key)[1]),
        )
    output = ops.dot_product_attention(
        query, key, value, mask=mask, scale=1.0, is_causal=is_causal, flash_attention=flash_attention
    )[..., :value_width]
    if sees_any is None:
        return output
    return ops.where(ops.swapaxes(sees_any, 1, 2), output, ops.zeros((), output.dtype))


def _widen(x, width):
    """`x` with zeros after its last axis: they change no product of queries and keys."""
    return ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))
