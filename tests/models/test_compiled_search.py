"""Searches that XLA compiles: what they find, and for how many shapes they are compiled."""

import keras
import numpy as np
import pytest
from tiers import slow_but

from keras_transformer import generation
from keras_transformer.generation.buckets import bucket
from keras_transformer.layers import PositionEmbedding
from keras_transformer.models import Transformer

pytestmark = pytest.mark.integration

V = 23
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA's own loop is TensorFlow's")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(7)
    return Transformer(V, num_layers=1, num_heads=3, hidden_dim=15, intermediate_dim=19)


def source(batch, length, seed=5):
    ids = np.random.default_rng(seed).integers(4, V, (batch, length)).astype("int32")
    ids[batch // 2, length // 2 + 1 :] = 0
    return ids


SEARCHES = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "return_alignments": True, "max_length": 70},
    "tensors": {
        "prefix_ids": [[7, 8], [9, 4], [4, 4]],
        "prefix_lengths": [2, 0, 1],
        "max_length": 5,
        "limits": [5, 1, 3],
    },
    "limits beyond all": {"limits": [100, 100, 3]},
}


@pytest.mark.parametrize("case", slow_but(["beams"], SEARCHES))
def test_a_compiled_search_finds_the_same(model, case):
    keywords = SEARCHES[case]
    found = model.generate(source(3, 7), jit_compile=True, **keywords)
    expected = model.generate(source(3, 7), **keywords)
    for name, x in found._asdict().items():
        # float32 in another order, summed over up to 70 tokens
        np.testing.assert_allclose(x, getattr(expected, name), rtol=1e-4, atol=1e-5, err_msg=name)


def test_samples_under_xla_are_of_the_distribution_that_is_left(model):
    keywords = {"max_length": 5, "do_sample": True, "jit_compile": True}
    one, same = (model.generate(source(3, 7), seed=3, temperature=2.0, **keywords).token_ids for _ in range(2))
    np.testing.assert_array_equal(one, same)
    greedy = model.generate(source(3, 7), max_length=5).token_ids
    assert (one != greedy).any()
    np.testing.assert_array_equal(model.generate(source(3, 7), top_k=1, **keywords).token_ids, greedy)


def test_padding_stays_within_a_table_of_positions():
    keras.utils.set_random_seed(7)
    sizes = {"num_layers": 1, "num_heads": 3, "hidden_dim": 15, "intermediate_dim": 19}
    model = Transformer(V, encoder_position=PositionEmbedding(7), decoder_position=PositionEmbedding(5), **sizes)
    found, expected = (model.generate(source(3, 7), jit_compile=jit) for jit in (True, False))
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    assert found.token_ids.shape == (3, 5)


@on_tensorflow
def test_few_shapes_serve_all(model, monkeypatch):
    """XLA compiles a graph once for each shape that it is called with."""
    graphs, calls, compiled = [], set(), generation.compiled

    def recorded(function, jit_compile=False):
        graphs.append(function)
        graph = compiled(function, jit_compile)

        def call(ids, tensors):
            shapes = {name: tuple(x.shape) for name, x in tensors.items()}
            calls.add((len(graphs), tuple(ids.shape), *sorted(shapes.items())))
            return graph(ids, tensors)

        return call

    monkeypatch.setattr(generation, "compiled", recorded)
    for batch, length, max_length in [(3, 7, 4), (5, 3, 9), (4, 16, 9), (3, 9, 16), (4, 2, np.int64(7))]:
        found = model.generate(source(batch, length), max_length=max_length, suppress_tokens=[3], jit_compile=True)
        assert found.token_ids.shape == (batch, max_length)
    assert calls == {(1, (4, 16), ("limits", (4,))), (1, (8, 16), ("limits", (8,)))}


@pytest.mark.parametrize(
    "size, least, steps, expected",
    [
        *[(0, 1, 1, 1), (1, 1, 1, 1), (2, 1, 1, 2), (3, 1, 1, 4), (64, 1, 1, 64), (5, 16, 1, 16), (5, 16, 2, 16)],
        *[(17, 16, 2, 24), (24, 16, 2, 24), (25, 16, 2, 32), (33, 16, 2, 48), (64, 16, 2, 64), (65, 16, 2, 96)],
    ],
)
def test_buckets(size, least, steps, expected):
    assert bucket(size, least, steps) == expected
    assert int(bucket(keras.ops.convert_to_tensor(size, "int32"), least, steps)) == expected


@on_tensorflow
def test_kernels_of_a_compiled_search_are_those_of_now():
    keras.utils.set_random_seed(8)
    model = Transformer(V, num_layers=1, num_heads=3, hidden_dim=15, intermediate_dim=19)
    model.generate(source(3, 7), max_length=6, jit_compile=True)
    model.set_weights([2 * x for x in model.get_weights()])
    found, expected = (model.generate(source(3, 7), max_length=6, jit_compile=jit) for jit in (True, False))
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@on_tensorflow
def test_one_sentence_in_8_bits_is_searched_beside_an_empty_row(monkeypatch):
    keras.utils.set_random_seed(8)
    model = Transformer(V, num_layers=1, num_heads=3, hidden_dim=15, intermediate_dim=19)
    expected = model.generate(source(1, 7), max_length=6, jit_compile=True)
    model.quantize("int8", filters=lambda layer: isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense)))
    batches, search = [], model.search
    monkeypatch.setattr(model, "search", lambda ids, **kwargs: (batches.append(ids.shape[0]), search(ids, **kwargs))[1])
    found = model.generate(source(1, 7), max_length=6, jit_compile=True)
    assert batches == [2] and found.token_ids.shape == expected.token_ids.shape
    # Kernels and states are off by up to 1/254 of the largest value: some percent in all, far below another token's.
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0.05)


@on_tensorflow
@pytest.mark.parametrize("lora", [False, True])
def test_stored_kernels_find_the_same(lora):
    keras.utils.set_random_seed(8)
    model = Transformer(V, num_layers=1, num_heads=3, hidden_dim=15, intermediate_dim=19)
    model.generate(source(3, 7), max_length=2)  # builds it
    if lora:
        model.target_token_embedding.enable_lora(2)
        embedding = model.target_token_embedding
        embedding.lora_embeddings_b.assign(np.random.default_rng(2).normal(size=embedding.lora_embeddings_b.shape))
    found = model.compiled_search(False, model.stored_kernels(), max_length=6)(source(3, 7), {})
    expected = model.compiled_search(False, max_length=6)(source(3, 7), {})
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)  # as above


def test_a_batch_of_none(model):
    found = model.generate(np.zeros((0, 7), "int32"), max_length=3, jit_compile=True)
    assert found.token_ids.shape == (0, 3) and found.scores.shape == (0,)
