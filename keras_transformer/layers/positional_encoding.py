"""Sinusoidal positions (Vaswani et al. 2017, section 3.5)."""

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.angles import sine_and_cosine
from keras_transformer.layers.arguments import check_booleans, check_positive_numbers, check_rank
from keras_transformer.layers.positions import as_positions


def sinusoids(positions, hidden_dim, max_wavelength=10000.0, interleaved=True):
    """The encoding of integer `positions` of shape `(..., T)`: float32 of shape `(..., T, hidden_dim)`.

    `PE(p, 2i) = sin(p / w^(2i/D))`, `PE(p, 2i+1) = cos(p / w^(2i/D))`, `w` the longest wavelength over 2 pi
    (Vaswani et al. 2017, section 3.5, unnumbered equations). It differs from float64 by less than 1e-6 up to
    position 2,097,151. If not `interleaved`, all sines come first, then all cosines, as in Marian.
    """
    channel = np.arange(hidden_dim)
    if not interleaved:
        channel = np.concatenate([channel[::2], channel[1::2]])
    frequencies = np.power(float(max_wavelength), -2.0 * (channel // 2) / hidden_dim)
    phases = (channel % 2) * (np.pi / 2)  # cos x = sin(x + pi/2), so that no two halves need be interleaved
    return sine_and_cosine(positions, frequencies, phases)[0]


@keras.saving.register_keras_serializable(package="keras_transformer")
class PositionalEncoding(keras.layers.Layer):
    """Adds the paper's sinusoidal positions to its input.

    `output = inputs + PE`, with `PE` as in `sinusoids` (Vaswani et al. 2017, section 3.5), computed and added in
    float32 and cast once to the layer's compute dtype.

    As the `position` of attention it is added to what queries and keys are projected from, and not to that of values
    (position-infused attention: Press et al. 2020, "Shortformer").

    Differs from the paper: nothing. `keras_hub.layers.SinePositionEncoding` returns `PE` without adding it.

    Args:
        max_wavelength: the `10000` of the formula.
        interleaved: whether sines and cosines alternate, as in the paper, or all sines come before all cosines, as in
            Marian, which is the same up to the order of channels.

    Call arguments:
        inputs: `(B, T, D)`.
        positions: integers `(T,)` or `(B, T)` of at most 2,097,151; None means 0 to T - 1.

    Returns:
        `(B, T, D)` in the compute dtype. A Keras mask on `inputs` is passed on.

    Raises:
        ValueError: if `positions` are no integers or have another rank.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import PositionalEncoding
    >>> encoding = PositionalEncoding()(np.zeros((1, 3, 4)))
    >>> np.round(np.asarray(encoding)[0, 1], 4)
    array([0.8415, 0.5403, 0.01  , 1.    ], dtype=float32)
    """

    def __init__(self, max_wavelength=10000.0, interleaved=True, **kwargs):
        check_positive_numbers(max_wavelength=max_wavelength)
        check_booleans(interleaved=interleaved)
        super().__init__(**kwargs)
        self.max_wavelength = max_wavelength
        self.interleaved = interleaved
        self.supports_masking = True

    def call(self, inputs, positions=None):
        check_rank("inputs", inputs.shape, 2, "(B, T, D)")
        if positions is None:
            positions = ops.arange(ops.shape(inputs)[-2])
        return self.add(ops.cast(inputs, self.compute_dtype), positions)

    def add(self, x, positions):
        """`x + PE`: of the shape and dtype of `x`, `(B, T, D)`, for positions `(T,)` or `(1|B, T)`."""
        positions = as_positions(positions, of=(None, None, *x.shape)[-3:])
        encoding = sinusoids(positions, x.shape[-1], self.max_wavelength, self.interleaved)
        wide = keras.backend.result_type(x.dtype, "float32")
        return ops.cast(ops.cast(x, wide) + ops.cast(encoding, wide), x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "max_wavelength": self.max_wavelength, "interleaved": self.interleaved}
