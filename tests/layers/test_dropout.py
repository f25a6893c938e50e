"""Dropout: its hash against NumPy, the same for a tensor and for a block of it; and that it is for training alone."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers import (
    DecoderBlock,
    Dropout,
    EncoderBlock,
    FeedForward,
    GatedFeedForward,
    LayerScale,
    MultiHeadAttention,
    SandwichNorm,
    StochasticDepth,
)
from keras_transformer.layers.dropout import is_dropped, random_bits

SEED = np.array([1706, -3762], "int32")


def mix(x, key):
    """lowbias32 with a key, in unsigned integers."""
    x = np.asarray(x, "uint32")
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D) + np.asarray(key, "uint32")
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def bits(indices, seed):
    first, second = np.asarray(seed, "int32").view("uint32")
    return mix(np.asarray(indices, "int32").view("uint32") ^ mix(first, 0), mix(second, first)).view("int32")


INDICES = np.array([0, 1, 2, 1000003, 2**31 - 1, -(2**31), -1], "int32")


def test_bits_equal_the_hash_in_numpy():
    found = ops.convert_to_numpy(random_bits(ops.convert_to_tensor(INDICES), SEED))
    np.testing.assert_array_equal(found, bits(INDICES, SEED))
    # Written down once: what a seed drops must not change between releases.
    np.testing.assert_array_equal(found[:4], [-1260614907, 1920541436, 825963333, -1785485990])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_layer_drops_by_the_index_of_an_element(rate):
    layer, x = Dropout(rate, seed=7), np.ones((3, 5, 7), "float32")
    state = ops.convert_to_numpy(layer.seed_generator.state).copy()
    found = ops.convert_to_numpy(layer(x, training=True))
    seed = ops.convert_to_numpy(keras.random.SeedGenerator(7).next())
    assert (ops.convert_to_numpy(layer.seed_generator.state) != state).any()
    indices = ops.reshape(ops.arange(x.size, dtype="int32"), x.shape)
    dropped = ops.convert_to_numpy(is_dropped(indices, rate, seed))
    np.testing.assert_array_equal(found == 0, dropped)
    np.testing.assert_allclose(found[~dropped], 1 / (1 - rate), rtol=1e-6)
    assert abs(dropped.mean() - rate) < 0.15


B, T, S, D = 2, 5, 7, 12
DROPPING = {  # with dropout at a rate, and what it is called with
    "attention": (lambda rate: MultiHeadAttention(3, 4, dropout=rate), [(B, T, D), (B, S, D)]),
    "feed-forward": (lambda rate: FeedForward(17, dropout=rate), [(B, T, D)]),
    "gated feed-forward": (lambda rate: GatedFeedForward(17, dropout=rate), [(B, T, D)]),
    "encoder": (lambda rate: EncoderBlock(17, 3, dropout=rate, residual=parts(rate)), [(B, T, D)]),
    "decoder": (lambda rate: DecoderBlock(17, 3, dropout=rate, residual=parts(rate)), [(B, T, D), (B, S, D)]),
}
each = pytest.mark.parametrize("name", DROPPING)


def parts(rate):
    return SandwichNorm([LayerScale(0.5), StochasticDepth(rate)])


@pytest.mark.integration
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="operations are read off TensorFlow's graph")
@each
def test_inference_runs_the_same_operations_with_dropout_and_without(name):
    import tensorflow as tf

    make, shapes = DROPPING[name]
    found = []
    for rate in (0.0, 0.1):
        layer = make(rate)
        function = tf.function(lambda *inputs, layer=layer: layer(*inputs, training=False))
        graph = function.get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes)).graph
        found.append([operation.type for operation in graph.get_operations()])
    assert len(found[0]) > 10 and found[0] == found[1]


@each
def test_training_without_dropout_is_inference(name):
    make, shapes = DROPPING[name]
    layer, inputs = make(0.0), [np.random.default_rng(0).normal(size=shape).astype("float32") for shape in shapes]
    expected, found = layer(*inputs, training=False), layer(*inputs, training=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))
