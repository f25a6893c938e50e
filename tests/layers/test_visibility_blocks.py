"""A block of who sees whom is the block of the whole mask, whatever it is made of, on every backend."""

import numpy as np
import pytest
from keras import ops

from keras_transformer.layers.masks import Visibility, causal

B, T, S, H = 2, 5, 11, 3


def drawn(*shape):
    return np.random.default_rng(shape).random(shape) < 0.7


def numbers(*shape):
    return np.random.default_rng(shape).integers(0, 4, shape).astype("int32")


CASES = {
    "attention": {"attention_mask": drawn(B, H, T, S)},
    "attention, axes of 1": {"attention_mask": drawn(1, 1, T, 1)},
    "query": {"query_mask": drawn(B, T)},
    "key": {"key_mask": drawn(1, S)},
    "segments": {"query_segments": numbers(1, T), "key_segments": numbers(B, S)},
    "consecutive": {"query_positions": np.arange(T) + 4, "key_positions": np.arange(S) - 1, "patterns": (causal,)},
    "packed": {"query_positions": numbers(B, T), "key_positions": numbers(1, S), "patterns": (causal,)},
}
CASES["together"] = {name: field for case in CASES.values() for name, field in case.items()}


@pytest.mark.parametrize("query_block, key_block", [(2, 4), (5, 11), (8, 16)])
@pytest.mark.parametrize("name", CASES)
def test_blocks_are_those_of_the_whole(name, query_block, key_block):
    fields = {k: v if k == "patterns" else ops.convert_to_tensor(v) for k, v in CASES[name].items()}
    whole = np.broadcast_to(ops.convert_to_numpy(Visibility(**fields).mask()), (B, H, T, S))
    padded = Visibility(**fields).padded(T, S, query_block, key_block)
    for row in range(B):
        for query in range(0, T, query_block):
            for key in range(0, S, key_block):
                mask = ops.convert_to_numpy(padded.block(row, query, key, query_block, key_block).mask())
                mask = np.broadcast_to(mask, (1, H, query_block, key_block))[0, :, : T - query]
                np.testing.assert_array_equal(
                    mask[..., : S - key], whole[row, :, query : query + query_block, key : key + key_block]
                )
                assert not mask[..., S - key :].any()


def test_what_hides_nothing_needs_no_mask():
    assert Visibility().padded(T, S, T, S).block(0, 0, 0, T, S).mask() is None
