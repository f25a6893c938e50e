"""Sinusoidal positions (Vaswani et al. 2017, section 3.5)."""

import keras
import numpy as np
from keras import ops

# A position is written in base 128 with three digits; the angle of a position is the sum of the angles of its digits,
# and each digit's sine and cosine are tabulated in float64. Angles in float32 would err by 5e-4 at position 8,191.
_BASE = 128
_DIGITS = 3
MAX_POSITION = _BASE**_DIGITS - 1


def sinusoids(positions, hidden_dim, max_wavelength=10000.0):
    """The encoding of integer `positions` of shape `(..., T)`: float32 of shape `(..., T, hidden_dim)`.

    `PE(p, 2i) = sin(p / w^(2i/D))`, `PE(p, 2i+1) = cos(p / w^(2i/D))`, `w` the longest wavelength over 2 pi
    (Vaswani et al. 2017, section 3.5, unnumbered equations). It differs from float64 by less than 1e-6 up to
    position 2,097,151.
    """
    channel = np.arange(hidden_dim)
    frequency = np.power(float(max_wavelength), -2.0 * (channel // 2) / hidden_dim)
    phase = (channel % 2) * (np.pi / 2)  # cos x = sin(x + pi/2), so that no two halves need be interleaved
    positions = ops.cast(positions, "int32")
    sine = cosine = None
    for digit in range(_DIGITS):
        scale = _BASE**digit
        angle = np.arange(_BASE)[:, None] * scale * frequency + (phase if digit == 0 else 0.0)
        index = (positions // scale) % _BASE
        s = ops.take(ops.convert_to_tensor(np.sin(angle), "float32"), index, axis=0)
        c = ops.take(ops.convert_to_tensor(np.cos(angle), "float32"), index, axis=0)
        # sin(a + b) and cos(a + b)
        sine, cosine = (s, c) if sine is None else (sine * c + cosine * s, cosine * c - sine * s)
    return sine


@keras.saving.register_keras_serializable(package="keras_transformer")
class PositionalEncoding(keras.layers.Layer):
    """Adds the paper's sinusoidal positions to its input.

    `output = inputs + PE`, with `PE` as in `sinusoids` (Vaswani et al. 2017, section 3.5), computed and added in
    float32 and cast once to the layer's compute dtype.

    Differs from the paper: nothing. `keras_hub.layers.SinePositionEncoding` returns `PE` without adding it.

    Args:
        max_wavelength: the `10000` of the formula.

    Call arguments:
        inputs: `(B, T, D)`.
        positions: integers `(T,)` or `(B, T)` of at most 2,097,151; None means 0 to T - 1.

    Returns:
        `(B, T, D)` in the compute dtype. A Keras mask on `inputs` is passed on.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import PositionalEncoding
    >>> encoding = PositionalEncoding()(np.zeros((1, 3, 4)))
    >>> np.round(np.asarray(encoding)[0, 1], 4)
    array([0.8415, 0.5403, 0.01  , 1.    ], dtype=float32)
    """

    def __init__(self, max_wavelength=10000.0, **kwargs):
        super().__init__(**kwargs)
        self.max_wavelength = max_wavelength
        self.supports_masking = True

    def call(self, inputs, positions=None):
        if positions is None:
            positions = ops.arange(ops.shape(inputs)[-2])
        encoding = sinusoids(positions, inputs.shape[-1], self.max_wavelength)
        return ops.cast(ops.cast(inputs, encoding.dtype) + encoding, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "max_wavelength": self.max_wavelength}
