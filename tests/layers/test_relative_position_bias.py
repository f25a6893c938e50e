"""T5's buckets and bias: every distance, the authors' tables, and the formula in float64."""

from pathlib import Path

import numpy as np
import positions_numpy
import pytest
from keras import ops

from keras_transformer.layers import RelativePositionBias
from keras_transformer.layers.relative_position_bias import bucket_borders, relative_buckets

TESTS = Path(__file__).parents[1]
PLACES = (TESTS / "golden", TESTS.parents[1] / "shared" / "golden")


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20), (16, 9), (4, 3), (64, 8191), (30, 100)])
def test_buckets_of_every_distance_up_to_8191(num_buckets, max_distance, bidirectional):
    relative = np.arange(-8191, 8192)
    arguments = (num_buckets, max_distance, bidirectional)
    expected = [positions_numpy.t5_bucket(int(r), *arguments) for r in relative]
    np.testing.assert_array_equal(relative_buckets(relative, *arguments), expected)


def test_borders_that_are_whole_numbers():
    # 8 * 16^(k/8): 16, 32 and 64 are borders to the unit, where a logarithm may fall on either side.
    assert bucket_borders(16, 128) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]


@pytest.fixture(scope="module", params=["t5_v10", "t5_v11"])
def golden(request):
    paths = [place / f"{request.param}.npz" for place in PLACES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        pytest.skip(f"the golden arrays are in none of {', '.join(map(str, paths))}")
    return np.load(path)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_buckets, max_distance, distances", [(8, 20, "rel_small"), (32, 128, "rel_large")])
def test_buckets_are_those_of_hugging_face(golden, num_buckets, max_distance, distances, bidirectional):
    found = relative_buckets(golden[f"in/{distances}"], num_buckets, max_distance, bidirectional)
    name = f"out/bucket_{'bidir' if bidirectional else 'causal'}_{num_buckets}_{max_distance}"
    np.testing.assert_array_equal(found, golden[name])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("rank", [1, 2])
def test_the_bias_is_the_table_at_the_buckets(bidirectional, rank):
    layer = RelativePositionBias(8, 20, bidirectional, num_heads=3, embeddings_initializer="normal")
    query, key = 8150 + np.arange(29), 8160 + np.arange(31)
    expected = positions_numpy.t5_bias(layer.get_weights()[0], [query], [key], 20, bidirectional)
    places = (query, key) if rank == 1 else (query[None], key[None])
    found = numpy(layer.scores(np.zeros((2, 29, 3, 5), "float32"), *places))
    np.testing.assert_array_equal(found, expected.astype("float32"))
    assert found.shape == (1, 3, 29, 31)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_buckets": 7}, "at least 4 and even with bidirectional=True. Received: num_buckets=7"),
        ({"num_buckets": 2}, "at least 4 and even with bidirectional=True. Received: num_buckets=2"),
        ({"num_buckets": 1, "bidirectional": False}, "at least 2 with bidirectional=False. Received: num_buckets=1"),
        ({"max_distance": 8}, "larger than 8.*Received: max_distance=8 with num_buckets=32"),
    ],
)
def test_buckets_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelativePositionBias(**arguments)
