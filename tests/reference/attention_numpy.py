"""The Transformer's layers in NumPy float64, written from Vaswani et al. 2017, with nothing clever.

Lists of weights are in the order of the layers' `get_weights`. Masks: True = may attend.
Shapes: `B` batch, `T` query length, `S` source length, `H` heads, `D` model width, `K` width of a head.
"""

import numpy as np


def sinusoids(positions, hidden_dim, max_wavelength=10000.0):
    """Section 3.5, channel by channel: `(..., D)` for positions `(...)`."""
    positions = np.asarray(positions, "float64")
    encoding = np.empty((*positions.shape, hidden_dim))
    for channel in range(hidden_dim):
        pair = channel // 2
        angle = positions / max_wavelength ** (2 * pair / hidden_dim)
        encoding[..., channel] = np.sin(angle) if channel % 2 == 0 else np.cos(angle)
    return encoding


def attention(query, key, value, may_attend):
    """Equation 1 for one sentence and one head, query by query; zero where there is nothing to attend to.

    Args:
        query, key, value: `(T, K)`, `(S, K)`, `(S, V)`.
        may_attend: bool `(T, S)`.

    Returns:
        `(T, V)` and the weights `(T, S)`.
    """
    weights = np.zeros((len(query), len(key)))
    for t, q in enumerate(query):
        places = np.flatnonzero(may_attend[t])
        if len(places):
            scores = key[places] @ q / np.sqrt(len(q))
            exponentials = np.exp(scores - scores.max())
            weights[t, places] = exponentials / exponentials.sum()
    return weights @ value, weights


def multi_head_attention(query, value, weights, key=None, mask=None):
    """Section 3.2.2, sentence by sentence and head by head.

    Args:
        query, value, key: `(B, T, D)`, `(B, S, D)`; without a key it is the value.
        weights: kernels and biases to query, key and value `(D, H, K)`, `(H, K)`, and output `(H, K, D)`, `(D,)`.
        mask: bool, broadcastable to `(B, H, T, S)`.

    Returns:
        `(B, T, D)` and the weights of attention `(B, H, T, S)`.
    """
    query, value = np.asarray(query, "float64"), np.asarray(value, "float64")
    key = value if key is None else np.asarray(key, "float64")
    w_q, b_q, w_k, b_k, w_v, b_v, w_o, b_o = (np.asarray(w, "float64") for w in weights)
    batch, heads = len(query), w_q.shape[1]
    shape = (batch, heads, query.shape[1], value.shape[1])
    mask = np.broadcast_to(True if mask is None else mask, shape)
    output = np.tile(b_o, (batch, query.shape[1], 1))
    scores = np.empty(shape)
    for b in range(batch):
        for h in range(heads):
            head, scores[b, h] = attention(
                query[b] @ w_q[:, h] + b_q[h],
                key[b] @ w_k[:, h] + b_k[h],
                value[b] @ w_v[:, h] + b_v[h],
                mask[b, h],
            )
            output[b] += head @ w_o[h]
    return output, scores


def layer_norm(x, gain, bias, epsilon=1e-5):
    """Ba et al. 2016, equation 4, with `epsilon` beside the variance."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * gain + bias


def feed_forward(x, w1, b1, w2, b2):
    """Equation 2."""
    return np.maximum(x @ w1 + b1, 0) @ w2 + b2


def _residual(x, sublayer, norm, pre_norm):
    return x + sublayer(layer_norm(x, *norm)) if pre_norm else layer_norm(x + sublayer(x), *norm)


def encoder_block(x, weights, mask=None, pre_norm=False):
    """Section 3.1: self-attention, then feed-forward, each in `LayerNorm(x + Sublayer(x))`.

    Args:
        x: `(B, T, D)`.
        weights: 8 of attention, 2 of its norm, 2 of the feed-forward network's norm, 4 of that network.
        mask: bool, broadcastable to `(B, H, T, T)`.
        pre_norm: `x + Sublayer(LayerNorm(x))` instead.
    """
    x, weights = np.asarray(x, "float64"), [np.asarray(w, "float64") for w in weights]
    x = _residual(x, lambda y: multi_head_attention(y, y, weights[:8], mask=mask)[0], weights[8:10], pre_norm)
    return _residual(x, lambda y: feed_forward(y, *weights[12:]), weights[10:12], pre_norm)


def decoder_block(x, memory, weights, mask=None, memory_mask=None, pre_norm=False):
    """Section 3.1: causal self-attention, attention to `memory`, feed-forward.

    Args:
        x, memory: `(B, T, D)`, `(B, S, D)`.
        weights: 8 and 2 of self-attention and its norm, 8 and 2 of attention to `memory`, 4 and 2 of the
            feed-forward network.
        mask, memory_mask: bool, broadcastable to `(B, H, T, T)` and `(B, H, T, S)`.
        pre_norm: as in `encoder_block`.
    """
    x, weights = np.asarray(x, "float64"), [np.asarray(w, "float64") for w in weights]
    causal = np.tri(x.shape[1], dtype=bool)
    mask = causal if mask is None else causal & mask
    x = _residual(x, lambda y: multi_head_attention(y, y, weights[:8], mask=mask)[0], weights[8:10], pre_norm)
    x = _residual(
        x,
        lambda y: multi_head_attention(y, memory, weights[10:18], mask=memory_mask)[0],
        weights[18:20],
        pre_norm,
    )
    return _residual(x, lambda y: feed_forward(y, *weights[20:24]), weights[24:], pre_norm)
