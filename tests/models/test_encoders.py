"""The encoder and its heads: size, laws, and their life as Keras models."""

import keras
import numpy as np
import pytest
from keras import ops
from tiers import slow_but

from keras_transformer.layers import PositionalEncoding, RotaryEmbedding
from keras_transformer.models import Classifier, Encoder, MaskedLM, TokenClassifier
from keras_transformer.training import LinearCrossEntropy, SmoothedCrossEntropy

pytestmark = pytest.mark.integration

B, T, V = 2, 7, 23
SIZES = {"num_layers": 2, "num_heads": 3, "hidden_dim": 15, "intermediate_dim": 19}
# float32 through two blocks of width 15: numbers of order 1.
TOLERANCE = 1e-5


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def encoder(**kwargs):
    return Encoder(**{"vocabulary_size": V, **SIZES, "kernel_initializer": "glorot_uniform", **kwargs})


def ids(length=T, seed=0):
    return np.random.default_rng(seed).integers(1, V, (B, length)).astype("int32")


ENCODERS = {
    "BERT": lambda: encoder(num_segments=3, pooler_activation="tanh", max_sequence_length=29),
    "pre-norm": lambda: encoder(normalize_first=True),
    "sinusoids": lambda: encoder(position=PositionalEncoding()),
    "rotary": lambda: encoder(hidden_dim=18, position=RotaryEmbedding()),
}
HEADS = {
    "MaskedLM": (lambda e: MaskedLM(e), (B, T, V)),
    "Classifier": (lambda e: Classifier(e, 5), (B, 5)),
    "TokenClassifier": (lambda e: TokenClassifier(e, 5), (B, T, 5)),
}


@pytest.fixture(scope="module", params=slow_but(["BERT", "rotary"], ENCODERS))
def built(request):
    return ENCODERS[request.param]()


def test_the_number_of_weights_of_bert_base():
    """The 110M of the paper (section 3), counted: tables, 12 blocks, norms and pooler."""
    d, f = 768, 3072
    block = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
    expected = (30_522 + 512 + 2) * d + 2 * d + 12 * block + d * d + d
    assert expected == 109_482_240
    small = 4 * (15 * 15 + 15) + 2 * 15 * 19 + 19 + 15 + 4 * 15
    model = encoder(num_segments=3, pooler_activation="tanh", max_sequence_length=29)
    assert model.count_params() == (V + 29 + 3) * 15 + 2 * 15 + 2 * small + 15 * 15 + 15


@pytest.mark.parametrize("pads", [1, 4])
def test_padding_changes_nothing(built, pads):
    expected = numpy(built({"token_ids": ids()}))
    padded = np.pad(ids(), ((0, 0), (0, pads)))
    np.testing.assert_allclose(numpy(built({"token_ids": padded}))[:, :T], expected, atol=TOLERANCE)
    filled = np.where(padded == 0, 5, padded)
    found = numpy(built({"token_ids": filled, "padding_mask": padded != 0}))
    np.testing.assert_allclose(found[:, :T], expected, atol=TOLERANCE)


def test_a_row_depends_on_no_other_and_on_the_order_of_its_tokens(built):
    together = numpy(built({"token_ids": ids()}))
    np.testing.assert_allclose(numpy(built({"token_ids": ids()[1:]})), together[1:], atol=TOLERANCE)
    turned = numpy(built({"token_ids": ids()[:, ::-1]}))[:, ::-1]
    assert np.abs(turned - together).max() > 1e-3


def test_segments_are_told_apart_and_zero_by_default():
    model = ENCODERS["BERT"]()
    segments = np.arange(T)[None].repeat(B, 0) % 3
    zeros = numpy(model({"token_ids": ids(), "segment_ids": np.zeros((B, T), "int32")}))
    np.testing.assert_array_equal(numpy(model({"token_ids": ids()})), zeros)
    assert np.abs(numpy(model({"token_ids": ids(), "segment_ids": segments})) - zeros).max() > 1e-3


def test_attention_scores_add_up_to_one():
    scores = encoder().attention_scores({"token_ids": np.pad(ids(), ((0, 0), (0, 2)))})
    assert [x.shape for x in scores] == [(B, 3, T + 2, T + 2)] * 2
    for x in scores:
        np.testing.assert_allclose(numpy(x).sum(-1), 1.0, atol=1e-6)
        np.testing.assert_array_equal(numpy(x)[..., T:], 0.0)


@pytest.mark.parametrize("name", slow_but(["MaskedLM", "Classifier"], HEADS))
def test_heads(name, tmp_path):
    make, shape = HEADS[name]
    model = make(ENCODERS["BERT"]())
    inputs = {"token_ids": ids(), "segment_ids": np.ones((B, T), "int32")}
    expected = numpy(model(inputs))
    assert expected.shape == shape
    assert make(model.encoder).encoder is model.encoder
    assert make(model).encoder is model.encoder
    symbolic = model({key: keras.Input((T,), dtype="int32") for key in inputs})
    assert symbolic.shape == (None, *shape[1:])
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(keras.models.load_model(tmp_path / "model.keras")(inputs)), expected)
    copy = type(model).from_config(model.get_config())
    model.save_weights(tmp_path / "model.weights.h5")
    copy.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(copy(inputs)), expected)


@pytest.mark.parametrize("name", slow_but(["BERT", "rotary"], ENCODERS))
def test_encoders_are_saved(name, tmp_path):
    model = ENCODERS[name]()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded({"token_ids": ids()})), numpy(model({"token_ids": ids()})))


def test_predicting_at_given_positions_alone():
    model = MaskedLM(encoder())
    positions = np.array([[0, 5, 3], [6, 1, 1]])
    everywhere = numpy(model({"token_ids": ids()}))
    found = numpy(model({"token_ids": ids(), "mask_positions": positions}))
    np.testing.assert_allclose(found, np.take_along_axis(everywhere, positions[..., None], 1), atol=TOLERANCE)


def test_the_fused_loss_is_the_loss_of_the_logits_with_their_bias():
    model = MaskedLM(encoder(dropout=0.0))
    model.output_bias.assign(np.linspace(-1, 1, V))
    data = ({"token_ids": ids()}, ids(seed=1))
    model.compile(loss=SmoothedCrossEntropy(0.1))
    expected = model.evaluate(*data, verbose=0)
    model.compile(loss=LinearCrossEntropy(0.1))
    assert model.evaluate(*data, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


def test_next_sentences():
    model = MaskedLM(ENCODERS["BERT"](), next_sentence=True)
    logits = model({"token_ids": ids()})
    assert {name: tuple(x.shape) for name, x in logits.items()} == {
        "token_logits": (B, T, V),
        "next_sentence_logits": (B, 2),
    }
    with pytest.raises(ValueError, match="loss=LinearCrossEntropy with next_sentence=True"):
        model.compile(loss=LinearCrossEntropy())
    with pytest.raises(ValueError, match="next_sentence=True with an encoder of pooler_activation=None"):
        MaskedLM(encoder(), next_sentence=True)


@pytest.mark.parametrize("name", slow_but(["Classifier"], HEADS))
def test_every_weight_that_is_trained_has_a_gradient(name):
    """Keras warns of those that have none, and a warning is an error here: the pooler is trained where it is used."""
    make, shape = HEADS[name]
    model = make(ENCODERS["BERT"]())
    assert model.encoder.pooler.trainable == (name == "Classifier")
    model.compile("sgd", SmoothedCrossEntropy(0.0))
    before = model.get_weights()
    model.fit({"token_ids": ids()}, np.zeros(shape[:-1], "int32"), verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert any((a != b).any() for a, b in zip(before, model.get_weights()))


def test_a_frozen_encoder_stays_frozen():
    frozen = ENCODERS["BERT"]()
    frozen.trainable = False
    assert len(Classifier(frozen, 5).trainable_variables) == 2


def test_a_head_has_the_precision_of_its_encoder():
    model = TokenClassifier(encoder(dtype="mixed_bfloat16"), 5)
    logits = model({"token_ids": ids()})
    assert keras.backend.standardize_dtype(logits.dtype) == "bfloat16"
    exact = TokenClassifier(encoder(), 5)
    exact.set_weights(model.get_weights())
    # bfloat16 has 8 bits: two blocks and a product of 15 numbers.
    np.testing.assert_allclose(numpy(logits), numpy(exact({"token_ids": ids()})), atol=0.05)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: encoder(hidden_dim=16), "Received: hidden_dim=16, num_heads=3"),
        (lambda: encoder(num_segments=0), "Received: num_segments=0"),
        (lambda: encoder()({"ids": ids()}), r"Received: keys=\['ids'\]"),
        (lambda: encoder()({"token_ids": ids(), "mask": ids()}), r"Received: keys=\['mask', 'token_ids'\]"),
        (lambda: encoder()({"token_ids": ids(), "segment_ids": ids()}), "segment_ids with num_segments=None"),
        (lambda: encoder(max_sequence_length=5)({"token_ids": ids()}), "Received: 7 positions from 0"),
        (lambda: Classifier(None, 3), "Received: encoder=None"),
        (lambda: Classifier(keras.layers.Dense(3), 3), "`encoder` must be an object of the class .*Encoder"),
        (lambda: TokenClassifier(encoder(), 0), "Received: num_classes=0"),
        (lambda: TokenClassifier(encoder(), 3, dropout=2), "Received: dropout=2"),
    ],
)
def test_errors_name_what_was_received(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Keras's `quantize` warns of each layer that has nothing to quantize.
@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@pytest.mark.filterwarnings("ignore:The use of .x.T. on tensors:UserWarning")  # of PyTorch, in Keras's quantized table
def test_a_quantized_model_is_saved_and_loaded(tmp_path):
    model, inputs = MaskedLM(encoder()), {"token_ids": ids()}
    model.quantize("int8")
    expected = numpy(model(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(inputs)), expected)
    dtypes = [keras.backend.standardize_dtype(w.dtype) for w in loaded.weights]
    assert dtypes == [keras.backend.standardize_dtype(w.dtype) for w in model.weights]
    assert dtypes.count("int8") == 1 + 2 * 6 + 1  # the table; six projections a block; the head's product
    copy = type(loaded).from_config(loaded.get_config())
    copy.set_weights(loaded.get_weights())
    np.testing.assert_array_equal(numpy(copy(inputs)), expected)
