"""Hides tokens for a masked language model to find (Devlin et al. 2019, section 3.1 and appendix A.1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def mask_tokens(
    token_ids: Any,
    seed: Any,
    mask_token_id: int,
    vocabulary_size: int,
    special_token_ids: Sequence[int],
    rate: float = 0.15,
    max_predictions: int | None = None,
    mask_rate: float = 0.8,
    random_rate: float = 0.1,
) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
    """Chooses `rate` of each row's ordinary tokens, at least one, and changes most of them.

    Of those chosen, `mask_rate` become the mask, `random_rate` any ordinary token, and the rest stay. The result is a
    function of `seed` alone, so that a run which goes on sees the masks that it would have seen: which
    `keras_hub.layers.MaskedLMMaskGenerator`, otherwise much the same, cannot promise.

    Args:
        token_ids: integers `(B, T)`, padded.
        seed: two integers, `(2,)`; another pair gives other masks of the same rows.
        mask_token_id: of the mask.
        vocabulary_size: ids are below it.
        special_token_ids: ids that are neither chosen nor put in: padding, start, end, unknown and the mask.
        rate: share of the ordinary tokens that are chosen.
        max_predictions: `P`, at most so many in a row; None: `rate` of `T`, rounded, which `T` must then be known for.
        mask_rate, random_rate: shares of those chosen.

    Returns:
        `{"token_ids": (B, T), "mask_positions": (B, P)}`, labels `(B, P)` and weights `(B, P)`, as `models.MaskedLM`
        and `fit` take them. Places of a row beyond what was chosen have position 0, label 0 and weight 0.

    Raises:
        ValueError: a rate is not between 0 and 1, the two together are above 1, or no ordinary token is left.

    Example:

    >>> from keras_transformer.text import mask_tokens
    >>> inputs, labels, weights = mask_tokens(
    ...     [[2, 7, 5, 6, 3, 0]], seed=(1, 0), mask_token_id=4, vocabulary_size=9, special_token_ids=range(5), rate=0.34
    ... )
    >>> inputs["mask_positions"].shape, weights.numpy().tolist()
    (TensorShape([1, 2]), [[1.0, 0.0]])
    """
    for name, value in {"rate": rate, "mask_rate": mask_rate, "random_rate": random_rate}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, received {value}.")
    if mask_rate + random_rate > 1:
        raise ValueError(
            f"mask_rate and random_rate must be at most 1 together, received {mask_rate} and {random_rate}."
        )
    ordinary = np.setdiff1d(np.arange(vocabulary_size), list(special_token_ids)).astype("int32")
    if not len(ordinary):
        raise ValueError(
            f"special_token_ids must leave ordinary tokens, received all {vocabulary_size} of the vocabulary."
        )
    ids = tf.cast(token_ids, tf.int32)
    if max_predictions is None:
        if ids.shape[1] is None:
            raise ValueError("max_predictions must be given where the length is not known, received None.")
        max_predictions = max(1, round(rate * ids.shape[1]))
    rows, length = tf.shape(ids)[0], tf.shape(ids)[1]
    of_choice, of_fate, of_token = tf.unstack(tf.random.experimental.stateless_split(seed, 3), num=3)

    is_ordinary = tf.reduce_all(ids[..., tf.newaxis] != tf.constant(list(special_token_ids), tf.int32), axis=-1)
    available = tf.reduce_sum(tf.cast(is_ordinary, tf.int32), axis=1)
    wanted = tf.cast(tf.round(rate * tf.cast(available, tf.float32)), tf.int32)
    wanted = tf.minimum(tf.maximum(wanted, 1), tf.minimum(available, max_predictions))
    chances = tf.where(is_ordinary, tf.random.stateless_uniform([rows, length], of_choice), -1.0)
    padded = tf.pad(chances, [[0, 0], [0, max_predictions]], constant_values=-2.0)  # rows shorter than P
    best = tf.math.top_k(padded, max_predictions).indices
    chosen = tf.range(max_predictions) < wanted[:, tf.newaxis]
    positions = tf.sort(tf.where(chosen, best, length), axis=1)
    positions = tf.where(chosen, positions, 0)

    labels = tf.where(chosen, tf.gather(ids, positions, batch_dims=1), 0)
    fate = tf.random.stateless_uniform([rows, max_predictions], of_fate)
    others = tf.gather(
        ordinary, tf.random.stateless_uniform([rows, max_predictions], of_token, 0, len(ordinary), tf.int32)
    )
    changed = tf.where(
        fate < mask_rate, tf.constant(mask_token_id, tf.int32), tf.where(fate < mask_rate + random_rate, others, labels)
    )
    row_of = tf.broadcast_to(tf.range(rows)[:, tf.newaxis], [rows, max_predictions])
    places = tf.boolean_mask(tf.stack([row_of, positions], axis=-1), chosen)
    masked = tf.tensor_scatter_nd_update(ids, places, tf.boolean_mask(changed, chosen))
    return {"token_ids": masked, "mask_positions": positions}, labels, tf.cast(chosen, tf.float32)
