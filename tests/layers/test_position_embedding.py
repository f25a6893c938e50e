"""Learned positions: KerasHub's values and weight, and what they refuse."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers import PositionEmbedding


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")


@pytest.fixture
def layer():
    layer = PositionEmbedding(11, initializer="normal")
    layer.build((None, None, 3))
    return layer


CALLS = [
    {},
    {"start_index": 6},
    {"positions": np.array([3, 0, 10, 10, 2])},
    {"positions": np.array([[0, 1, 2, 0, 1], [7, 8, 9, 10, 0]])},
    {"positions": np.array([[0, 1, 2, 0, 1]]), "start_index": 4},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "mixed_bfloat16"])
def test_a_call_is_that_of_keras_hub(x, call, dtype):
    keras_hub = pytest.importorskip("keras_hub")
    theirs = keras_hub.layers.PositionEmbedding(11, initializer="normal", dtype=dtype)
    ours = PositionEmbedding(11, initializer="normal", dtype=dtype)
    expected = theirs(x, **call)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    found = ours(x, **call)
    assert keras.backend.standardize_dtype(found.dtype) == keras.backend.standardize_dtype(expected.dtype)
    np.testing.assert_array_equal(numpy(found), numpy(expected))
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights] == ["embeddings"]
    assert {**theirs.get_config(), "name": ""} == {**ours.get_config(), "name": ""}


def test_a_weights_file_of_keras_hub_loads(x, tmp_path):
    keras_hub = pytest.importorskip("keras_hub")

    def model(layer):
        return keras.Sequential([keras.Input((5, 3)), layer])

    theirs = model(keras_hub.layers.PositionEmbedding(11))
    theirs.save_weights(tmp_path / "positions.weights.h5")
    ours = model(PositionEmbedding(11))
    ours.load_weights(tmp_path / "positions.weights.h5")
    np.testing.assert_array_equal(numpy(ours(x)), numpy(theirs(x)))


def test_a_start_index_may_be_a_tensor(layer, x):
    found = numpy(layer(x, start_index=ops.convert_to_tensor(4)))
    np.testing.assert_array_equal(found, numpy(layer(x, start_index=4)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_add_is_a_sum_rounded_once(layer, x, dtype):
    low = ops.cast(x, dtype)
    positions = np.array([[0, 1, 2, 0, 1], [7, 8, 9, 10, 0]])
    exact = numpy(low) + layer.get_weights()[0][positions]
    np.testing.assert_array_equal(numpy(layer.add(low, positions)), numpy(ops.cast(exact, dtype)))
    np.testing.assert_array_equal(
        numpy(layer.add(low, 6 + np.arange(5))), numpy(ops.cast(numpy(low) + layer.get_weights()[0][6:], dtype))
    )


@pytest.mark.parametrize("start", [7, -1])
def test_positions_that_cannot_be_in_the_table_are_refused(layer, x, start):
    with pytest.raises(
        ValueError, match=f"from 0 to 10, as there are 11 in the table. Received: 5 positions from {start}"
    ):
        layer(x, start_index=start)


def test_sequences_longer_than_the_table_are_refused(layer):
    with pytest.raises(ValueError, match="Received: 12 positions from 0"):
        layer(np.zeros((2, 12, 3)))
    with pytest.raises(ValueError, match="Received: 12 positions from 0"):
        layer.add(np.zeros((2, 12, 3), "float32"), np.arange(12))
    with pytest.raises(ValueError, match="Received: 12 positions from 0"):
        layer(keras.Input((12, 3)))


@pytest.mark.parametrize("length", [None, 0, -3])
def test_tables_of_no_length_are_refused(length):
    with pytest.raises(ValueError, match=f"`sequence_length` must be a positive.*sequence_length={length}"):
        PositionEmbedding(length)
