"""`LayerNormalization` in the place of Keras's own."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer.layers.normalization import LayerNormalization

B, T, D = 2, 5, 11


def random(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("float32")


@pytest.mark.parametrize("scale_of_input", [1.0, 1e4])
def test_values_and_gradients_are_those_of_the_formula(scale_of_input):
    x, gamma, beta = scale_of_input * random(B, T, D) + 3, random(D, seed=1), random(D, seed=2)
    weight = random(B, T, D, seed=3)
    layer = LayerNormalization(epsilon=1e-5)
    layer.build((None, None, D))

    def loss(x, gamma, beta):
        output, _ = layer.stateless_call([gamma, beta], [], x)
        return ops.sum(output * weight)

    layer.set_weights([gamma, beta])
    wide = x.astype("float64")
    centered = wide - wide.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    normalized = centered * inverse
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), normalized * gamma + beta, atol=1e-5)
    g = weight * gamma
    of_x = inverse * (g - g.mean(-1, keepdims=True) - normalized * (g * normalized).mean(-1, keepdims=True))
    found = gradients(loss, x, gamma, beta)
    np.testing.assert_allclose(found[0], of_x, atol=1e-5 / scale_of_input)
    np.testing.assert_allclose(found[1], (weight * normalized).sum((0, 1)), atol=1e-5)
    np.testing.assert_allclose(found[2], weight.sum((0, 1)), atol=1e-5)


@pytest.mark.parametrize(
    "shape, arguments",
    [
        ((B, T, D), {}),
        ((B, T, D), {"scale": False}),
        ((B, T, D), {"center": False}),
        ((B, T, D), {"axis": 1}),
        ((B, T, D), {"axis": [1, 2]}),
        ((B, T, D), {"axis": 2}),
        ((B, D), {}),
        ((B, 3, T, D), {}),
        ((0, T, D), {}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "float64"])
def test_equals_that_of_keras(shape, arguments, dtype):
    x = random(*shape)
    theirs = keras.layers.LayerNormalization(dtype=dtype, **arguments)
    ours = LayerNormalization(dtype=dtype, **arguments)
    for layer in (theirs, ours):
        layer.build(shape)
    weights = [random(*w.shape, seed=seed) for seed, w in enumerate(theirs.get_weights())]
    for layer in (theirs, ours):
        layer.set_weights(weights)
    found, expected = ours(x), theirs(x)
    assert found.dtype == expected.dtype and tuple(found.shape) == tuple(expected.shape)
    tolerance = 5e-3 if dtype == "mixed_float16" else 1e-5
    np.testing.assert_allclose(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), atol=tolerance)
