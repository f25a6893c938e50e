"""Layer normalisation: values and gradient are those of the formula and of Keras's layer."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers.normalization import LayerNormalization, layer_norm

B, T, D = 3, 5, 7
EPSILON = 1e-3


def arrays(dtype="float64"):
    rng = np.random.default_rng(1)
    x = 5 + 3 * rng.standard_normal((B, T, D))
    gamma, beta, weights = rng.standard_normal(D), rng.standard_normal(D), rng.standard_normal((B, T, D))
    return [a.astype(dtype) for a in (x, gamma, beta, weights)]


def reference(x, gamma, beta):
    x = x.astype("float64")
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON) * gamma + beta


def pair(**kwargs):
    """Ours and Keras's with the same weights."""
    x, gamma, beta, _ = arrays("float32")
    layers = []
    for make in (LayerNormalization, keras.layers.LayerNormalization):
        layer = make(epsilon=EPSILON, **kwargs)
        layer.build(x.shape)
        layer.set_weights([gamma, beta])
        layers.append(layer)
    return layers


def test_values_are_those_of_the_formula():
    x, gamma, beta, _ = arrays("float32")
    y = layer_norm(*(ops.convert_to_tensor(a) for a in (x, gamma, beta)), EPSILON)
    np.testing.assert_allclose(ops.convert_to_numpy(y), reference(x, gamma, beta), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype, bound", [("float32", 2e-6), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_precision_is_rounded_once(dtype, bound):
    layer, _ = pair(dtype=keras.DTypePolicy("float32" if dtype == "float32" else f"mixed_{dtype}"))
    x = ops.cast(arrays()[0], dtype)
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    expected = reference(ops.convert_to_numpy(ops.cast(x, "float32")), *(np.array(w) for w in layer.get_weights()))
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(y, "float32")), expected, rtol=bound, atol=bound)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the gradient is written out for TensorFlow")
@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_gradients_are_those_of_keras(jit_compile):
    import tensorflow as tf

    x, weights = (tf.constant(a) for a in (arrays("float32")[0], arrays("float32")[3]))
    results = []
    for layer in pair():

        def gradients(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x) * weights)
            return tape.gradient(loss, [x, *layer.trainable_variables])

        f = gradients if jit_compile is None else tf.function(gradients, jit_compile=jit_compile)
        results.append(f(x))
    for ours, theirs in zip(*results):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("change", [{"scale": False}, {"center": False}, {"axis": [1, 2]}])
def test_what_is_not_written_out_is_left_to_keras(change):
    x = arrays("float32")[0]
    ours, theirs = LayerNormalization(**change), keras.layers.LayerNormalization(**change)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(layer(x)) for layer in (ours, theirs)))


def test_unknown_batch_and_length():
    inputs = keras.Input((None, D))
    model = keras.Model(inputs, LayerNormalization(epsilon=EPSILON)(inputs))
    x = arrays("float32")[0]
    expected = reference(x, np.ones(D), np.zeros(D))
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5)
    copy = keras.Model.from_config(model.get_config())
    assert type(copy.layers[-1]) is LayerNormalization
