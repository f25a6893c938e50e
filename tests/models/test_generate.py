"""`generate` and `stream` with their keywords, on a model."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from keras import ops
from tiers import slow_but

from keras_transformer import generation
from keras_transformer.models import Transformer

pytestmark = pytest.mark.integration

B, S, T, V = 3, 7, 5, 23
on = keras.backend.backend()


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(7)
    return Transformer(V, num_layers=2, num_heads=3, hidden_dim=15, intermediate_dim=19)


@pytest.fixture(scope="module")
def source():
    source = np.random.default_rng(5).integers(4, V, (B, S)).astype("int32")
    source[1, 4:] = 0
    return source


def by_hand(model, source, **keywords):
    """The same search without a graph, as NumPy arrays."""
    found = model.search(ops.convert_to_tensor(source), **keywords)
    return type(found)(*map(ops.convert_to_numpy, found))


KEYWORDS = {
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_length": 3, "suppress_tokens": [5, 6]},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 1},
    "prefixes": {"prefix_ids": [[7, 8], [9, 4], [4, 4]], "prefix_lengths": [2, 0, 1], "num_beams": 2},
    "samples": {"do_sample": True, "seed": 3, "top_p": 0.9, "top_k": 9, "min_p": 0.01, "temperature": 1.5},
    "limits": {"limits": np.array([5, 1, 3])},
}


@pytest.mark.parametrize("name", slow_but(["prefixes", "samples"], KEYWORDS))
def test_generate_takes_the_keywords_of_search(model, source, name):
    keywords = KEYWORDS[name]
    found, expected = (
        f(source, max_length=T, **keywords) for f in (model.generate, lambda *a, **k: by_hand(model, *a, **k))
    )
    assert type(found) is generation.Hypotheses and isinstance(found.token_ids, np.ndarray)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_alignments_are_attention_scores_of_the_whole_sentence(model, source, num_beams):
    found = model.generate(
        source,
        max_length=T,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        end_token_id=9,
        return_alignments=True,
    )
    assert found.alignments.shape == (B, num_beams, T, S)
    for row, beam in itertools.product(range(B), range(num_beams)):
        length = found.lengths[row, beam]
        forced = np.r_[model.start_token_id, found.token_ids[row, beam, : length - 1]][None]
        scores = model.attention_scores({"encoder_token_ids": source[row : row + 1], "decoder_token_ids": forced})
        expected = ops.convert_to_numpy(scores["cross"][-1])[0].mean(0)
        # Sums of 7 float32 products, in other shapes, through four blocks.
        np.testing.assert_allclose(found.alignments[row, beam, :length], expected, atol=1e-6)
        assert not found.alignments[row, beam, length:].any()
    assert not found.alignments[1, ..., 4:].any()  # padding is not looked at


def test_a_seed_gives_one_result_and_no_graph_of_its_own(model, source):
    sample = dict(max_length=T, do_sample=True, num_return_sequences=4)
    one, same, other = (model.generate(source, seed=seed, **sample) for seed in (1, 1, 2))
    graphs = len(model._generate_functions)
    np.testing.assert_array_equal(one.token_ids, same.token_ids)
    assert (one.token_ids != other.token_ids).any()
    free = model.generate(source, **sample)
    assert (free.token_ids != model.generate(source, **sample).token_ids).any()
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        drawn.append(model.generate(source, **sample).token_ids)
    np.testing.assert_array_equal(*drawn)
    assert len(model._generate_functions) == graphs


@pytest.mark.integration
def test_streams_what_generate_finds_greedily(model, source):
    for row, keywords in itertools.product(range(B), ({}, {"no_repeat_ngram_size": 1, "min_length": 3})):
        found = model.generate(source[row : row + 1], max_length=T, **keywords)
        tokens = list(model.stream(source[row : row + 1], max_length=T, **keywords))
        assert tokens == found.token_ids[0, : found.lengths[0]].tolist()


def test_a_stream_may_grow_by_50_and_ends_at_the_end_token(model, source):
    assert len(list(model.stream(source[1:2]))) <= 54
    never = list(model.stream(source[1:2], suppress_tokens=[model.end_token_id]))
    assert len(never) == 54  # 50 more than the source has tokens
    tokens = list(
        model.stream(source[:1], max_length=9, processors=(lambda logits, context: only(logits, context, 3),))
    )
    assert tokens == [4, 4, 4, model.end_token_id]


def only(logits, context, when):
    """Token 4 until step `when`, then the end."""
    token = ops.where(context.step < when, 4, context.end_token_id)
    return ops.where(ops.arange(logits.shape[-1]) == token, 0.0, -float("inf")) + 0 * logits


@pytest.mark.skipif(on != "tensorflow", reason="tf.function")
def test_a_stream_traces_nothing_once_lengths_have_varied():
    model = Transformer(V, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4)
    next(model.stream(np.full((1, 3), 5)))
    graphs = model._generate_functions(("stream", ()), None)
    for length in (5, 7, 11, 2):
        next(model.stream(np.full((1, length), 5)))
        if length == 7:
            before = [graph.experimental_get_tracing_count() for graph in graphs]
    after = [graph.experimental_get_tracing_count() for graph in graphs]
    assert after == before


@pytest.mark.parametrize(
    "keywords, error, message",
    [
        ({"tempratur": 1.0}, TypeError, "`tempratur` is no keyword of this search. Use one of: do_sample,"),
        ({"temperature": 0.7}, ValueError, "temperature=0.7 without do_sample=True"),
        ({"num_beams": 0}, ValueError, "num_beams=0"),
        ({"num_beams": 2, "num_return_sequences": 3}, ValueError, "num_return_sequences=3, num_beams=2"),
        ({"do_sample": True, "seed": -1}, ValueError, "seed=-1"),
        ({"max_length": 0}, ValueError, "max_length=0"),
        ({"prefix_ids": [[1], [2]]}, ValueError, r"`prefix_ids` must have one entry for each of the 3.*\(2, 1\)"),
        ({"prefix_ids": [[1.5], [2], [3]]}, ValueError, "`prefix_ids` must be integers. Received: dtype=float64"),
        ({"limits": [3, 2]}, ValueError, r"`limits` must have one entry for each of the 3 sentences.*\(2,\)"),
        ({"limits": [[3], [2], [1]]}, ValueError, r"`limits` must have the shape \(batch,\).*\(3, 1\)"),
        ({"limits": [3.0, np.nan, 2.0]}, ValueError, "`limits` must be integers. Received: dtype=float64"),
        ({"end_token_id": [6, 19]}, ValueError, r"`end_token_id` must be one integer.*\[6, 19\]"),
        ({"pad_token_id": 3.5}, ValueError, "`pad_token_id` must be one integer.*3.5"),
        ({"num_beams": True}, ValueError, "num_beams=True"),
        ({"processors": generation.MinLength(3)}, ValueError, r"`processors` must be a tuple.*MinLength\(min_length=3"),
        ({"prefix_ids": [[V], [2], [3]]}, ValueError, f"must be below {V}.*Received: {V}"),
        ({"suppress_tokens": [V]}, ValueError, f"must be below {V}"),
    ],
)
def test_generate_refuses_what_has_no_meaning(model, source, keywords, error, message):
    for jit_compile in (False, True):
        with pytest.raises(error, match=message):
            model.generate(source, jit_compile=jit_compile, **keywords)


@pytest.mark.parametrize(
    "source, message",
    [
        ([[3, V]], f"`encoder_token_ids` must be ids of at least 0, below {V}.*Received: {V} among them"),
        ([[3, -1]], "Received: -1 among them"),
        ([[3.0, 4.0]], "`encoder_token_ids` must be integers. Received: dtype=float64"),
        ([3, 4], r"the shape \(batch, length\).*\(2,\)"),
    ],
)
def test_sources_that_are_none_are_refused(model, source, message):
    for function in (model.generate, model.stream):
        with pytest.raises(ValueError, match=message):
            function(np.array(source))


def test_other_processors_are_another_search(model, source):
    for token in (5, 7):
        prefix = generation.ForcedPrefix(np.full((B, 1), token))
        found = model.generate(source, max_length=2, processors=(prefix,))
        assert found.token_ids[:, 0].tolist() == [token] * B


@dataclasses.dataclass(frozen=True)
class Bias(generation.LogitsProcessor):
    bias: np.ndarray  # which has no hash

    def __call__(self, logits, context):
        return logits + ops.convert_to_tensor(self.bias)


def test_a_processor_without_a_hash_is_itself_alone(model, source):
    processors = [Bias(1e6 * np.eye(V, dtype="float32")[token]) for token in (5, 7, 5)]
    found = [model.generate(source, max_length=1, processors=(p,)).token_ids[0, 0] for p in processors]
    assert found == [5, 7, 5]
    graphs = len(model._generate_functions)
    model.generate(source, max_length=1, processors=(processors[0],))
    assert len(model._generate_functions) == graphs


def test_equal_settings_are_one_graph(source):
    model = Transformer(V, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4)
    for penalty in (generation.AverageLength(1.0), generation.AverageLength(1), np.float32(0.5), 0.5):
        model.generate(source, max_length=np.int64(2), num_beams=2, length_penalty=penalty, min_length=np.int64(1))
    assert len(model._generate_functions) == 2


def test_a_model_that_was_changed_is_searched_as_it_is_now(source):
    model = Transformer(V, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4)
    before = model.generate(source, max_length=3)
    model.target_token_embedding.enable_lora(2)
    model.target_token_embedding.lora_embeddings_b.assign(np.ones((2, 4)))
    found, expected = model.generate(source, max_length=3), by_hand(model, source, max_length=3)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert np.abs(found.scores - before.scores).max() > 1e-3


def test_stream_refuses_more_than_a_sentence_and_keywords_that_it_does_not_have(model, source):
    with pytest.raises(ValueError, match=r"must be one source.*\(3, 7\)"):
        model.stream(source)
    with pytest.raises(TypeError, match="`num_beams` is no keyword of this search. Use one of: min_length"):
        model.stream(source[:1], num_beams=3)
    with pytest.raises(ValueError, match="max_length=0"):
        model.stream(source[:1], max_length=0)
    with pytest.raises(ValueError, match="temperature=0.5 without do_sample=True"):
        model.stream(source[:1], temperature=0.5)


def test_a_model_that_has_generated_is_saved(tmp_path, source):
    model = Transformer(V, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4)
    model.generate(source, max_length=2, do_sample=True)
    list(model.stream(source[:1], max_length=2))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.generate(source, max_length=2).token_ids, model.generate(source, max_length=2).token_ids
    )
