"""Parts of blocks in NumPy float64, written from their papers. Lists of weights are in the order of `get_weights`."""

import math

import attention_numpy
import numpy as np

ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.where(x > 0, x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    # Hendrycks and Gimpel 2016: `x P(X <= x)` of a standard normal X, and its approximation.
    "gelu": lambda x: x * np.vectorize(lambda u: (1 + math.erf(u / math.sqrt(2))) / 2)(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def gated_feed_forward(x, weights, activation):
    """Shazeer 2020, equations 5 and 6: `(activation(x W + b) * (x V + c)) W2 + b2`.

    Args:
        x: `(..., D)`.
        weights: `W, b, V, c, W2, b2`; or `W, V, W2`.
    """
    w, b, v, c, w2, b2 = weights if len(weights) == 6 else (weights[0], 0, weights[1], 0, weights[2], 0)
    return (ACTIVATIONS[activation](x @ w + b) * (x @ v + c)) @ w2 + b2


def rms_norm(x, gain, epsilon=1e-6):
    """Zhang and Sennrich 2019, equation 4, with `epsilon` beside the mean square."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * gain


def attention_without_biases(x, memory, weights, mask):
    w_q, w_k, w_v, w_o = weights
    heads, values = np.zeros(w_q.shape[1:]), np.zeros(w_v.shape[1:])
    weights = [w_q, heads, w_k, heads, w_v, values, w_o, np.zeros(w_o.shape[-1])]
    return attention_numpy.multi_head_attention(x, memory, weights, mask=mask)[0]


def t5_decoder_block(x, memory, weights, mask, memory_mask):
    """Raffel et al. 2020, section 2.1, as of T5 v1.1, without its position bias: nothing here has a bias.

    Args:
        x, memory: `(B, T, D)`, `(B, S, D)`.
        weights: 4 of self-attention and a gain, the same of attention to `memory`, 3 of the feed-forward network
            and a gain.
        mask, memory_mask: bool, broadcastable to `(B, H, T, T)` and `(B, H, T, S)`.
    """
    y = rms_norm(x, weights[4])
    x = x + attention_without_biases(y, y, weights[:4], mask)
    x = x + attention_without_biases(rms_norm(x, weights[9]), memory, weights[5:9], memory_mask)
    return x + gated_feed_forward(rms_norm(x, weights[13]), weights[10:13], "gelu_tanh")


def sandwich_encoder_block(x, weights, scales=(1, 1)):
    """Ding et al. 2021, section 2.4: a normalisation before each sublayer and one after it; then Touvron et al. 2021.

    Args:
        x: `(B, T, D)`.
        weights: 8 of attention, 2 and 2 of its normalisations, 2 and 2 of the feed-forward network's, 4 of that.
        scales: of each sublayer's output, `(D,)`.
    """

    def norm(x, index):
        return attention_numpy.layer_norm(x, *weights[index : index + 2])

    y = norm(x, 8)
    x = x + scales[0] * norm(attention_numpy.multi_head_attention(y, y, weights[:8])[0], 10)
    return x + scales[1] * norm(attention_numpy.feed_forward(norm(x, 12), *weights[16:]), 14)
