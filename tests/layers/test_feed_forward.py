"""Feed-forward networks against the papers in NumPy float64, and as Keras layers."""

import keras
import numpy as np
import parts_numpy
import pytest
from keras import ops

from keras_transformer.layers import FeedForward, GatedFeedForward, gelu_tanh

B, T, D, F = 2, 5, 13, 17
TOLERANCE = 1e-5  # float32 against float64, sums of at most 17 products of order 1


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def random(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


def randomised(layer):
    rng = np.random.default_rng(1)
    layer.build((None, None, D))
    layer.set_weights([rng.normal(0, w.shape[0] ** -0.5, w.shape) for w in layer.get_weights()])
    return layer


def float64(arrays):
    return [np.asarray(array, "float64") for array in arrays]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", parts_numpy.ACTIVATIONS)
def test_the_gated_family_equals_the_paper(activation, use_bias):
    keras_name = gelu_tanh if activation == "gelu_tanh" else activation
    layer, x = randomised(GatedFeedForward(F, activation=keras_name, use_bias=use_bias)), random(B, T, D)
    assert len(layer.weights) == (6 if use_bias else 3)
    expected = parts_numpy.gated_feed_forward(x.astype("float64"), float64(layer.get_weights()), activation)
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=TOLERANCE)


def test_one_matrix_of_value_and_gate_loads():
    """DALL-E's GEGLU is `x * gelu(gate)` of the halves `x, gate` of one product."""
    layer, x = GatedFeedForward(F, activation="gelu"), random(B, T, D)
    kernel, bias, w2, b2 = random(D, 2 * F), random(2 * F), random(F, D), random(D)
    layer.build((None, None, D))
    layer.set_weights([kernel[:, F:], bias[F:], kernel[:, :F], bias[:F], w2, b2])
    value, gate = np.split(x.astype("float64") @ kernel + bias, 2, axis=-1)
    expected = (value * parts_numpy.ACTIVATIONS["gelu"](gate)) @ w2 + b2
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=TOLERANCE * np.abs(expected).max())


def test_without_biases_zero_stays_zero():
    layer = randomised(FeedForward(F, use_bias=False))
    w1, w2 = float64(layer.get_weights())
    x = random(B, T, D)
    expected = np.maximum(x.astype("float64") @ w1, 0) @ w2
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=TOLERANCE)
    assert not numpy(layer(np.zeros((B, T, D)))).any()


def test_dropout_is_between_the_products():
    layer, x = randomised(GatedFeedForward(F, dropout=0.5)), random(B, T, D)
    np.testing.assert_array_equal(numpy(layer(x)), numpy(layer(x, training=False)))
    assert np.abs(numpy(layer(x, training=True)) - numpy(layer(x))).max() > 1e-2


CONFIG = {
    "intermediate_dim": F,
    "activation": "silu",
    "dropout": 0.3,
    "use_bias": False,
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "name": "network",
    "dtype": "mixed_bfloat16",
}


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_config_is_the_constructor(kind):
    layer = kind(**CONFIG)
    before = layer.get_config()
    x = keras.Input((None, D), dtype="bfloat16")
    symbolic, real = layer(x), layer(random(B, T, D))
    assert layer.get_config() == before == kind.from_config(before).get_config()
    for name in set(CONFIG) - {"activation", "kernel_initializer", "bias_initializer", "dtype"}:
        assert getattr(layer, name) == CONFIG[name]
    assert (symbolic.shape, symbolic.dtype) == ((None, None, D), "bfloat16")
    assert keras.backend.standardize_dtype(real.dtype) == "bfloat16"


def test_the_tanh_gelu_is_saved_by_name(tmp_path):
    model = keras.Sequential([keras.Input((T, D)), GatedFeedForward(F, activation=gelu_tanh)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].activation is gelu_tanh
    x = random(B, T, D)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
