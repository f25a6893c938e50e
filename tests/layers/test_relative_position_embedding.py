"""A vector for each distance: pair by pair in float64, and what Tensor2Tensor computes with the same vectors."""

from pathlib import Path

import numpy as np
import positions_numpy
import pytest
from keras import ops

from keras_transformer.layers import RelativePositionEmbedding
from keras_transformer.layers.positions import skew

TESTS = Path(__file__).parents[1]
PLACES = (TESTS / "golden", TESTS.parents[1] / "shared" / "golden")


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def test_the_skew_moves_diagonals_to_columns():
    x = np.arange(2 * 3 * 7 * 5).reshape(2, 3, 7, 5)  # B, T, T + S - 1 with S = 5, H
    expected = np.stack([x[:, t, 2 - t : 7 - t] for t in range(3)], axis=1)
    np.testing.assert_array_equal(ops.convert_to_numpy(skew(ops.convert_to_tensor(x))), expected)


PLACED = {
    "same": (np.arange(7), np.arange(7)),
    "longer": (np.arange(7), np.arange(13)),
    "shorter": (np.arange(7), 3 + np.arange(2)),
    "a step": (np.array([8191]), 8170 + np.arange(22)),
    "before": (8100 + np.arange(7), 8085 + np.arange(5)),
    "after": (np.arange(7), 11 + np.arange(5)),
}


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("beyond", ["clip", "zero"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize("placed", PLACED)
@pytest.mark.parametrize("distance", [4, 30])  # a table shorter and longer than there are diagonals
def test_scores_are_products_pair_by_pair(distance, placed, per_head, bidirectional, beyond, rank):
    places = [positions if rank == 1 else np.tile(positions, (2, 1)) for positions in PLACED[placed]]
    layer = RelativePositionEmbedding(distance, bidirectional, beyond, per_head, embeddings_initializer="normal")
    query = np.random.default_rng(0).normal(size=(2, len(PLACED[placed][0]), 3, 5)).astype("float32")
    found = numpy(layer.scores(query, *places))
    table = layer.get_weights()[0]
    assert table.shape == ((3,) if per_head else ()) + (2 * distance + 1 if bidirectional else distance + 1, 5)

    def vector(head, relative):
        if (beyond == "zero" and abs(relative) > distance) or (not bidirectional and relative > 0):
            return np.zeros(5)
        return (table[head] if per_head else table)[min(max(relative, -distance), distance) + distance]

    positions = [np.tile(p, (2, 1)) for p in PLACED[placed]]
    np.testing.assert_allclose(found, positions_numpy.relative_scores(query, vector, *positions), atol=1e-6)


@pytest.fixture(scope="module")
def golden():
    paths = [place / "music_relative_attention.npz" for place in PLACES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        pytest.skip(f"the golden arrays are in none of {', '.join(map(str, paths))}")
    return np.load(path)


def with_table(table, **arguments):
    rows, width = table.shape[-2:]
    distance = rows // 2 if arguments.get("bidirectional", True) else rows - 1
    heads = len(table) if table.ndim == 3 else None
    layer = RelativePositionEmbedding(distance, per_head=heads is not None, num_heads=heads, key_dim=width, **arguments)
    layer.set_weights([table])
    return layer


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("heads", ["perhead", "shared"])
@pytest.mark.parametrize("longest", [5, 9, 16])
def test_logits_of_the_music_transformer(golden, longest, heads, rank):
    """The table is shorter than, as long as and longer than the sequence of 9."""
    run = f"v2_max{longest}_{heads}"
    layer = with_table(golden[f"w/{run}:att/key_relative_embeddings"], bidirectional=False, beyond="zero")
    query, key = golden["in/q"], golden["in/k"]  # (B, H, L, K); the queries are scaled
    places = np.arange(9) if rank == 1 else np.arange(9)[None]
    found = np.einsum("bhtk,bhsk->bhts", query, key) + numpy(layer.scores(query.swapaxes(1, 2), places, places))
    seen = np.tri(9, dtype=bool)
    # Ten times what a naive loop over pairs differs from their run, 5.3e-7.
    np.testing.assert_allclose(found[..., seen], golden[f"out/{run}.logits"][..., seen], atol=5e-6)


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("run", ["unmasked_max9", "unmasked_max4", "shaw_max3"])
def test_outputs_with_a_table_to_both_sides(golden, run, rank):
    shaw = run.startswith("shaw")  # under a causal mask, the others without one
    name = "relative_positions_keys/embeddings" if shaw else "key_relative_embeddings"
    layer = with_table(golden[f"w/{run}:att/{name}"], beyond="clip" if shaw else "zero")
    query, key, value = (golden[f"in/{x}"] for x in "qkv")
    places = np.arange(9) if rank == 1 else np.arange(9)[None]
    scores = np.einsum("bhtk,bhsk->bhts", query, key) + numpy(layer.scores(query.swapaxes(1, 2), places, places))
    if shaw:
        scores = np.where(np.tri(9, dtype=bool), scores, -1e9)
    output = softmax(scores) @ value
    if shaw:  # equation 3, which the layer leaves out
        distances = np.clip(np.arange(9) - np.arange(9)[:, None], -3, 3) + 3
        vectors = golden[f"w/{run}:att/relative_positions_values/embeddings"][distances]
        output += np.einsum("bhts,tsk->bhtk", softmax(scores), vectors)
    np.testing.assert_allclose(output, golden[f"out/{run}"], atol=5e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_distance": -1}, "at least 0. Received: max_distance=-1"),
        ({"max_distance": 2.5}, "at least 0. Received: max_distance=2.5"),
        ({"max_distance": 2, "beyond": "wrap"}, "one of .'clip', 'zero'.. Received: beyond='wrap'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelativePositionEmbedding(**arguments)


def test_queries_of_another_width_are_refused():
    layer = RelativePositionEmbedding(2, key_dim=5)
    with pytest.raises(ValueError, match=r"heads of width 5.*Received: query.shape=\(2, 3, 1, 7\)"):
        layer.scores(np.zeros((2, 3, 1, 7), "float32"), np.arange(3), np.arange(3))


def test_no_tensor_has_a_vector_for_each_pair():
    """Memory: the largest value on the way is the scores themselves, or those of their diagonals."""
    jax = pytest.importorskip("jax")
    if not hasattr(ops.zeros(()), "aval"):
        pytest.skip("read off JAX's program, which needs that backend")
    layer = RelativePositionEmbedding(64, key_dim=32)
    places = [(np.arange(128), np.arange(131)), (np.arange(128)[None], np.arange(131)[None])]
    for query_positions, key_positions in places:
        program = jax.make_jaxpr(lambda q: layer.scores(q, query_positions, key_positions))(np.zeros((1, 128, 2, 32)))  # noqa: B023
        sizes = [v.aval.size for e in program.jaxpr.eqns for v in e.outvars]
        assert max(sizes) <= 2 * 128 * (128 + 131)
