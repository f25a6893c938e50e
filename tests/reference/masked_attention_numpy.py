"""Attention with masks, added scores and dropout, and its gradient, in NumPy float64, with nothing clever.

The gradient is written from Dao et al. 2022 ("FlashAttention"), appendix B.2, on whole matrices.
Shapes: `B` batch, `T` query length, `S` source length, `H` heads, `G` heads of keys and values, `K`, `V` widths.
"""

import numpy as np


def masked_attention(query, key, value, visible, added=0.0, kept=1.0):
    """`softmax(Q K^T + added) V` over the places where `visible` is True; zero for a query that has none.

    Args:
        query, key, value: `(B, T, H, K)`, `(B, S, G, K)`, `(B, S, G, V)`; query head `h` belongs to the head
            `h // (H / G)` of keys.
        visible, added, kept: broadcastable to `(B, H, T, S)`; what dropout multiplies the weights with is `kept`.

    Returns:
        `(B, T, H, V)` and the weights before dropout, `(B, H, T, S)`.
    """
    query, key, value = (np.asarray(x, "float64") for x in (query, key, value))
    share = query.shape[2] // key.shape[2]
    scores = np.einsum("bthk,bshk->bhts", query, key.repeat(share, axis=2)) + added
    visible = np.broadcast_to(visible, scores.shape)
    weights = np.zeros(scores.shape)
    for b, h, t in np.ndindex(scores.shape[:3]):
        places = visible[b, h, t]
        if places.any():
            exponentials = np.exp(scores[b, h, t, places] - scores[b, h, t, places].max())
            weights[b, h, t, places] = exponentials / exponentials.sum()
    return np.einsum("bhts,bshk->bthk", weights * kept, value.repeat(share, axis=2)), weights


def masked_attention_gradients(query, key, value, output_gradient, visible, added=0.0, kept=1.0):
    """Gradients of `sum(output * output_gradient)` by query, key, value and `added` `(B, H, T, S)`."""
    query, key, value, output_gradient = (np.asarray(x, "float64") for x in (query, key, value, output_gradient))
    groups = key.shape[2]
    share = query.shape[2] // groups
    _, weights = masked_attention(query, key, value, visible, added, kept)
    by_weights = np.einsum("bthv,bshv->bhts", output_gradient, value.repeat(share, axis=2)) * kept
    by_scores = weights * (by_weights - (weights * by_weights).sum(axis=-1, keepdims=True))
    by_query = np.einsum("bhts,bshk->bthk", by_scores, key.repeat(share, axis=2))
    by_key = np.einsum("bhts,bthk->bshk", by_scores, query)
    by_value = np.einsum("bhts,bthv->bshv", weights * kept, output_gradient)
    by_key, by_value = (x.reshape(*x.shape[:2], groups, share, -1).sum(axis=3) for x in (by_key, by_value))
    return by_query, by_key, by_value, by_scores
