"""Scores that fall with distance (Press et al. 2022)."""

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.arguments import check_positive_numbers
from keras_transformer.layers.position_scores import PositionScores
from keras_transformer.layers.positions import relative_positions


def alibi_slopes(num_heads, alibi_bias_max=8):
    """How much a head's scores fall with each position of distance: NumPy float64 `(H,)`.

    `2^(-m/H), 2^(-2m/H), ..., 2^-m` with `m` of `alibi_bias_max` (Press et al. 2022, section 3) if `H` is a power of
    two. If not, those of the power of two below it, followed by every other one of the power of two above it, which is
    what the authors' code does (`get_slopes`, `ofirpress/attention_with_linear_biases`).
    """
    below = 2 ** (num_heads.bit_length() - 1)
    slopes = 2.0 ** (-alibi_bias_max * np.arange(1, below + 1) / below)
    between = 2.0 ** (-alibi_bias_max * np.arange(1, 2 * below + 1, 2) / (2 * below))
    return np.concatenate([slopes, between[: num_heads - below]])


@keras.saving.register_keras_serializable(package="keras_transformer")
class AlibiBias(PositionScores):
    """Attention with linear biases: `-slope_h |i - j|` is added to the scores (Press et al. 2022, section 3).

    Differs from the paper: distance counts to both sides, so the layer serves encoders too; under a causal mask that is
    the paper's bias. It is also that of `keras_hub.layers.AlibiBias` but for a constant in each query's scores, to
    which the softmax is blind: KerasHub counts from the last key in place of the query's own position, which is right
    only if queries see no keys after themselves.

    Args:
        num_heads: `H`; None means as many as the query has.
        alibi_bias_max: `m` of the slopes, see `alibi_slopes`.

    Call arguments:
        query: `(B, T, H, K)`; only its shape and dtype matter.
        query_positions, key_positions: integers `(T,)`, `(S,)` or `(1|B, T)`, `(1|B, S)`.

    Returns:
        float32 (or wider) `(1|B, H, T, S)`, as exact as float32 is: positions are compared as integers.

    Raises:
        ValueError: if the query has other than `num_heads` heads, if positions are no integers.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import AlibiBias
    >>> bias = AlibiBias(num_heads=2)(np.zeros((1, 1, 2, 4)), np.array([1]), np.arange(4))
    >>> np.asarray(bias)[0, :, 0]
    array([[-0.0625    , -0.        , -0.0625    , -0.125     ],
           [-0.00390625, -0.        , -0.00390625, -0.0078125 ]], dtype=float32)
    """

    def __init__(self, num_heads=None, alibi_bias_max=8, **kwargs):
        check_positive_numbers(alibi_bias_max=alibi_bias_max)
        super().__init__(num_heads=num_heads, **kwargs)
        self.alibi_bias_max = alibi_bias_max

    def compute_scores(self, query, query_positions, key_positions):
        heads = query.shape[2]
        if self.num_heads is not None:
            self.check_heads(heads, self.num_heads)
        dtype = keras.backend.result_type(query.dtype, "float32")
        slopes = ops.convert_to_tensor(-alibi_slopes(heads, self.alibi_bias_max)[:, None, None], dtype)
        distance = ops.abs(relative_positions(query_positions, key_positions))
        return slopes * ops.cast(distance, dtype)[:, None]

    def get_config(self):
        return {**super().get_config(), "alibi_bias_max": self.alibi_bias_max}
