"""The encoder-decoder with other parts than the paper's: positions, depths, tables and a bias of the logits."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers import PositionalEncoding, PositionEmbedding, RelativePositionBias, RotaryEmbedding
from keras_transformer.models import Transformer
from keras_transformer.training import LinearCrossEntropy, SmoothedCrossEntropy

pytestmark = pytest.mark.integration

B, T, S, V = 2, 5, 7, 23
SIZES = {"num_layers": 1, "num_heads": 3, "hidden_dim": 18, "intermediate_dim": 19, "dropout": 0.0}


def numpy(x):
    return ops.convert_to_numpy(x)


def ids(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).integers(4, V, shape).astype("int32")


def inputs():
    return {"encoder_token_ids": ids(B, S), "decoder_token_ids": ids(B, T, seed=1)}


VARIANTS = {
    "as T5": lambda: {
        "num_decoder_layers": 2,
        "encoder_position": RelativePositionBias(8, 5),
        "decoder_position": RelativePositionBias(8, 5, bidirectional=False),
        "tie_word_embeddings": False,
        "normalize_first": True,
    },
    "as Marian": lambda: {
        "encoder_position": PositionalEncoding(interleaved=False),
        "decoder_position": PositionalEncoding(interleaved=False),
        "embedding_scale": 1.0,
        "use_output_bias": True,
    },
    "a table and rotations": lambda: {
        "encoder_position": PositionEmbedding(S),
        "decoder_position": RotaryEmbedding(),
        "target_vocabulary_size": 29,
        "tie_word_embeddings": False,
        "use_output_bias": True,
    },
}


def transformer(name):
    keras.utils.set_random_seed(7)
    model = Transformer(V, **SIZES, **VARIANTS[name]())
    rng = np.random.default_rng(11)
    model.set_weights([w + rng.normal(0, 0.3, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    return transformer(request.param)


@pytest.mark.parametrize(
    "name, more",
    [
        ("as T5", V * 18 + 2 * 8 * 3),  # an output's table, and two of 8 buckets for 3 heads
        ("as Marian", V),
        ("a table and rotations", S * 18 + 2 * 29 * 18 + 29),
    ],
)
def test_the_number_of_weights_is_that_of_the_parts(name, more):
    model = transformer(name)
    plain = Transformer(V, **SIZES, num_decoder_layers=model.num_decoder_layers, normalize_first=model.normalize_first)
    assert model.count_params() - plain.count_params() == more
    assert (len(model.encoder_blocks), len(model.decoder_blocks)) == (1, model.num_decoder_layers or 1)


def test_no_position_sees_what_comes_after_it(model):
    data = inputs()
    before = numpy(model(data))
    changed = data["decoder_token_ids"].copy()
    changed[:, 2] = 4 + (changed[:, 2] - 3) % (V - 4)
    after = numpy(model({**data, "decoder_token_ids": changed}))
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert np.abs(after - before)[:, 2:].max(axis=(0, 2)).min() > 1e-4


def test_both_stacks_know_the_order(model):
    data = inputs()
    for name in data:
        turned = {**data, name: data[name][:, ::-1].copy()}
        turned[name][:, -1] = data[name][:, -1]  # the last query is the same
        found = np.abs(numpy(model(turned)) - numpy(model(data)))[:, -1].max()
        assert found > 1e-3


def test_logits_with_a_cache_are_those_without(model):
    data = inputs()
    mask = np.arange(S) < [[S], [4]]
    expected = numpy(model({**data, "encoder_padding_mask": mask}))
    cache = model.make_cache(model.encode(data["encoder_token_ids"], mask), T)
    for step in range(T):
        given = data["decoder_token_ids"][:, step : step + 1]
        hidden, cache = model.decode(given, encoder_padding_mask=mask, cache=cache)
        # float32 through three blocks: logits of order 1 to 10
        np.testing.assert_allclose(numpy(model.logits(hidden))[:, 0], expected[:, step], rtol=1e-5, atol=1e-5)


def test_a_saved_model_loads_and_predicts_the_same(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(inputs())), numpy(model(inputs())))
    assert loaded.get_config() == model.get_config()


@pytest.mark.integration
def test_the_fused_loss_learns_as_the_one_of_logits():
    name = "a table and rotations"  # with an output of its own and a bias
    weight = (np.arange(T) < [[5], [2]]).astype("float32")
    found = []
    for loss in (LinearCrossEntropy(0.1), SmoothedCrossEntropy(0.1)):
        model = transformer(name)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
        model.fit(inputs(), ids(B, T, seed=2), sample_weight=weight, batch_size=B, epochs=2, verbose=0)
        found.append(model.get_weights())
    for fused, plain in zip(*found, strict=True):
        np.testing.assert_allclose(fused, plain, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_decoder_layers": 0}, "`num_decoder_layers` must be a positive integer. Received: num_decoder_layers=0"),
        ({"embedding_scale": -1.0}, "embedding_scale=-1.0"),
        ({"use_output_bias": "yes"}, "use_output_bias=.?yes"),
        (
            {"decoder_position": keras.layers.Dense(3)},
            "`position` must have one of.*Received: position=<Dense",
        ),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transformer(V, **SIZES, **arguments)
