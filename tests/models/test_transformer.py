"""The encoder-decoder: its size, its laws, its search, and its life as a Keras model."""

import keras
import numpy as np
import pytest
from keras import ops
from tiers import slow_but

from keras_transformer.layers import GatedFeedForward, LayerScale, MultiHeadAttention, PositionEmbedding, SandwichNorm
from keras_transformer.models import PRESETS, Transformer, preset_config
from keras_transformer.training import CrossEntropy, SmoothedCrossEntropy, TokenAccuracy

B, T, S, V = 2, 5, 7, 23
SIZES = {"num_layers": 2, "num_heads": 3, "hidden_dim": 15, "intermediate_dim": 19}
# float32 through four blocks and a product of 15 numbers: logits of order 1.
TOLERANCE = 1e-5


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def transformer(**kwargs):
    keras.utils.set_random_seed(7)
    return Transformer(**{"vocabulary_size": V, **SIZES, **kwargs})


def ids(*shape, low=4, high=V, seed=0):
    return np.random.default_rng((seed, *shape)).integers(low, high, shape).astype("int32")


def inputs(batch=B, source=S, target=T, **kwargs):
    return {
        "encoder_token_ids": ids(batch, source, **kwargs),
        "decoder_token_ids": ids(batch, target, seed=1, **kwargs),
    }


VARIANTS = {
    "post-norm": {},
    "pre-norm, two vocabularies": {"normalize_first": True, "target_vocabulary_size": 29},
    "parts": {
        "attention": MultiHeadAttention(3, 7, use_bias=False),
        "feed_forward": GatedFeedForward(11, use_bias=False),
        "normalization": keras.layers.RMSNormalization(),
        "residual": SandwichNorm(LayerScale(0.5)),
    },
}


@pytest.fixture(scope="module", params=slow_but(["pre-norm, two vocabularies", "parts"], VARIANTS))
def model(request):
    return transformer(**VARIANTS[request.param])


@pytest.fixture(scope="module")
def plain():
    return transformer()


# --- Size ---


def count(vocabulary, layers, width, inner, target_vocabulary=0, final_norms=0):
    """Weights by section 3: of attention with biases, of the feed-forward network, and of the norms."""
    attention, feed_forward, norm = 4 * (width * width + width), 2 * width * inner + inner + width, 2 * width
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    return (vocabulary + target_vocabulary) * width + layers * (encoder + decoder) + final_norms * norm


def test_the_number_of_weights(model):
    expected = count(V, 2, 15, 19, model.target_vocabulary_size or 0, 2 * model.normalize_first)
    if model.attention is not None:
        attention, feed_forward, sublayer = 4 * 15 * 21, 3 * 15 * 11, 3 * 15  # two gains and a scale
        expected = V * 15 + 2 * (3 * attention + 2 * feed_forward + 5 * sublayer) + 2 * 15
    assert model.count_params() == expected


def test_the_number_of_weights_of_base_and_big_by_the_formula():
    assert count(37_000, 6, 512, 2048) == 63_082_496
    assert count(37_000, 6, 1024, 4096) == 214_245_376


@pytest.mark.parametrize(
    "name, expected", [("base", 63_082_496), pytest.param("big", 214_245_376, marks=pytest.mark.slow)]
)
def test_the_number_of_weights_of_presets(name, expected):
    assert Transformer.from_preset(name, vocabulary_size=37_000).count_params() == expected


def test_presets_are_arguments():
    model = Transformer.from_preset("tiny", vocabulary_size=V, num_layers=1)
    assert (model.num_layers, model.num_heads, model.hidden_dim, model.dropout) == (1, 4, 128, 0.3)
    assert {name: preset_config(name) for name in PRESETS} == PRESETS


# --- Laws ---


def test_no_position_sees_what_comes_after_it(model):
    data = inputs()
    before = numpy(model(data))
    assert before.shape == (B, T, model.target_vocabulary_size or V)
    for position in range(T):
        changed = data["decoder_token_ids"].copy()
        changed[:, position] = 4 + (changed[:, position] - 3) % (V - 4)
        after = numpy(model({**data, "decoder_token_ids": changed}))
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert (np.abs(after - before)[:, position:].max(axis=(0, 2)) > 1e-4).all()


@pytest.mark.parametrize("pads", [1, 3])
def test_padding_changes_no_real_logit(model, pads):
    data = inputs()
    expected = numpy(model(data))
    padded = {name: np.pad(value, ((0, 0), (0, pads))) for name, value in data.items()}
    masks = {name.replace("token_ids", "padding_mask"): value != 0 for name, value in padded.items()}
    np.testing.assert_allclose(numpy(model(padded))[:, :T], expected, atol=TOLERANCE)
    np.testing.assert_allclose(numpy(model({**padded, **masks}))[:, :T], expected, atol=TOLERANCE)


def test_masks_given_overrule_the_pad_id(plain):
    data = inputs()
    mask = np.ones((B, S), bool)
    mask[:, 4:] = False
    short = {**data, "encoder_token_ids": data["encoder_token_ids"][:, :4]}
    found = numpy(plain({**data, "encoder_padding_mask": mask}))
    np.testing.assert_allclose(found, numpy(plain(short)), atol=TOLERANCE)
    with_zero = {**data, "encoder_token_ids": data["encoder_token_ids"] * (np.arange(S) < 4)}
    np.testing.assert_allclose(numpy(plain(with_zero)), numpy(plain(short)), atol=TOLERANCE)
    without_pad_id = transformer(pad_token_id=None)
    without_pad_id.set_weights(plain.get_weights())
    assert np.abs(numpy(without_pad_id(with_zero)) - numpy(plain(short))).max() > 1e-3


def test_a_row_depends_on_no_other(model):
    data = inputs(batch=3)
    together = numpy(model(data))
    for row in range(3):
        alone = numpy(model({name: value[row : row + 1] for name, value in data.items()}))
        np.testing.assert_allclose(together[row : row + 1], alone, atol=TOLERANCE)


def test_attention_scores_are_those_of_the_model(model):
    data = inputs()
    data["encoder_token_ids"][1, 4:] = 0
    scores = {name: [numpy(x) for x in layers] for name, layers in model.attention_scores(data).items()}
    assert {name: [x.shape for x in layers] for name, layers in scores.items()} == {
        "encoder": [(B, 3, S, S)] * 2,
        "self": [(B, 3, T, T)] * 2,
        "cross": [(B, 3, T, S)] * 2,
    }
    for layer in range(2):
        assert (scores["cross"][layer][1, :, :, 4:] == 0).all()
        assert (np.triu(scores["self"][layer], 1) == 0).all()
        np.testing.assert_allclose(scores["cross"][layer].sum(-1), 1, atol=1e-6)


def test_embeddings_start_so_that_logits_are_of_order_one():
    model = Transformer(997, num_layers=1, num_heads=2, hidden_dim=128, intermediate_dim=19)
    logits = numpy(model(inputs(high=997)))
    assert 0.5 < logits.std() < 2


# --- Decoding ---


def test_logits_with_a_cache_are_those_without(model):
    data = inputs(batch=3)
    source = data["encoder_token_ids"]
    source[1, 4:] = 0
    expected = numpy(model(data))
    mask = source != 0
    states = model.encode(source, mask)
    cache = model.make_cache(states, S)
    for step in range(T):
        hidden, cache = model.decode(
            data["decoder_token_ids"][:, step : step + 1], encoder_padding_mask=mask, cache=cache
        )
        np.testing.assert_allclose(numpy(model.logits(hidden))[:, 0], expected[:, step], atol=TOLERANCE)


def log_softmax(x):
    x = x.astype("float64")
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def naive_greedy(model, source, steps):
    """The most probable token after another, each from a whole forward pass: `(B, steps)`, and its log p."""
    tokens = np.full((len(source), 1), model.start_token_id, "int32")
    total = np.zeros((len(source), 0))
    for _ in range(steps):
        logits = numpy(model({"encoder_token_ids": source, "decoder_token_ids": tokens}))[:, -1]
        tokens = np.concatenate([tokens, logits.argmax(-1)[:, None].astype("int32")], axis=1)
        total = np.concatenate([total, log_softmax(logits).max(-1, keepdims=True)], axis=1)
    return tokens[:, 1:], total


@pytest.fixture(scope="module")
def source():
    source = ids(3, S, seed=5)
    source[1, 4:] = 0
    return source


def search(model, source, **kwargs):
    """`generate` step by step, which here is faster than to make a graph of it."""
    return type(result := model.search(ops.convert_to_tensor(source), **kwargs))(*map(ops.convert_to_numpy, result))


def test_greedy_search_is_an_argmax_loop(model, source):
    expected, log_p = naive_greedy(model, source, T)
    end = int(expected[0, 2])  # so that at least one sentence ends early, at the first place of this token
    found = search(model, source, max_length=T, end_token_id=end)
    for row in range(3):
        places = np.flatnonzero(expected[row] == end)
        length = places[0] + 1 if len(places) else T
        assert found.lengths[row] == length
        np.testing.assert_array_equal(found.token_ids[row, :length], expected[row, :length])
        assert (found.token_ids[row, length:] == 0).all()
        score = log_p[row, :length].sum() / ((5 + length) / 6) ** 0.6
        np.testing.assert_allclose(found.scores[row], score, rtol=1e-5)  # a float32 sum of 5 log-probabilities
    assert found.lengths.min() < T


@pytest.mark.integration
def test_beam_scores_are_those_of_teacher_forcing(model, source):
    found = search(model, source, max_length=T, num_beams=3, num_return_sequences=2, length_penalty=0.8)
    assert found.token_ids.shape == (3, 2, T) and found.scores.shape == found.lengths.shape == (3, 2)
    assert (found.scores[:, 0] >= found.scores[:, 1]).all()
    for row in range(3):
        for beam in range(2):
            length = found.lengths[row, beam]
            tokens = found.token_ids[row, beam, :length]
            forced = np.concatenate([[model.start_token_id], tokens[:-1]])[None].astype("int32")
            logits = numpy(model({"encoder_token_ids": source[row : row + 1], "decoder_token_ids": forced}))[0]
            log_p = log_softmax(logits)[np.arange(length), tokens].sum()
            # a float32 sum of 5 log-probabilities of about -3, each within 1e-6
            np.testing.assert_allclose(found.scores[row, beam], log_p / ((5 + length) / 6) ** 0.8, rtol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_sentence_is_translated_alone_as_in_a_batch(plain, source, num_beams):
    together = search(plain, source, num_beams=num_beams, max_length=3)
    for row, length in enumerate((S, 4, S)):
        alone = search(plain, source[row : row + 1, :length], num_beams=num_beams, max_length=3)
        np.testing.assert_array_equal(alone.token_ids[0], together.token_ids[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_order_of_sentences_changes_none(plain, source, num_beams):
    order = [2, 0, 1]
    found = search(plain, source, num_beams=num_beams, max_length=3)
    shuffled = search(plain, source[order], num_beams=num_beams, max_length=3)
    np.testing.assert_array_equal(shuffled.token_ids, found.token_ids[order])
    np.testing.assert_allclose(shuffled.scores, found.scores[order], rtol=1e-6)


def test_a_width_above_the_vocabulary_is_exhaustive(source):
    model = transformer(vocabulary_size=5, num_layers=1, num_heads=1)
    found = search(model, source % 5, max_length=2, num_beams=21, num_return_sequences=21, end_token_id=4)
    for row in range(3):
        hypotheses = {tuple(t[:n]) for t, n in zip(found.token_ids[row], found.lengths[row], strict=True)}
        assert hypotheses == {(4,), *((a, b) for a in range(4) for b in range(5))}  # all 21 there are


@pytest.mark.integration
def test_generate_is_search_and_follows_new_weights(source):
    model = transformer(num_layers=1)
    results = []
    for _ in range(2):
        found = model.generate(source, max_length=T, num_beams=2)
        expected = search(model, source, max_length=T, num_beams=2)
        np.testing.assert_array_equal(found.token_ids, expected.token_ids)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
        assert isinstance(found.token_ids, np.ndarray)
        results.append(found.token_ids)
        model.set_weights([-w for w in model.get_weights()])
    assert (results[0] != results[1]).any()


@pytest.mark.integration
def test_a_table_of_positions_ends_a_sentence_and_refuses_what_is_longer():
    model = transformer(encoder_position=PositionEmbedding(S), decoder_position=PositionEmbedding(T))
    found = model.generate(ids(B, S), suppress_tokens=(model.end_token_id,))
    np.testing.assert_array_equal(found.lengths, T)
    expected = model.generate(ids(B, S), max_length=T, suppress_tokens=(model.end_token_id,))
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    assert len(list(model.stream(ids(1, S), suppress_tokens=(model.end_token_id,)))) == T
    with pytest.raises(ValueError, match=f"`max_length` must be at most {T}.*Received: {T + 1}"):
        model.generate(ids(B, S), max_length=T + 1)
    with pytest.raises(ValueError, match=f"`max_length` must be at most {T}.*Received: {T + 1}"):
        model.stream(ids(1, S), max_length=T + 1)
    with pytest.raises(ValueError, match=f"`encoder_token_ids` must be at most {S}.*Received: {S + 1}"):
        model.generate(ids(B, S + 1), max_length=T)


def test_a_source_of_one_token_is_a_source(plain):
    data = inputs(source=1, target=1)
    assert numpy(plain(data)).shape == (B, 1, V)
    assert search(plain, data["encoder_token_ids"], max_length=2).token_ids.shape == (B, 2)


# --- A Keras model ---


@pytest.mark.integration
@pytest.mark.parametrize("shape, num_beams", [((0, S), 3), ((0, 0), 1), ((2, 0), 3)])
def test_no_sources_and_sources_without_a_token(plain, shape, num_beams):
    found = plain.generate(np.zeros(shape, "int32"), max_length=T, num_beams=num_beams)
    assert [x.shape for x in found] == [(shape[0], T), (shape[0],), (shape[0],)]


def test_config_is_the_constructor():
    arguments = {
        "vocabulary_size": V,
        **SIZES,
        "dropout": 0.3,
        "target_vocabulary_size": 29,
        "pad_token_id": None,
        "unk_token_id": 5,
        "start_token_id": 6,
        "end_token_id": 7,
        "attention_dropout": 0.2,
        "activation": "gelu",
        "normalize_first": True,
        "layer_norm_epsilon": 1e-3,
        "name": "model",
    }
    model = Transformer(**arguments)
    clone = Transformer.from_config(model.get_config())
    assert clone.get_config() == model.get_config()
    assert {name: clone.get_config()[name] for name in arguments} == arguments
    assert {name: getattr(clone, name) for name in arguments if name != "activation"} == {
        name: value for name, value in arguments.items() if name != "activation"
    }


def test_a_saved_model_loads_and_predicts_the_same(model, tmp_path):
    data = inputs()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(data)), numpy(model(data)))
    assert loaded.get_config() == model.get_config()


@pytest.mark.integration
def test_without_a_maximum_a_sentence_may_grow_by_50_and_the_model_is_saved_after_it(tmp_path, source):
    model = transformer(num_layers=1)
    found = model.generate(source, end_token_id=-1)
    assert found.token_ids.shape == (3, S + 50)
    assert found.lengths.tolist() == [S + 50, 4 + 50, S + 50]
    model.save(tmp_path / "model.keras")  # the graph that `generate` keeps is not in the way
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = search(loaded, source, max_length=3, end_token_id=-1)
    np.testing.assert_array_equal(again.token_ids, found.token_ids[:, :3])


def test_saved_weights_load(plain, tmp_path):
    plain.save_weights(tmp_path / "model.weights.h5")
    other = transformer()
    other.set_weights([w + 1 for w in other.get_weights()])
    other.load_weights(tmp_path / "model.weights.h5")
    for mine, theirs in zip(other.get_weights(), plain.get_weights()):
        np.testing.assert_array_equal(mine, theirs)
    assert len(other.get_weights()) == len(plain.get_weights()) > 0


@pytest.mark.parametrize("dtype, tolerance", [("mixed_float16", 2e-2), ("mixed_bfloat16", 2e-1)])
def test_half_precision_is_near_float32(plain, dtype, tolerance):
    half = transformer(dtype=dtype)
    half.set_weights(plain.get_weights())
    data = inputs()
    data["encoder_token_ids"][1, 4:] = 0
    # Logits of order 1 after four blocks, each of which rounds to 11 or 8 bits a few times.
    assert np.abs(numpy(half(data)) - numpy(plain(data))).max() < tolerance
    assert {w.dtype for w in half.trainable_weights} == {"float32"}


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_logits_have_one_shape_and_dtype(dtype):
    model = transformer(dtype=dtype, num_layers=1)
    data = inputs()
    symbolic = model({name: keras.Input((None,), dtype="int32") for name in data})
    logits, states = model(data), model.encode(data["encoder_token_ids"])
    alone = model.logits(model.decode(data["decoder_token_ids"], states))
    assert symbolic.shape == (None, None, V) and tuple(logits.shape) == tuple(alone.shape) == (B, T, V)
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in (symbolic, logits, alone)]
    assert len(set(dtypes)) == 1, dtypes


def task():
    """Copying: five sentences in an uneven last batch, padded."""
    source = ids(5, S, seed=9)
    source[1, 4:] = source[3, 2:] = 0
    decoder = np.concatenate([np.full((5, 1), 2, "int32"), source[:, :-1]], axis=1)
    return {"encoder_token_ids": source, "decoder_token_ids": decoder}, source, (source != 0).astype("float32")


def compiled(**kwargs):
    model = transformer(dropout=0.0, num_layers=1)
    model.compile(
        keras.optimizers.Adam(3e-3),
        SmoothedCrossEntropy(0.1),
        weighted_metrics=[CrossEntropy(), TokenAccuracy()],
        **kwargs,
    )
    return model


@pytest.mark.integration
def test_fit_evaluate_and_predict_with_keras_callbacks(tmp_path):
    model, (x, y, weight) = compiled(run_eagerly=True), task()
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="cross_entropy", save_best_only=True),
        keras.callbacks.EarlyStopping(monitor="cross_entropy", patience=3),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = model.fit(x, y, sample_weight=weight, batch_size=3, epochs=4, verbose=0, callbacks=callbacks).history
    assert history["loss"][-1] < 0.95 * history["loss"][0]
    assert history["cross_entropy"][-1] < 0.95 * history["cross_entropy"][0]
    results = model.evaluate(x, y, sample_weight=weight, batch_size=3, verbose=0, return_dict=True)
    assert set(results) == {"loss", "cross_entropy", "accuracy"}
    predicted = model.predict(x, batch_size=3, verbose=0)
    np.testing.assert_allclose(predicted, numpy(model(x)), atol=TOLERANCE)
    log_p = log_softmax(predicted)[np.arange(5)[:, None], np.arange(S), y]
    np.testing.assert_allclose(results["cross_entropy"], -(log_p * weight).sum() / weight.sum(), rtol=1e-5)
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert isinstance(best.loss, SmoothedCrossEntropy) and best.get_config() == model.get_config()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


@pytest.mark.integration
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere Keras makes the optimizer's state first")
def test_the_step_of_training_is_traced_once():
    model, traces = transformer(num_layers=1), []
    model.compile("adam", SmoothedCrossEntropy(), jit_compile=False)
    compute_loss = model.compute_loss
    model.compute_loss = lambda *args, **kwargs: traces.append(1) or compute_loss(*args, **kwargs)
    model.fit(inputs(), ids(B, T), verbose=0)
    assert len(traces) == 1


# --- Errors ---


@pytest.mark.parametrize("argument", ["vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim"])
@pytest.mark.parametrize("value", [0, -3, 2.5, "4"])
def test_sizes_must_be_positive_integers(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be a positive integer. Received: {argument}={value}"):
        transformer(**{argument: value})


def test_the_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match="multiple of `num_heads`. Received: hidden_dim=16, num_heads=3"):
        transformer(hidden_dim=16)


def test_an_unknown_preset_is_refused_with_the_list():
    with pytest.raises(ValueError, match="no preset named 'huge'. Use one of: tiny, base, big"):
        Transformer.from_preset("huge", vocabulary_size=V)


@pytest.mark.parametrize("name", ["encoder_token_ids", "decoder_token_ids"])
def test_missing_inputs_are_named(plain, name):
    with pytest.raises(ValueError, match=f"a dict with.*Received: keys=\\['{name}'\\]"):
        plain({name: ids(B, S)})


def test_generate_refuses_ids_of_another_rank(plain):
    with pytest.raises(ValueError, match=r"`encoder_token_ids` must have the shape.*Received: shape=\(7,\)"):
        plain.generate(ids(S))
