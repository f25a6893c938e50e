"""Sinusoidal positions: their values, their precision, and what they pass on."""

import attention_numpy
import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers import PositionalEncoding

HALF_ULP_AT_ONE = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


@pytest.mark.parametrize("dtype", HALF_ULP_AT_ONE)
def test_values_are_those_of_float64_up_to_position_8191(dtype):
    found = numpy(PositionalEncoding(dtype=dtype)(np.zeros((1, 8192, 13))))[0]
    expected = attention_numpy.sinusoids(np.arange(8192), 13)
    # One rounding to the output's dtype, where values are at most 1, and 1e-6 for the way there.
    assert np.abs(found - expected).max() <= HALF_ULP_AT_ONE[dtype] + 1e-6


@pytest.mark.parametrize("hidden_dim", [1, 2, 13, 128])
@pytest.mark.parametrize("max_wavelength", [10000.0, 100.0])
def test_positions_beyond_65536(hidden_dim, max_wavelength):
    positions = np.array([65_535, 65_536, 65_537, 1_000_003, 2_097_151, -1, -128, -100_003, -2_097_152])
    layer = PositionalEncoding(max_wavelength)
    found = numpy(layer(np.zeros((1, 9, hidden_dim)), positions=positions))[0]
    # What the docstring of `sinusoids` promises.
    np.testing.assert_allclose(found, attention_numpy.sinusoids(positions, hidden_dim, max_wavelength), atol=1e-6)


def test_4096_positions_are_4096_distinct_rows_in_bfloat16():
    rows = numpy(PositionalEncoding(dtype="bfloat16")(np.zeros((1, 4096, 512))))[0]
    assert len({row.tobytes() for row in rows}) == 4096


def test_the_sum_is_rounded_once():
    x = np.random.default_rng(0).normal(size=(2, 5, 7)).astype("float16")
    exact = x.astype("float32") + numpy(PositionalEncoding()(np.zeros((1, 5, 7))))
    found = ops.convert_to_numpy(PositionalEncoding(dtype="float16")(x))
    np.testing.assert_array_equal(found, exact.astype("float16"))


def test_positions_of_rank_1_and_2():
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    layer = PositionalEncoding()
    np.testing.assert_array_equal(numpy(layer(x)), numpy(layer(x, positions=np.arange(3))))
    positions = np.array([[11, 0, 7], [2, 8191, 2]])
    found = numpy(layer(x, positions=positions))
    for row in range(2):
        alone = numpy(layer(x[row : row + 1], positions=positions[row]))
        np.testing.assert_array_equal(found[row], alone[0])
    # float32 sums of numbers below 4: half a unit in the last place is 2.4e-7.
    np.testing.assert_allclose(found, x + attention_numpy.sinusoids(positions, 5), atol=1.3e-6)


def test_the_keras_mask_is_passed_on():
    ids = np.array([[4, 2, 0, 0, 0], [1, 3, 5, 2, 0]])
    embedding = keras.layers.Embedding(7, 3, mask_zero=True)
    model = keras.Sequential([embedding, PositionalEncoding(), keras.layers.GlobalAveragePooling1D()])
    found = numpy(model(ids))
    states = numpy(embedding(ids)) + attention_numpy.sinusoids(np.arange(5), 3)
    expected = np.stack([states[0, :2].mean(axis=0), states[1, :4].mean(axis=0)])
    np.testing.assert_allclose(found, expected, atol=2e-6)  # means of four float32 numbers below 2


def test_symbolic_shape_and_dtype_are_the_real_ones():
    layer = PositionalEncoding(dtype="bfloat16")
    symbolic = layer(keras.Input((None, 7), dtype="bfloat16"))
    real = layer(np.zeros((2, 5, 7)))
    assert symbolic.shape == (None, None, 7) and tuple(real.shape) == (2, 5, 7)
    assert symbolic.dtype == keras.backend.standardize_dtype(real.dtype) == "bfloat16"


def test_config_is_the_constructor():
    layer = PositionalEncoding(max_wavelength=500.0, name="positions")
    clone = PositionalEncoding.from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    assert (clone.max_wavelength, clone.name) == (500.0, "positions")


def test_sines_before_cosines_are_the_same_channels_in_another_order():
    x = np.zeros((1, 11, 7), "float32")
    paper, marian = (ops.convert_to_numpy(PositionalEncoding(interleaved=flag)(x)) for flag in (True, False))
    np.testing.assert_array_equal(marian, np.concatenate([paper[..., ::2], paper[..., 1::2]], axis=-1))
    with pytest.raises(ValueError, match="interleaved=3"):
        PositionalEncoding(interleaved=3)
