"""The same weights in CTranslate2: the same sentences in the same order, with the same scores."""

import sys

import keras
import numpy as np
import pytest
from keras import ops

ctranslate2 = pytest.importorskip("ctranslate2")

from keras_transformer import generation, interop, layers, models  # noqa: E402
from keras_transformer.layers import patterns  # noqa: E402

pytestmark = pytest.mark.integration

SMALL = {"num_layers": 1, "num_heads": 1, "hidden_dim": 2, "intermediate_dim": 3}
B, S, T, V = 7, 11, 13, 37
LENGTHS = [11, 2, 3, 5, 7, 10, 9]


def make_model(**kwargs):
    """Random weights, norms and biases too, so that what is left out is seen; and an end token that is likely."""
    sizes = {"num_layers": 1, "num_heads": 3, "hidden_dim": 15, "intermediate_dim": 19}
    model = models.Transformer(V, **{**sizes, **kwargs})
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(0, 0.6, variable.shape))
    hidden = model.decode(random.integers(4, 29, (B, T)), model.encode(source_ids()))
    best = ops.convert_to_numpy(model.logits(hidden)).max(-1).mean()
    mean = ops.convert_to_numpy(hidden).mean((0, 1))
    embedding = model.target_token_embedding
    variable = embedding.embeddings if embedding.tie_weights else embedding.reverse_embeddings
    table = ops.convert_to_numpy(variable).copy()
    of_end = table[model.end_token_id] if embedding.tie_weights else table[:, model.end_token_id]
    of_end += (best - of_end @ mean) * mean / (mean @ mean)  # in place
    variable.assign(table)
    return model


def source_ids():
    source = np.random.default_rng(2).integers(4, V, (B, S)).astype("int32")
    for row, length in zip(source, LENGTHS, strict=True):
        row[length - 1] = 3
        row[length:] = 0
    return source


def translate(path, num_beams=1, tokens=None, **kwargs):
    engine = ctranslate2.Translator(str(path), compute_type="float32", intra_threads=1)
    if tokens is None:
        tokens = [[str(token_id) for token_id in row[:n]] for row, n in zip(source_ids(), LENGTHS, strict=True)]
    return engine.translate_batch(
        tokens,
        beam_size=num_beams,
        num_hypotheses=num_beams,
        patience=T if num_beams > 1 else 1,  # else it ends as soon as `num_beams` sentences have
        max_decoding_length=T,
        min_decoding_length=0,  # 1, its default, forbids a sentence of the end token alone
        length_penalty=1.0,
        return_end_token=True,
        return_scores=True,
        **kwargs,
    )


CASES = {
    "post-norm": {"num_layers": 2},
    "pre-norm, two vocabularies": {"normalize_first": True, "layer_norm_epsilon": 0.1, "target_vocabulary_size": 29},
    "an output of its own": {"num_decoder_layers": 2, "tie_word_embeddings": False, "use_output_bias": True},
    "parts": {
        "attention": layers.MultiHeadAttention(5, 3, use_bias=False),
        "feed_forward": layers.GatedFeedForward(7, activation=layers.gelu_tanh, use_bias=False),
        "normalization": keras.layers.RMSNormalization(epsilon=0.1),
        "residual": layers.PreNorm(layers.StochasticDepth(0.5)),
    },
}


@pytest.mark.parametrize("case, num_beams", [("post-norm", 1), *((case, 4) for case in CASES)])
def test_finds_the_same_sentences(case, num_beams, tmp_path):
    model = make_model(**CASES[case])
    interop.to_ctranslate2(model, tmp_path / "model")
    found = translate(tmp_path / "model", num_beams)
    expected = model.generate(
        source_ids(),
        max_length=T,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=generation.AverageLength(1.0),
    )
    assert len(set(expected.lengths.ravel())) > 1 and expected.lengths.max() == T  # some end, some are cut
    for row, theirs in enumerate(found):
        ours = [ids[:n].tolist() for ids, n in zip(expected.token_ids[row], expected.lengths[row], strict=True)]
        assert [[int(token) for token in tokens] for tokens in theirs.hypotheses] == ours
        # Mean log-probabilities of float32 logits of about 10, computed in another order.
        np.testing.assert_allclose(theirs.scores, expected.scores[row], atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "sigmoid"])
def test_activations_have_their_counterparts(activation, tmp_path):
    model = make_model(activation=activation)
    interop.to_ctranslate2(model, tmp_path / "model")
    engine = ctranslate2.Translator(str(tmp_path / "model"), compute_type="float32", intra_threads=1)
    [theirs] = engine.score_batch([["5", "7", "11", "3"]], [["17", "19"]])
    source, target = np.array([[5, 7, 11, 3]]), np.array([[2, 17, 19]])
    logits = model({"encoder_token_ids": source, "decoder_token_ids": target}, training=False)
    ours = ops.convert_to_numpy(ops.log_softmax(logits))[0, range(3), [17, 19, 3]]
    np.testing.assert_allclose(theirs.log_probs, ours, atol=1e-4)  # of float32 logits up to some 30


def test_int8_is_close(tmp_path):
    model = make_model()
    for name, quantization in (("float", None), ("int8", "int8")):
        interop.to_ctranslate2(model, tmp_path / name, quantization=quantization)
    assert (tmp_path / "int8" / "model.bin").stat().st_size < (tmp_path / "float" / "model.bin").stat().st_size
    source, target = [["5", "7", "11", "3"], ["13", "3"]], [["17", "19", "23"], ["29", "5"]]
    # Computed in float32: products of 8 bits overflow on processors without the instructions for them.
    exact, rounded = (
        np.concatenate([result.log_probs for result in translator.score_batch(source, target)])
        for translator in (
            ctranslate2.Translator(str(tmp_path / name), compute_type="float32") for name in ("float", "int8")
        )
    )
    # Log-probabilities of some -3 to -30; a weight of 8 bits errs by 1/254 of the largest in its row.
    np.testing.assert_allclose(rounded, exact, rtol=0.1, atol=0.3)
    assert (rounded != exact).any()


def test_a_directory_is_replaced_on_request_alone(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="model exists"):
        interop.to_ctranslate2(models.Transformer(7, **SMALL), path)
    assert (path / "mine").read_text() == "precious"
    interop.to_ctranslate2(models.Transformer(7, **SMALL), path, overwrite=True)
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.bin", "shared_vocabulary.json"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ctranslate2.specs.model_spec.ModelSpec, "save", full)
    with pytest.raises(OSError, match="model could not be written: No space left on device. Free some space"):
        interop.to_ctranslate2(models.Transformer(7, **SMALL), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_tokens_are_those_of_a_tokenizer_or_a_list(tmp_path):
    pytest.importorskip("tensorflow_text")
    from keras_transformer import text

    model = make_model(target_vocabulary_size=29)
    tokenizer = text.learn_vocabulary(["ba do ki lu ne po ra si tu ze"] * 5, tmp_path / "sp.model", 20, "char")
    target = [*tokenizer.pieces(range(4)), *(f"t{token_id}" for token_id in range(4, 29))]
    interop.to_ctranslate2(model, tmp_path / "ids")
    interop.to_ctranslate2(model, tmp_path / "tokens", source_vocabulary=tokenizer, target_vocabulary=target)
    sources = [[*ids, 3] for ids in tokenizer(["ba do ki", "lu ne", "po ra si tu ze ba"]).to_list()]
    sources[0].insert(1, 23)  # an id that the tokenizer leaves out
    tokens = [[f"<unused_{i}>" if i == 23 else tokenizer.pieces([i])[0] for i in ids] for ids in sources]
    by_ids = translate(tmp_path / "ids", tokens=[[str(token_id) for token_id in ids] for ids in sources])
    by_tokens = translate(tmp_path / "tokens", tokens=tokens)
    for one, other in zip(by_ids, by_tokens, strict=True):
        assert [target[int(token_id)] for token_id in one.hypotheses[0]] == other.hypotheses[0]
        assert one.scores == other.scores


class OwnFeedForward(layers.FeedForward):
    pass


def attention(**kwargs):
    return {"attention": layers.MultiHeadAttention(**{"num_heads": 2, "key_dim": 4, **kwargs})}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"activation": "elu"}, "`activation` of the model. Received: activation='elu'. It can: relu, gelu,"),
        (attention(sliding_window=3), r"`attention\.sliding_window` .*Received: attention\.sliding_window=3"),
        (attention(pattern=patterns.Causal()), r"`attention\.pattern` .*Received: attention\.pattern=.*Causal"),
        (attention(use_gate=True), r"Received: attention\.use_gate=True"),
        ({"decoder_position": layers.AlibiBias()}, r"Received: decoder_position=<AlibiBias"),
        ({"embedding_scale": 3.0}, r"Received: embedding_scale=3\.0"),
        (attention(num_key_value_heads=1), r"Received: attention\.num_key_value_heads=1"),
        (attention(key_dim=3), r"Received: attention\.key_dim=3\. It can: .* width hidden_dim / num_heads, 4"),
        (attention(value_dim=5), r"Received: attention\.value_dim=5"),
        ({"feed_forward": OwnFeedForward(5)}, "Received: feed_forward=<OwnFeedForward"),
        ({"normalization": keras.layers.GroupNormalization(1)}, "Received: normalization=<GroupNormalization"),
        ({"normalization": keras.layers.LayerNormalization(center=False)}, "Received: normalization=<LayerNorm"),
        ({"residual": layers.SandwichNorm()}, r"Received: residual='SandwichNorm\(\[\]\)'"),
        ({"residual": layers.PreNorm(layers.LayerScale())}, r"Received: residual=.PreNorm\(\['LayerScale'\]\)"),
        ({"end_token_id": -1}, "The eos_token must have an id in both vocabularies. Received: -1"),
        ({"end_token_id": 7, "target_vocabulary_size": 7}, "The eos_token must .*Received: 7, .* of 11 and 7"),
    ],
)
def test_what_cannot_be_expressed_is_refused(arguments, message, tmp_path):
    model = models.Transformer(11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=3, **arguments)
    with pytest.raises(ValueError, match=message):
        interop.to_ctranslate2(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantization": "int4"}, "`quantization` must be None or one of int8,.*quantization='int4'"),
        ({"max_positions": 0}, "`max_positions` .*max_positions=0"),
        ({"source_vocabulary": list("abcdefgh")}, "`source_vocabulary` must not .*Received: 8 tokens, 7 embeddings"),
        ({"target_vocabulary": list("abcdef")}, "`target_vocabulary` must not .*Received: 6 tokens, 5 embeddings"),
        ({"source_vocabulary": list("abca")}, "a string of its own for each id. Received: 'a' of id 3, as of id 0"),
        ({"source_vocabulary": ["a", 7]}, "a string of its own for each id. Received: 7 of id 1"),
        ({"source_vocabulary": "abc"}, "must be a list of tokens, or a tokenizer .*Received: 'abc'"),
        (
            {"source_vocabulary": list("abcd"), "target_vocabulary": list("abce")},
            "must have one eos_token, at the id 3. Received: 'd' and 'e'",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message, tmp_path):
    model = models.Transformer(7, target_vocabulary_size=5, **SMALL)
    with pytest.raises(ValueError, match=message):
        interop.to_ctranslate2(model, tmp_path / "model", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_transformer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a `models.Transformer`. Received: a Sequential"):
        interop.to_ctranslate2(keras.Sequential(), tmp_path / "model")


@pytest.mark.parametrize("name", ["query", "token_embedding"])
def test_weights_that_are_quantized_already_are_refused(tmp_path, name):
    model = models.Transformer(7, **SMALL)
    layer = model.token_embedding
    if name == "query":
        layer = model.decoder_blocks[0]._self_attention_layer.query_dense
    layer.quantize("int8")
    with pytest.raises(ValueError, match=f"{name} quantized to int8"):
        interop.to_ctranslate2(model, tmp_path / "model")


def test_without_ctranslate2_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ImportError, match=r"ctranslate2 is not installed: pip install .*\[interop\]"):
        interop.to_ctranslate2(models.Transformer(7, **SMALL), tmp_path / "model")
