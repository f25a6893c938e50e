"""The decoder-only model: its laws, its prompts, and its life as a Keras model."""

import itertools

import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops
from tiers import slow_but

from keras_transformer import generation
from keras_transformer.generation.prompts import right_aligned
from keras_transformer.layers import (
    AlibiBias,
    GatedFeedForward,
    MultiHeadAttention,
    PositionEmbedding,
    RelativePositionBias,
    RotaryEmbedding,
    patterns,
)
from keras_transformer.models import CausalLM
from keras_transformer.models.prompted import PromptedDecoder
from keras_transformer.training import LinearCrossEntropy, SmoothedCrossEntropy

pytestmark = pytest.mark.integration

B, T, V, L = 3, 7, 23, 11
SIZES = {"num_layers": 2, "num_heads": 3, "hidden_dim": 18, "intermediate_dim": 19}
# float32 through two blocks and a product of 18 numbers: logits of order 1.
TOLERANCE = 1e-5


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def causal_lm(**kwargs):
    """With weights of a size at which everything shows in the logits."""
    keras.utils.set_random_seed(7)
    model = CausalLM(**{"vocabulary_size": V, **SIZES, **kwargs})
    rng = np.random.default_rng(11)
    model.set_weights([w + rng.normal(0, 0.3, w.shape) for w in model.get_weights()])
    return model


def ids(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).integers(4, V, shape).astype("int32")


VARIANTS = {
    "sinusoids": dict,
    "table, post-norm, scaled": lambda: {
        "position": PositionEmbedding(L),
        "normalize_first": False,
        "embedding_scale": 18**0.5,
    },
    "rotary, untied": lambda: {"position": RotaryEmbedding(), "tie_word_embeddings": False},
    "T5's bias": lambda: {"position": RelativePositionBias(8, 7, bidirectional=False)},
    "alternating windows": lambda: {
        "position": AlibiBias(),
        "attention": [
            MultiHeadAttention(3, 5, use_output_bias=False),
            MultiHeadAttention(3, 5, pattern=patterns.SlidingWindow(2), num_key_value_heads=1),
        ],
        "feed_forward": GatedFeedForward(11, use_bias=False),
        "normalization": keras.layers.RMSNormalization(),
    },
}


@pytest.fixture(scope="module", params=slow_but(["table, post-norm, scaled", "alternating windows"], VARIANTS))
def model(request):
    return causal_lm(**VARIANTS[request.param]())


@pytest.fixture(scope="module")
def plain():
    return causal_lm(num_layers=1)


# --- Laws ---


def test_no_position_sees_what_comes_after_it(model):
    data = ids(B, T)
    before = numpy(model({"token_ids": data}))
    assert before.shape == (B, T, V)
    for position in range(T):
        changed = data.copy()
        changed[:, position] = 4 + (changed[:, position] - 3) % (V - 4)
        after = numpy(model({"token_ids": changed}))
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert np.abs(after - before)[:, position].max(axis=-1).min() > 1e-4


def test_no_gradient_comes_from_what_is_later(model):
    position, hidden = 3, model.hidden_dim
    rng = np.random.default_rng(2)

    def of_position(x):
        for block in model.blocks:
            x = block(x)
        return ops.sum(model.logits(model.final_norm(x))[:, position] ** 2)

    gradient = gradients(of_position, rng.normal(size=(B, T, hidden)).astype("float32"))[0]
    assert (gradient[:, position + 1 :] == 0).all() and np.abs(gradient[:, position]).max() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_real_logit(model, side):
    data = ids(B, T)
    width, real = ((2, 0), slice(2, None)) if side == "left" else ((0, 2), slice(T))
    padded = np.pad(data, ((0, 0), width), constant_values=9)
    mask = np.pad(np.ones((B, T), bool), ((0, 0), width))
    found = numpy(model({"token_ids": padded, "padding_mask": mask}))
    np.testing.assert_allclose(found[:, real], numpy(model({"token_ids": data})), atol=TOLERANCE)
    if side == "right":
        np.testing.assert_allclose(numpy(model({"token_ids": padded}))[:, real], found[:, real], atol=TOLERANCE)


def test_packed_texts_are_as_if_alone(model):
    data, segments = ids(1, T), np.array([[1, 1, 1, 2, 2, 2, 2]])
    together = numpy(model({"token_ids": data, "segment_ids": segments}))
    for text in (slice(3), slice(3, T)):
        alone = numpy(model({"token_ids": data[:, text]}))
        np.testing.assert_allclose(together[:, text], alone, atol=TOLERANCE)


def test_a_row_depends_on_no_other(model):
    data = ids(B, T)
    together = numpy(model({"token_ids": data}))
    for row in range(B):
        alone = numpy(model({"token_ids": data[row : row + 1]}))
        np.testing.assert_allclose(together[row : row + 1], alone, atol=TOLERANCE)


def test_layers_take_attention_in_turn(model):
    kinds = [block._self_attention_layer.pattern for block in model.blocks]
    scores = [numpy(x) for x in model.attention_scores({"token_ids": ids(B, T)})]
    assert [x.shape for x in scores] == [(B, 3, T, T)] * 2
    for pattern, x in zip(kinds, scores):
        assert (np.triu(x, 1) == 0).all()
        assert (np.tril(x, -2) == 0).all() == (pattern is not None)
    assert (kinds[1] is not None) == isinstance(model.attention, list)


# --- Prompts ---


@pytest.fixture(scope="module")
def prompts():
    """Three prompts of 4, 5 and 2 tokens: padded to the left, not, and to both sides."""
    data, mask = ids(B, 5), np.ones((B, 5), bool)
    mask[0, :1] = mask[2, :1] = mask[2, 3:] = False
    return data, mask


def real(prompts, row):
    return prompts[0][row, prompts[1][row]]


def search(model, *args, **kwargs):
    """`generate` step by step, which here is faster than to make a graph of it."""
    args = [ops.convert_to_tensor(x) for x in args]
    return type(result := model.search(*args, **kwargs))(*map(ops.convert_to_numpy, result))


def test_logits_with_a_cache_are_those_without(model):
    data = ids(B, T)
    expected = numpy(model({"token_ids": data}))
    cache = model.make_cache(B, T + 2)
    start = 0
    for size in (3, 1, 2, 1):
        hidden, cache = model.decode(data[:, start : start + size], cache=cache)
        found = numpy(model.logits(hidden))
        np.testing.assert_allclose(found, expected[:, start : start + size], atol=TOLERANCE)
        start += size


@pytest.mark.parametrize("num_beams", [1, 2])
def test_every_step_after_padded_prompts_has_the_logits_of_the_whole_text(model, prompts, num_beams):
    token_ids, lengths = right_aligned(*map(ops.convert_to_tensor, prompts))
    decoder = PromptedDecoder(model, token_ids, 4, lengths)
    state = decoder.start(num_beams)
    following = ids(B * num_beams, 3, seed=3)
    texts = [np.r_[real(prompts, row // num_beams), tokens] for row, tokens in enumerate(following)]
    expected = [numpy(model({"token_ids": text[None]}))[0, -4:] for text in texts]
    given = np.c_[np.repeat(numpy(token_ids)[:, -1], num_beams).astype("int32"), following]
    for step in range(4):
        logits, state = decoder.step(ops.convert_to_tensor(given[:, step]), state)
        np.testing.assert_allclose(numpy(logits), [logits[step] for logits in expected], atol=TOLERANCE)
        if num_beams == 2:  # the beams of a sentence change places, and with them the texts
            rows = np.arange(B * num_beams).reshape(B, 2)[:, ::-1].ravel()
            state = decoder.reorder(state, ops.convert_to_tensor(rows.astype("int32")))
            given, expected = given[rows], [expected[row] for row in rows]


def log_p(model, text, start):
    """Of the tokens of `text` from `start` on."""
    logits = numpy(model({"token_ids": text[None]}))[0, start - 1 : len(text) - 1].astype("float64")
    logits -= np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return logits[np.arange(len(logits)), text[start:]].sum()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_are_those_of_teacher_forcing(plain, prompts, num_beams):
    keywords = dict(max_length=L, num_beams=num_beams, num_return_sequences=num_beams, end_token_id=5, pad_token_id=1)
    found = search(plain, *prompts, **keywords)
    for row, beam in itertools.product(range(B), range(num_beams)):
        prompt, length = real(prompts, row), found.lengths[row, beam]
        text = found.token_ids[row, beam]
        np.testing.assert_array_equal(text[: len(prompt)], prompt)
        assert (text[length:] == 1).all() and (length == L or text[length - 1] == 5)
        penalty = ((5 + length - len(prompt)) / 6) ** 0.6
        # a float32 sum of up to 9 log-probabilities of about -3, each within 1e-6
        expected = log_p(plain, text[:length], len(prompt)) / penalty
        np.testing.assert_allclose(found.scores[row, beam], expected, rtol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_prompt_goes_on_alone_as_in_a_batch(plain, prompts, num_beams):
    together = search(plain, *prompts, num_beams=num_beams, max_length=8)
    assert together.lengths.tolist() == [8] * B
    for row in range(B):
        alone = search(plain, real(prompts, row)[None], num_beams=num_beams, max_length=8)
        tokens = list(plain.stream(real(prompts, row)[None], max_length=8)) if num_beams == 1 else []
        assert [*real(prompts, row), *tokens] == alone.token_ids[0, : prompts[1][row].sum() + len(tokens)].tolist()
        np.testing.assert_array_equal(alone.token_ids[0], together.token_ids[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"num_beams": 2, "num_return_sequences": 2},
        {"do_sample": True, "seed": 3, "top_k": 5, "num_return_sequences": 2},
        {"limits": np.array([6, 7, 8]), "prefix_ids": [[7, 8], [9, 4], [4, 4]]},
    ],
    ids=["greedy", "beams", "samples", "limits"],
)
def test_generate_is_search_in_a_graph(plain, prompts, keywords):
    found = plain.generate(*prompts, max_length=L, **keywords)
    expected = search(plain, *prompts, max_length=L, **keywords)
    assert type(found) is generation.Hypotheses and isinstance(found.token_ids, np.ndarray)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    if "limits" in keywords:
        assert found.lengths.tolist() == [6, 7, 8]
        assert found.token_ids[2, 2:4].tolist() == [4, 4]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA's own loop is TensorFlow's")
@pytest.mark.parametrize(
    "keywords", [{}, {"num_beams": 2, "max_length": 9, "limits": [7, 9, 6]}], ids=["greedy", "beams"]
)
def test_a_compiled_search_finds_the_same(plain, prompts, keywords):
    found = plain.generate(*prompts, jit_compile=True, **keywords)
    expected = plain.generate(*prompts, **keywords)
    for name, x in found._asdict().items():
        # float32 in another order, summed over up to 50 tokens
        np.testing.assert_allclose(x, getattr(expected, name), rtol=1e-4, atol=1e-5, err_msg=name)


def test_without_a_maximum_a_prompt_grows_by_50(plain, prompts):
    found = plain.generate(*prompts)
    assert found.token_ids.shape == (B, 55) and found.lengths.tolist() == [54, 55, 52]
    table = causal_lm(position=PositionEmbedding(9), num_layers=1)
    assert search(table, *prompts).lengths.tolist() == [9, 9, 9]
    assert len(list(table.stream(prompts[0][:1]))) == 4


def test_prompts_of_one_token_and_no_prompts(plain):
    data = ids(B, 1)
    expected = np.argmax(numpy(plain({"token_ids": data}))[:, 0], -1)
    for function in (plain.generate, lambda *a, **k: search(plain, *a, **k)):
        np.testing.assert_array_equal(function(data, max_length=2).token_ids, np.c_[data, expected])
    assert plain.generate(np.zeros((0, 3), "int32"), max_length=5).token_ids.shape == (0, 5)


@pytest.mark.parametrize("keywords", [{"no_repeat_ngram_size": 2}, {"repetition_penalty": 3.0}], ids=str)
def test_penalties_see_the_prompt_of_each_row_and_no_padding(plain, keywords):
    data, mask = np.array([[9, 4, 5, 5], [6, 7, 6, 9]], "int32"), np.array([[0, 0, 1, 1], [1, 1, 1, 0]], bool)
    together = search(plain, data, mask, max_length=8, **keywords)
    processor = generation.logits_processors(**keywords)[0]
    changed = 0
    for text, start in zip(together.token_ids, mask.sum(axis=1)):
        logits = numpy(plain({"token_ids": text[None]}))[0]
        for place in range(start, 8):
            context = generation.SearchContext(ops.convert_to_tensor(place), -1, 1, ops.convert_to_tensor(text[None]))
            expected = numpy(processor(ops.convert_to_tensor(logits[None, place - 1]), context))[0].argmax()
            assert text[place] == expected
            changed += expected != logits[place - 1].argmax()
    assert changed
    streamed = list(plain.stream(together.token_ids[:1, :2], max_length=8, **keywords))
    assert streamed == together.token_ids[0, 2:].tolist()


def test_a_minimum_counts_the_prompt(plain, prompts):
    end = 5
    favour = ops.convert_to_tensor(100.0 * (np.arange(V) == end), "float32")
    keywords = {"max_length": L, "end_token_id": end, "processors": (lambda logits, context: logits + favour,)}
    assert search(plain, *prompts, **keywords).lengths.tolist() == [5, 6, 3]
    assert search(plain, *prompts, min_length=8, **keywords).lengths.tolist() == [8, 8, 8]


# --- A Keras model ---


def test_a_saved_model_loads_and_predicts_the_same(model, tmp_path):
    data = {"token_ids": ids(B, T)}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(data)), numpy(model(data)))
    assert loaded.get_config() == model.get_config()
    assert len(loaded.weights) == len(model.weights)


def test_config_is_the_constructor():
    arguments = {
        "vocabulary_size": V,
        **SIZES,
        "dropout": 0.3,
        "pad_token_id": None,
        "start_token_id": 6,
        "end_token_id": 7,
        "attention_dropout": 0.2,
        "activation": "relu",
        "normalize_first": False,
        "layer_norm_epsilon": 1e-3,
        "embedding_scale": 2.5,
        "tie_word_embeddings": False,
        "name": "model",
    }
    model = CausalLM(**arguments)
    assert {name: model.get_config()[name] for name in arguments} == arguments
    assert {name: getattr(model, name) for name in arguments if name != "activation"} == {
        name: value for name, value in arguments.items() if name != "activation"
    }
    assert CausalLM.from_config(model.get_config()).get_config() == model.get_config()


def test_presets_have_the_sizes_of_their_sources():
    assert CausalLM.from_preset("nanogpt_cpu", vocabulary_size=65).position_embedding.sequence_length == 64
    # V D + 1024 D + 12 (12 D^2 + 13 D) + 2 D of Radford et al.'s smallest, which its release counts as 124 M.
    model = CausalLM.from_preset("gpt2", num_layers=1)
    assert model.count_params() + 11 * (12 * 768**2 + 13 * 768) == 124_439_808
    with pytest.raises(ValueError, match="no preset named 'gpt3'. Use one of: nanogpt_cpu, nanogpt, gpt2,"):
        CausalLM.from_preset("gpt3")


@pytest.mark.parametrize("tied", [True, False])
def test_the_fused_loss_learns_as_the_one_of_logits(tied):
    x, y = ids(B, T), ids(B, T, seed=1)
    weight = (np.arange(T) < [[7], [5], [2]]).astype("float32")
    found = []
    for loss in (LinearCrossEntropy(0.1), SmoothedCrossEntropy(0.1)):
        model = causal_lm(num_layers=1, dropout=0.0, tie_word_embeddings=tied)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
        model.fit({"token_ids": x}, y, sample_weight=weight, batch_size=B, epochs=2, verbose=0)
        found.append(model.get_weights())
    for fused, plain in zip(*found, strict=True):
        np.testing.assert_allclose(fused, plain, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_near_float32(policy):
    data = {"token_ids": ids(B, T), "padding_mask": np.arange(T) < [[7], [5], [2]]}
    half = causal_lm(num_layers=1, position=RotaryEmbedding(), dtype=policy)
    full = causal_lm(num_layers=1, position=RotaryEmbedding())
    logits = half(data)
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    tolerance = 0.05 if policy == "mixed_float16" else 0.4  # of logits up to 10, in 11 and 8 bits through one block
    np.testing.assert_allclose(numpy(logits), numpy(full(data)), atol=tolerance)
    assert search(half, data["token_ids"], data["padding_mask"], max_length=9).token_ids.shape == (B, 9)


# --- Errors ---


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_layers": 0}, "`num_layers` must be a positive integer. Received: num_layers=0"),
        ({"hidden_dim": 16}, "multiple of `num_heads`. Received: hidden_dim=16, num_heads=3"),
        ({"embedding_scale": 0}, "embedding_scale=0"),
        ({"tie_word_embeddings": 2}, "tie_word_embeddings=2"),
        ({"attention": []}, r"a part or a list of them. Received: attention=\[\]"),
        (
            {"attention": keras.layers.Dense(3)},
            "`attention` must be an object.*Received: attention=<Dense",
        ),
        ({"position": keras.layers.Dense(3)}, "`position` must have one of the methods.*Received: position=<Dense"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        causal_lm(**arguments)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((ids(T),), ValueError, r"the shape \(batch, length\).*Received: shape=\(7,\)"),
        ((np.zeros((2, 0), "int32"),), ValueError, r"at least one token in each row.*shape=\(2, 0\)"),
        ((np.ones((2, 3)),), ValueError, "dtype=float64"),
        ((-ids(B, T),), ValueError, "`token_ids` must be ids of at least 0.*Received: -"),
        ((ids(B, T), np.ones((B, 4))), ValueError, r"the shape of `token_ids`, \(3, 7\). Received: shape=\(3, 4\)"),
        ((ids(2, 2), [[1, 0], [0, 0]]), ValueError, "Received: none in row 1"),
        ((ids(B, T), None, 7), ValueError, "Received: max_length=7 for a prompt of 7 tokens"),
        ((ids(B, T), None, 0), ValueError, "max_length=0"),
    ],
)
def test_prompts_without_a_meaning_are_refused(plain, arguments, error, message):
    for function in (plain.generate, plain.stream):
        with pytest.raises(error, match=message):
            function(*arguments)


def test_what_generate_cannot_do_is_refused(plain):
    with pytest.raises(ValueError, match="Received: PromptedDecoder"):
        plain.generate(ids(B, T), return_alignments=True)
    with pytest.raises(TypeError, match="`tempratur` is no keyword"):
        plain.generate(ids(B, T), tempratur=1.0)
    with pytest.raises(ValueError, match="temperature=0.7 without do_sample=True"):
        plain.generate(ids(B, T), temperature=0.7)
    with pytest.raises(ValueError, match=r"must be one prompt.*Received: shape=\(3, 7\)"):
        plain.stream(ids(B, T))
    table = causal_lm(position=PositionEmbedding(9), num_layers=1)
    with pytest.raises(ValueError, match="table has 9 positions.*Received: max_length=10, and a prompt of 7 tokens"):
        table.generate(ids(B, T), max_length=10)
    with pytest.raises(ValueError, match="Received: max_length=None, and a prompt of 9 tokens"):
        table.generate(ids(B, 9))
    with pytest.raises(ValueError, match=r"a dict with `token_ids`. Received: keys=\['ids'\]"):
        plain({"ids": ids(B, T)})
