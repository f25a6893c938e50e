"""Kernels laid out for products of few rows: other products, the same answers."""

import keras
import numpy as np
import pytest

from keras_transformer.layers import DecoderBlock, GatedFeedForward, carried_kernels
from keras_transformer.layers.carried_kernels import as_a_whole, in_halves, in_halves_or_rows, multiplying, product_of
from keras_transformer.layers.projection import contracted_axes, kernel_matrix, project

B, D, H = 2, 12, 3


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("float32")


@pytest.mark.parametrize("product", [in_halves, in_halves_or_rows, as_a_whole])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("size", [6, 7, 1], ids=lambda size: f"{size} columns")
def test_each_product_is_that_of_the_matrices(product, rows, size):
    x, kernel = normal(rows, 5), normal(5, size, seed=1)
    np.testing.assert_allclose(numpy(product(x, kernel.T)), x @ kernel, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_large_product_is_made_as_it_comes(rows, monkeypatch):
    monkeypatch.setattr(carried_kernels, "WIDE", 6)
    monkeypatch.setattr(carried_kernels, "LARGE", 12)
    halved = []
    monkeypatch.setattr(carried_kernels, "in_halves", lambda x, matrix: halved.append(x) or as_a_whole(x, matrix))
    x, kernel = normal(rows, 5), normal(5, 6, seed=1)
    np.testing.assert_allclose(numpy(in_halves_or_rows(x, kernel.T)), x @ kernel, atol=1e-6)
    assert len(halved) == (rows == 1) or keras.backend.backend() == "jax"  # which traces both


@pytest.mark.integration
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a graph for any number of rows is TensorFlow's")
@pytest.mark.parametrize("rows", [1, 4])
def test_xla_leaves_nothing_of_the_condition(rows, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(carried_kernels, "WIDE", 6)
    monkeypatch.setattr(carried_kernels, "LARGE", 12)
    product = tf.function(
        lambda x: in_halves_or_rows(x, normal(6, 5)), [tf.TensorSpec([None, 5])], jit_compile=True, autograph=False
    )
    ir = product.experimental_get_compiler_ir(normal(rows, 5))
    assert " conditional(" not in ir(stage="optimized_hlo")


@pytest.mark.parametrize(
    "layer, shape, axes",
    [
        (keras.layers.Dense(3), (None, 4), 1),
        (keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), (None, None, 4), 1),
        (keras.layers.EinsumDense("abcd,cde->abe", (None, 5)), (None, None, 2, 3), 2),
    ],
)
def test_axes_that_are_summed_over(layer, shape, axes):
    layer.build(shape)
    assert contracted_axes(layer) == axes
    assert kernel_matrix(layer).shape[0] == np.prod(shape[-axes:])


@pytest.mark.parametrize("product", [in_halves, as_a_whole])
def test_a_block_steps_with_them_as_with_its_own(product):
    keras.utils.set_random_seed(3)
    block, memory = DecoderBlock(13, H, feed_forward=GatedFeedForward(13)), normal(B, 5, D)
    block.build((None, None, D), (None, None, D))
    layers, cache = block.step_projections(), block.make_cache(B, 7, memory)
    assert len(layers) == 4 + 2 + 3  # keys and values of the encoder are in the cache
    matrices = [keras.ops.transpose(kernel_matrix(layer)) for layer in layers]
    plain = carrying = cache
    for step in range(3):
        x = normal(B, 1, D, seed=step)
        expected, plain = block(x, cache=plain)
        with multiplying(layers, matrices, product):
            found, carrying = block(x, cache=carrying)
        np.testing.assert_allclose(numpy(found), numpy(expected), atol=1e-6)


def test_they_stand_in_for_the_layer_s_kernel_and_only_within():
    dense = keras.layers.Dense(4)
    dense.build((None, 3))
    x = normal(2, 3)
    expected = numpy(project(dense, x))
    with multiplying([dense], [2 * keras.ops.transpose(kernel_matrix(dense))], in_halves):
        np.testing.assert_allclose(numpy(project(dense, x)), 2 * expected, atol=1e-6)
    assert product_of(dense) is None
    np.testing.assert_array_equal(numpy(project(dense, x)), expected)
