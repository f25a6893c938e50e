"""What a call returns, packed and unpacked."""

import pytest

from keras_transformer.layers.results import pack, unpack


@pytest.mark.parametrize("scores", [None, "scores", []])
@pytest.mark.parametrize("cache", [None, "cache", ()])
def test_unpack_undoes_pack(scores, cache):
    packed = pack("output", scores, cache)
    assert unpack(packed, scores is not None, cache is not None) == ("output", scores, cache)
    expected = tuple(result for result in ("output", scores, cache) if result is not None)
    assert packed == (expected if len(expected) > 1 else "output")
