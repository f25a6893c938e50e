"""Rotary positions (Su et al. 2021, "RoFormer")."""

import math

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.angles import sine_and_cosine
from keras_transformer.layers.arguments import (
    check_booleans,
    check_one_of,
    check_positive_integers,
    check_positive_numbers,
)
from keras_transformer.layers.positions import as_positions

ROPE_TYPES = ("default", "linear", "dynamic", "yarn")


def yarn_frequencies(
    rotary_dim, max_wavelength, scaling_factor, beta_fast, beta_slow, original_max_position_embeddings, truncate
):
    """Radians a position of each pair under YaRN (Peng et al. 2023, section 3.2, "NTK-by-parts"): float64 `(R/2,)`.

    A pair that turns at least `beta_fast` times within the original length keeps its frequency, one that turns at most
    `beta_slow` times has it divided by `scaling_factor`, and those between are mixed linearly.
    """
    pair = np.arange(rotary_dim // 2)
    frequencies = float(max_wavelength) ** (-2.0 * pair / rotary_dim)

    def pair_that_turns(times):
        length = original_max_position_embeddings / (times * 2 * math.pi)
        return rotary_dim * math.log(length) / (2 * math.log(max_wavelength))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    interpolated = np.clip((pair - low) / max(high - low, 0.001), 0, 1)
    return frequencies * (1 - interpolated) + frequencies / scaling_factor * interpolated


def rotate_pairs(x, sine, cosine, interleaved=False):
    """Each pair of channels of `x`, turned in its plane (Su et al. 2021, equations 15 and 34).

    `(a, b) -> (a cos - b sin, b cos + a sin)`.

    Args:
        x: `(..., R)`.
        sine, cosine: broadcastable to `(..., R/2)`.
        interleaved: whether channels `2i` and `2i + 1` are a pair, as in the paper, or `i` and `i + R/2`.
    """
    shape = ops.shape(x)
    axis = -1 if interleaved else -2
    pairs = ops.reshape(x, (*shape[:-1], -1, 2) if interleaved else (*shape[:-1], 2, -1))
    a, b = ops.unstack(pairs, 2, axis=axis)
    return ops.reshape(ops.stack([a * cosine - b * sine, b * cosine + a * sine], axis=axis), shape)


@keras.saving.register_keras_serializable(package="keras_transformer")
class RotaryEmbedding(keras.layers.Layer):
    """Turns pairs of channels by angles that grow with the position (Su et al. 2021, equations 14, 15 and 34).

    The product of a query turned by its position and a key turned by its own depends on their distance alone.
    `output = x cos(p f_i) + rotated(x) sin(p f_i)`, `f_i = max_wavelength^(-2i/R)`, computed in float32 and cast once.

    A drop-in for `keras_hub.layers.RotaryEmbedding`. Its angles are exact, where KerasHub's, formed in float32, are off
    by up to 3e-4 at positions below 8,192, and its sines are not rounded before the product. Beyond it: `rotary_dim`,
    `interleaved`, `dynamic_length`; and a Keras mask is passed on.

    As the `position` of attention it turns the projected queries and keys.

    Differs from the paper: by default channels `i` and `i + R/2` are a pair, as in KerasHub, Llama and GPT-NeoX;
    `interleaved=True` gives the paper's `2i` and `2i + 1`, as in GPT-J.

    Args:
        max_wavelength: the base of the frequencies, 10000 in the paper.
        scaling_factor: how many times longer sequences are to be than the model was trained for.
        rope_type: what `scaling_factor` does. "linear": divides all frequencies (Chen et al. 2023, section 2.3).
            "dynamic": see `dynamic_length`. "yarn": `yarn_frequencies`, and sines and cosines are multiplied by
            `0.1 ln(scaling_factor) + 1` (Peng et al. 2023, section 3.4). "default": nothing.
        beta_fast, beta_slow, truncate: of "yarn".
        original_max_position_embeddings: the length the model was trained for, of "yarn" and `dynamic_length`.
        sequence_axis, feature_axis: of `inputs`.
        denominator_dim: what takes the place of `R` in the exponent of the frequencies; not for "yarn".
        rotary_dim: `R`, how many channels, the first ones, are turned; None: all. GPT-J and GPT-NeoX turn a part.
        interleaved: whether neighbouring channels are a pair.
        dynamic_length: of "dynamic": the length `L` for which the base becomes
            `max_wavelength (s L / L0 - (s - 1))^(R/(R-2))` where `L` exceeds the original `L0` (dynamic NTK scaling,
            as in Hugging Face, where `L` is that of the call, so that cached keys were turned by other frequencies than
            the query). None: as KerasHub, which divides all frequencies by `s^(R/(R-2))`.

    Call arguments:
        inputs: `(B, T, R)` or `(B, T, H, K)`, or with axes as given.
        start_index: the position of the first token, an integer or integer tensor.
        positions: integers `(T,)` or `(B, T)`, from -2,097,152 to 2,097,151, in place of those from `start_index` on.

    Returns:
        A tensor of the shape of `inputs`, in the compute dtype.

    Raises:
        ValueError: if `rope_type` is unknown; if the axes are none of `inputs`, or the same; if the number of channels
            to turn is odd or more than there are; if `positions` are no integers.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import RotaryEmbedding
    >>> np.round(np.asarray(RotaryEmbedding()(np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]))), 4)
    array([[[ 1.    ,  0.    ],
            [ 0.5403,  0.8415],
            [-0.9093, -0.4161]]], dtype=float32)
    """

    def __init__(
        self,
        max_wavelength=10000,
        scaling_factor=1.0,
        rope_type="linear",
        beta_fast=32.0,
        beta_slow=1.0,
        original_max_position_embeddings=4096,
        truncate=True,
        sequence_axis=1,
        feature_axis=-1,
        denominator_dim=None,
        rotary_dim=None,
        interleaved=False,
        dynamic_length=None,
        **kwargs,
    ):
        check_one_of(ROPE_TYPES, rope_type=rope_type)
        check_positive_numbers(
            max_wavelength=max_wavelength, scaling_factor=scaling_factor, beta_fast=beta_fast, beta_slow=beta_slow
        )
        check_booleans(truncate=truncate, interleaved=interleaved)
        check_positive_integers(original_max_position_embeddings=original_max_position_embeddings)
        optional = {"denominator_dim": denominator_dim, "dynamic_length": dynamic_length}
        check_positive_integers(**{name: value for name, value in optional.items() if value is not None})
        if rope_type == "yarn" and max_wavelength <= 1:
            raise ValueError(
                "`max_wavelength` must be above 1, so that wavelengths differ by channel. "
                f"Received: max_wavelength={max_wavelength}"
            )
        if rotary_dim is not None and (not isinstance(rotary_dim, int) or rotary_dim <= 0 or rotary_dim % 2):
            raise ValueError(f"`rotary_dim` must be a positive even number or None. Received: rotary_dim={rotary_dim}")
        super().__init__(**kwargs)
        self.max_wavelength = max_wavelength
        self.scaling_factor = scaling_factor
        self.rope_type = rope_type
        self.beta_fast = beta_fast
        self.beta_slow = beta_slow
        self.original_max_position_embeddings = original_max_position_embeddings
        self.truncate = truncate
        self.sequence_axis = sequence_axis
        self.feature_axis = feature_axis
        self.denominator_dim = denominator_dim
        self.rotary_dim = rotary_dim
        self.interleaved = interleaved
        self.dynamic_length = dynamic_length
        self.supports_masking = True
        self.built = True

    def frequencies(self, rotary_dim):
        """Radians a position of each of the `rotary_dim / 2` pairs: NumPy float64."""
        if self.rope_type == "yarn":
            return yarn_frequencies(
                rotary_dim,
                self.max_wavelength,
                self.scaling_factor,
                self.beta_fast,
                self.beta_slow,
                self.original_max_position_embeddings,
                self.truncate,
            )
        base, divisor = float(self.max_wavelength), 1.0
        exponent = rotary_dim / max(1, rotary_dim - 2)
        if self.rope_type == "linear":
            divisor = self.scaling_factor
        elif self.rope_type == "dynamic" and self.dynamic_length is None:
            divisor = self.scaling_factor**exponent
        elif self.rope_type == "dynamic":
            beyond = max(self.dynamic_length / self.original_max_position_embeddings, 1.0)
            base *= (self.scaling_factor * (beyond - 1.0) + 1.0) ** exponent
        return base ** (-np.arange(0, rotary_dim, 2) / (self.denominator_dim or rotary_dim)) / divisor

    def call(self, inputs, start_index=0, positions=None):
        sequence_axis, feature_axis = self._axes(len(inputs.shape))
        x = ops.moveaxis(ops.cast(inputs, self.compute_dtype), (feature_axis, sequence_axis), (-1, 1))
        if positions is None:
            positions = ops.cast(start_index, "int32") + ops.arange(ops.shape(x)[1], dtype="int32")
        return ops.moveaxis(self.rotate(x, positions), (-1, 1), (feature_axis, sequence_axis))

    def rotate(self, x, positions):
        """`x` turned by its positions: of its shape and dtype.

        Args:
            x: `(B, T, ..., K)`, as `(B, T, H, K)` of projected queries or keys.
            positions: integers `(T,)` or `(1|B, T)`.
        """
        width = x.shape[-1]
        turned = width if self.rotary_dim is None else self.rotary_dim
        if turned % 2 or turned > width:
            raise ValueError(
                f"Rotary dimension must be even and at most the number of channels. Received: {turned} to turn of "
                f"{width} in an input of shape {tuple(x.shape)}. Give `rotary_dim`, or pad."
            )
        positions = as_positions(positions, of=x.shape)
        sine, cosine = sine_and_cosine(positions, self.frequencies(turned))
        if self.rope_type == "yarn":
            temperature = 0.1 * math.log(self.scaling_factor) + 1.0
            sine, cosine = sine * temperature, cosine * temperature
        wide = keras.backend.result_type(x.dtype, "float32")
        between = len(x.shape) - 3  # axes, as that of heads, which positions do not have
        shape = (*ops.shape(positions), *(1,) * between, turned // 2)
        sine, cosine = (ops.cast(ops.reshape(angle, shape), wide) for angle in (sine, cosine))
        rotated = rotate_pairs(ops.cast(x[..., :turned], wide), sine, cosine, self.interleaved)
        rotated = ops.cast(rotated, x.dtype)
        return rotated if turned == width else ops.concatenate([rotated, x[..., turned:]], axis=-1)

    def _axes(self, rank):
        axes = []
        for name in ("sequence_axis", "feature_axis"):
            axis = getattr(self, name)
            if not isinstance(axis, int) or not -rank <= axis < rank:
                raise ValueError(f"{name} {axis} is out of range for input with rank {rank}. Received: {name}={axis!r}")
            axes.append(axis % rank)
        if axes[0] == axes[1]:
            raise ValueError(
                f"sequence_axis and feature_axis must be different. Received: both are {axes[0]} of rank {rank}"
            )
        return axes

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "scaling_factor": self.scaling_factor,
            "rope_type": self.rope_type,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "original_max_position_embeddings": self.original_max_position_embeddings,
            "truncate": self.truncate,
            "sequence_axis": self.sequence_axis,
            "feature_axis": self.feature_axis,
            "denominator_dim": self.denominator_dim,
            "rotary_dim": self.rotary_dim,
            "interleaved": self.interleaved,
            "dynamic_length": self.dynamic_length,
        }
