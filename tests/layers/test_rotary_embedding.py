"""Rotary positions: the paper's and Hugging Face's formulas in float64, and KerasHub's layer."""

import keras
import numpy as np
import positions_numpy
import pytest
from keras import ops

from keras_transformer.layers import RotaryEmbedding

HALF_ULP_AT_ONE = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
WIDTH = 14


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def unit_pairs(*shape, dtype="float32", interleaved=False):
    """Pairs of channels of length at most one, as they are in `dtype`."""
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, (*shape[:-1], shape[-1] // 2))
    pairs = 0.99 * np.stack([np.cos(angle), np.sin(angle)], axis=-1 if interleaved else -2)
    return ops.cast(pairs.reshape(shape), dtype)


CASES = {
    "default": ({"rope_type": "default", "scaling_factor": 3.0}, positions_numpy.rotary_frequencies(WIDTH)),
    "linear": ({"scaling_factor": 4.0}, positions_numpy.rotary_frequencies(WIDTH) / 4),
    "long": ({"max_wavelength": 500_000}, positions_numpy.rotary_frequencies(WIDTH, 500_000.0)),
    "denominator": ({"denominator_dim": 28}, positions_numpy.rotary_frequencies(28)[:7]),
    "part": ({"rotary_dim": 6}, positions_numpy.rotary_frequencies(6)),
    "dynamic": (
        {"rope_type": "dynamic", "scaling_factor": 2.0, "dynamic_length": 8192},
        positions_numpy.dynamic_frequencies(WIDTH, 10000.0, 2.0, 8192, 4096),
    ),
    "dynamic_short": (
        {"rope_type": "dynamic", "scaling_factor": 2.0, "dynamic_length": 100},
        positions_numpy.rotary_frequencies(WIDTH),
    ),
    "yarn": (
        {"rope_type": "yarn", "scaling_factor": 4.0, "original_max_position_embeddings": 2048},
        positions_numpy.yarn_frequencies(WIDTH, 10000.0, 4.0, 2048),
    ),
}


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", HALF_ULP_AT_ONE)
@pytest.mark.parametrize("case", CASES)
def test_rotations_are_those_of_float64_up_to_position_8191(case, dtype, interleaved):
    arguments, frequencies = CASES[case]
    turned = 2 * len(frequencies)
    layer = RotaryEmbedding(interleaved=interleaved, **arguments)
    positions = np.array([[0, 1, 2, 127, 128, 4095, 8190, 8191], [8191, 0, 1, 2, 0, 1, 5000, 129]])
    x = unit_pairs(2, 8, 3, turned, dtype=dtype, interleaved=interleaved)
    x = ops.concatenate([x, ops.ones((2, 8, 3, WIDTH - turned), dtype)], axis=-1)
    expected = positions_numpy.rotary(numpy(x), positions, frequencies, interleaved)
    if case == "yarn":
        expected *= 0.1 * np.log(4.0) + 1
    found = layer.rotate(x, positions)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    # Values are at most 1, under YaRN 1.14. One rounding to the dtype, and 1e-6 for the way there.
    bound = HALF_ULP_AT_ONE[dtype] * (2 if case == "yarn" else 1) + 1e-6
    assert np.abs(numpy(found) - expected).max() <= bound


@pytest.mark.parametrize("max_wavelength", [10000, 1e6])
def test_every_position_up_to_8191(max_wavelength):
    x = np.ones((1, 8192, 1, 32), "float32")
    found = numpy(RotaryEmbedding(max_wavelength).rotate(x, np.arange(8192)))[0, :, 0]
    angle = np.arange(8192)[:, None] * positions_numpy.rotary_frequencies(32, max_wavelength)
    expected = np.concatenate([np.cos(angle) - np.sin(angle), np.cos(angle) + np.sin(angle)], axis=-1)
    assert np.abs(found - expected).max() <= 1.4143 * (2.0**-24 + 1e-6)  # the pairs are sqrt(2) long


def test_positions_beyond_65536():
    positions = np.array([65_535, 65_536, 100_003, 1_000_003, 2_097_151, -1, -129, -100_003, -2_097_152])
    x = unit_pairs(1, 9, 3, WIDTH)
    expected = positions_numpy.rotary(numpy(x), positions[None], positions_numpy.rotary_frequencies(WIDTH))
    np.testing.assert_allclose(numpy(RotaryEmbedding().rotate(x, positions)), expected, atol=1e-6 + 2.0**-24)


def test_products_depend_on_distances_alone():
    layer, (query, key) = RotaryEmbedding(), np.random.default_rng(0).normal(size=(2, 1, 1, 1, WIDTH)).astype("float32")

    def product(i, j):
        return numpy(layer.rotate(query, np.array([i]))).ravel() @ numpy(layer.rotate(key, np.array([j]))).ravel()

    # Sums of 14 products below 4 in float32, each factor exact to 1e-6.
    found = [product(p + 3, p) for p in (0, 100, 8000, 500_000, -1, -70_000)]
    np.testing.assert_allclose(found, product(3, 0), atol=2e-5)


HUB = [
    {},
    {"max_wavelength": 700, "scaling_factor": 2.0},
    {"rope_type": "default", "scaling_factor": 2.0},
    {"rope_type": "dynamic", "scaling_factor": 2.0},
    {"rope_type": "yarn", "scaling_factor": 8.0},
    {"rope_type": "yarn", "scaling_factor": 8.0, "truncate": False, "beta_fast": 20.0, "beta_slow": 3.0},
    {"rope_type": "yarn", "scaling_factor": 3.0, "original_max_position_embeddings": 512, "max_wavelength": 900},
    {"denominator_dim": 64},
    {"sequence_axis": 2, "feature_axis": -1},
    {"sequence_axis": -2, "feature_axis": 1},
]
CALLS = [
    {},
    {"start_index": 13},
    {"positions": np.array([3, 0, 11, 11, 2, 5])},
    {"positions": np.arange(12).reshape(2, 6)},
]


@pytest.mark.parametrize("arguments", HUB, ids=str)
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_call_is_that_of_keras_hub(arguments, call):
    keras_hub = pytest.importorskip("keras_hub")
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 6)).astype("float32")
    expected = numpy(keras_hub.layers.RotaryEmbedding(**arguments)(x, **call))
    # Their frequencies and angles are float32, which up to position 18 is 1e-6 of an angle.
    np.testing.assert_allclose(numpy(RotaryEmbedding(**arguments)(x, **call)), expected, atol=1e-5)
    with_three_axes = x[:, 0] if arguments.get("sequence_axis", 1) == 1 else None
    if with_three_axes is not None:
        expected = numpy(keras_hub.layers.RotaryEmbedding(**arguments)(with_three_axes, **call))
        np.testing.assert_allclose(numpy(RotaryEmbedding(**arguments)(with_three_axes, **call)), expected, atol=1e-5)


def test_a_config_of_keras_hub_is_one_of_ours():
    keras_hub = pytest.importorskip("keras_hub")
    theirs = keras_hub.layers.RotaryEmbedding(scaling_factor=2.0, rope_type="yarn").get_config()
    ours = RotaryEmbedding.from_config(theirs).get_config()
    assert {key: ours[key] for key in theirs} == theirs
    assert set(ours) - set(theirs) == {"rotary_dim", "interleaved", "dynamic_length"}


def test_a_start_index_may_be_a_tensor():
    x = unit_pairs(2, 5, 3, WIDTH)
    found = RotaryEmbedding()(x, start_index=ops.convert_to_tensor(4))
    np.testing.assert_array_equal(numpy(found), numpy(RotaryEmbedding()(x, start_index=4)))


def test_interleaved_pairs_are_halves_in_another_order():
    x = unit_pairs(2, 5, 3, WIDTH)
    order = np.arange(WIDTH).reshape(2, -1).T.ravel()
    halves = numpy(RotaryEmbedding().rotate(x, np.arange(5)))
    found = numpy(RotaryEmbedding(interleaved=True).rotate(numpy(x)[..., order], np.arange(5)))
    np.testing.assert_array_equal(found, halves[..., order])


@pytest.mark.parametrize("rope_type", ["llama3", None])
def test_unknown_types_are_refused(rope_type):
    with pytest.raises(
        ValueError, match=f"one of .'default', 'linear', 'dynamic', 'yarn'.*Received: rope_type={rope_type!r}"
    ):
        RotaryEmbedding(rope_type=rope_type)


@pytest.mark.parametrize("rotary_dim", [5, 0, -2])
def test_parts_that_are_no_pairs_are_refused(rotary_dim):
    with pytest.raises(ValueError, match=f"positive even number or None. Received: rotary_dim={rotary_dim}"):
        RotaryEmbedding(rotary_dim=rotary_dim)


def test_widths_that_are_no_pairs_are_refused():
    with pytest.raises(
        ValueError, match=r"must be even .* Received: 7 to turn of 7 in an input of shape \(2, 3, 5, 7\)"
    ):
        RotaryEmbedding()(np.zeros((2, 3, 5, 7)))
    with pytest.raises(ValueError, match=r"at most the number of channels. Received: 8 to turn of 6"):
        RotaryEmbedding(rotary_dim=8)(np.zeros((2, 3, 5, 6)))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((3, -1), "sequence_axis 3 is out of range for input with rank 3"),
        ((1, -4), "feature_axis -4 is out of range for input with rank 3"),
        ((2, -1), "must be different. Received: both are 2 of rank 3"),
    ],
)
def test_axes_that_are_not_there_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(sequence_axis=axes[0], feature_axis=axes[1])(np.zeros((2, 3, 4)))
