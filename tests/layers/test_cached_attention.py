"""Decoding with a cache: read in blocks, shared by the beams of a sentence."""

import keras
import numpy as np
import pytest
from keras import ops
from tiers import slow_but_one_a_row

from keras_transformer.layers import (
    AlibiBias,
    MultiHeadAttention,
    PositionEmbedding,
    RelativePositionBias,
    RelativePositionEmbedding,
    RotaryEmbedding,
)
from keras_transformer.layers.cached_attention import BLOCK

B, H, K, D, N = 2, 4, 6, 10, 3
POSITIONS = {
    "none": lambda: None,
    "rotary": RotaryEmbedding,
    "alibi": AlibiBias,
    "learned": lambda: PositionEmbedding(3 * BLOCK, initializer="normal"),
    "buckets": lambda: RelativePositionBias(6, 5, embeddings_initializer="normal"),
    "relative": lambda: RelativePositionEmbedding(2, embeddings_initializer="normal"),
}
# Sums of at most 150 products in float32, in another order.
TOLERANCE = 1e-5


def numpy(x):
    return ops.convert_to_numpy(x)


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("float32")


def attention(**kwargs):
    keras.utils.set_random_seed(3)
    layer = MultiHeadAttention(H, K, bias_initializer="normal", **kwargs)
    layer.build((None, None, D), (None, None, D))
    return layer


ROOMS = [(room, heads) for room in (BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 37) for heads in (H, 2)]


@pytest.mark.parametrize("position, room_and_heads", slow_but_one_a_row(POSITIONS, ROOMS))
def test_a_long_cache_is_read_as_far_as_it_is_written(position, room_and_heads):
    room, heads = room_and_heads
    layer, x = attention(num_key_value_heads=heads, position=POSITIONS[position]()), normal(B, room, D)
    expected = numpy(layer(x, x, use_causal_mask=True))
    cache, found = layer.make_cache(B, room), []
    for start, end in [(0, 5), (5, 6), (6, BLOCK), (BLOCK, room)]:
        output, cache = layer(x[:, start:end], x[:, start:end], use_causal_mask=True, cache=cache)
        found.append(numpy(output))
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=TOLERANCE)


def test_a_batch_of_none_reads_nothing():
    layer, x = attention(), np.zeros((0, 5, D), "float32")
    output, cache = layer(x, x, use_causal_mask=True, cache=layer.make_cache(0, 2 * BLOCK))
    assert output.shape == (0, 5, D) and int(cache["position"]) == 5


def test_what_is_not_written_is_not_read():
    layer, x = attention(), normal(B, 5, D)
    cache = layer.make_cache(B, 3 * BLOCK)
    expected = numpy(layer(x, x, use_causal_mask=True, cache=cache)[0])
    unread = np.arange(3 * BLOCK)[:, None] >= BLOCK
    spoiled = {**cache, **{name: ops.where(unread, np.nan, cache[name]) for name in ("key", "value")}}
    np.testing.assert_array_equal(numpy(layer(x, x, use_causal_mask=True, cache=spoiled)[0]), expected)


@pytest.mark.parametrize("room", [7, BLOCK + 1])
def test_a_mask_that_keras_carries_is_none_of_a_cache(room):
    """It is of the new places alone; who masks places of a cache says so of all of them."""
    layer, x = attention(), normal(B, 5, D)
    value = ops.convert_to_tensor(x)
    value._keras_mask = ops.convert_to_tensor(np.tile(np.arange(5) < 3, (B, 1)))
    cache = layer.make_cache(B, room)
    expected, _ = layer(x, x, use_causal_mask=True, cache=cache)
    found, _ = layer(x, value, use_causal_mask=True, cache=cache)
    np.testing.assert_array_equal(numpy(found), numpy(expected))
    is_seen = np.tile(np.arange(room) < 3, (B, 1))
    masked, _ = layer(x, value, value_mask=is_seen, use_causal_mask=True, cache=cache)
    assert np.abs(numpy(masked) - numpy(expected))[:, 3:].max() > 1e-2


def test_a_query_that_sees_nothing_of_a_long_cache_has_a_sum_of_zero():
    layer, x = attention(use_bias=False), normal(B, 5, D)
    mask = np.ones((B, 2 * BLOCK), bool)
    mask[1] = False
    found, _ = layer(x, x, value_mask=mask, use_causal_mask=True, cache=layer.make_cache(B, 2 * BLOCK))
    assert (numpy(found)[1] == 0).all() and (numpy(found)[0] != 0).all()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("room", [7, BLOCK + 7])
def test_beams_that_share_a_cache_see_their_own_past(room, position):
    """Each beam of each sentence beside what it would compute with a cache of its own that is moved."""
    layer, rng = attention(position=POSITIONS[position]()), np.random.default_rng(5)
    shared, own = layer.make_cache(B, room, num_beams=N), layer.make_cache(B * N, room)
    rows = np.arange(B * N)
    lineage = np.zeros((B * N, room, N), bool) | (rows % N == np.arange(N)[:, None]).T[:, None]
    for step in range(7):
        x = normal(B * N, 1, D, seed=step)
        mask = lineage.reshape(B * N, 1, room * N)
        found, shared = layer(x, x, use_causal_mask=True, cache=shared, attention_mask=mask)
        expected, own = layer(x, x, use_causal_mask=True, cache=own)
        np.testing.assert_allclose(numpy(found), numpy(expected), atol=TOLERANCE)
        parents = rows // N * N + rng.integers(0, N, B * N)
        own = {**own, **{name: ops.take(own[name], parents, axis=0) for name in ("key", "value")}}
        lineage[:, : step + 1] = lineage[parents, : step + 1]
    assert int(shared["position"]) == 7 and shared["key"].shape[0] == B


@pytest.mark.parametrize("room", [7, 2 * BLOCK])
def test_more_than_a_cache_has_room_for_is_refused(room):
    layer, x = attention(), normal(B, room, D)
    _, cache = layer(x[:, 2:], x[:, 2:], use_causal_mask=True, cache=layer.make_cache(B, room))
    message = rf"room for {room} positions, and {room - 2} of them are written.*3 more, shape=\(2, 3, 10\)"
    with pytest.raises(ValueError, match=message):
        layer(x[:, :3], x[:, :3], use_causal_mask=True, cache=cache)
    layer(x[:, :2], x[:, :2], use_causal_mask=True, cache=cache)  # up to the last place


def test_rows_that_share_a_cache_must_say_what_they_see():
    layer, x = attention(), normal(B * N, 1, D)
    with pytest.raises(ValueError, match=r"made for the batch 2.*\(6, 1, 10\).*attention_mask"):
        layer(x, x, cache=layer.make_cache(B, 7, num_beams=N))
