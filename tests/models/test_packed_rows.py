"""Packed rows: each segment has the logits, the loss and the gradients of its pair alone."""

import keras
import numpy as np
import pytest
from autodiff import weight_gradients
from keras import ops
from tiers import slow_but

from keras_transformer.layers import GatedFeedForward, MultiHeadAttention, RotaryEmbedding
from keras_transformer.models import Transformer
from keras_transformer.training import LinearCrossEntropy, SmoothedCrossEntropy

pytestmark = pytest.mark.integration

V, S, T = 23, 13, 11
SOURCES, TARGETS = (5, 3, 4, 7, 2), (4, 5, 2, 3, 6)
ROWS = ((0, 1, 2), (3, 4))  # which pairs stand in which row
SIZES = {"num_layers": 2, "num_heads": 3, "hidden_dim": 15, "intermediate_dim": 19, "dropout": 0.0}
# float32 through four blocks and a product of 15 numbers: logits of order 1.
TOLERANCE = 1e-5

VARIANTS = {
    "post-norm": {},
    "pre-norm, two vocabularies": {"normalize_first": True, "target_vocabulary_size": 29},
    "no pad id": {"pad_token_id": None},
    "parts": {"attention": MultiHeadAttention(3, 7, use_bias=False), "feed_forward": GatedFeedForward(11)},
}


@pytest.fixture(scope="module", params=slow_but(["pre-norm, two vocabularies", "parts"], VARIANTS))
def model(request):
    keras.utils.set_random_seed(7)
    return Transformer(V, **{**SIZES, **VARIANTS[request.param]})


@pytest.fixture(scope="module")
def plain():
    keras.utils.set_random_seed(7)
    return Transformer(V, **SIZES)


def numpy(x):
    return ops.convert_to_numpy(x)


def pairs():
    rng = np.random.default_rng(3)
    return [tuple(rng.integers(4, V, n).astype("int32") for n in (s, t, t)) for s, t in zip(SOURCES, TARGETS)]


def packed():
    """`ROWS` of `pairs`, as `text.pack` makes them: inputs, labels, weights."""
    tokens = {name: np.zeros((len(ROWS), n), "int32") for name, n in (("source", S), ("decoder", T), ("label", T))}
    segments = {name: np.zeros_like(x) for name, x in tokens.items()}
    for row, members in enumerate(ROWS):
        for number, pair in enumerate((pairs()[i] for i in members), 1):
            for name, ids in zip(tokens, pair):
                start = np.count_nonzero(segments[name][row])
                tokens[name][row, start : start + len(ids)] = ids
                segments[name][row, start : start + len(ids)] = number
    inputs = {
        "encoder_token_ids": tokens["source"],
        "decoder_token_ids": tokens["decoder"],
        "encoder_segment_ids": segments["source"],
        "decoder_segment_ids": segments["decoder"],
    }
    return inputs, tokens["label"], (segments["decoder"] > 0).astype("float32")


def padded():
    """`pairs` in a row each."""

    def dense(side, length):
        return np.stack([np.pad(pair[side], (0, length - len(pair[side]))) for pair in pairs()])

    inputs = {"encoder_token_ids": dense(0, max(SOURCES)), "decoder_token_ids": dense(1, max(TARGETS))}
    inputs["encoder_padding_mask"] = np.arange(max(SOURCES)) < np.array(SOURCES)[:, None]
    return inputs, dense(2, max(TARGETS)), (dense(1, max(TARGETS)) > 0).astype("float32")


def places():
    """Of each pair its number, its row and where it is in it, on both sides."""
    for row, members in enumerate(ROWS):
        source = target = 0
        for i in members:
            yield i, row, slice(source, source + SOURCES[i]), slice(target, target + TARGETS[i])
            source, target = source + SOURCES[i], target + TARGETS[i]


def test_each_segment_has_the_logits_of_its_pair_alone(model):
    found = numpy(model(packed()[0]))
    for i, row, _, target in places():
        source_ids, decoder_ids, _ = pairs()[i]
        alone = numpy(model({"encoder_token_ids": source_ids[None], "decoder_token_ids": decoder_ids[None]}))
        np.testing.assert_allclose(found[row, target], alone[0], atol=TOLERANCE)


@pytest.mark.parametrize("loss", [LinearCrossEntropy(0.1, chunk_size=8), SmoothedCrossEntropy(0.1)])
def test_loss_and_gradients_are_those_of_padded_rows(model, loss):
    results = []
    for x, y, w in (packed(), padded()):
        model.compile(keras.optimizers.SGD(0.0), loss)

        def value(x=x, y=y, w=w):
            with model._stopping_at_states():
                states = model(x, training=True)
                return model.compute_loss(x, y, states, w, training=True)

        results.append([numpy(value()), *weight_gradients(model.trainable_weights, value)])
    for weight, mine, theirs in zip([None, *model.trainable_weights], *results):
        np.testing.assert_allclose(mine, theirs, atol=1e-5, err_msg=getattr(weight, "path", "loss"))
    assert results[0][0] > 1 and max(np.abs(gradient).max() for gradient in results[0][1:]) > 1e-2


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_segment_knows_nothing_of_another(model, side):
    inputs = packed()[0]
    before = numpy(model(inputs))
    for _, row, source, target in places():
        changed = {name: ids.copy() for name, ids in inputs.items()}
        place = source if side == "encoder" else target
        ids = changed[f"{side}_token_ids"]
        ids[row, place] = (ids[row, place] - 3) % (V - 4) + 4
        after = numpy(model(changed))
        assert np.abs(after[row, target] - before[row, target]).max() > 1e-3
        after[row, target] = before[row, target]
        np.testing.assert_array_equal(after, before)


def test_attention_stays_in_its_segment(plain):
    inputs = packed()[0]
    of_source, of_target = inputs["encoder_segment_ids"], inputs["decoder_segment_ids"]
    for name, queries, keys in (
        ("encoder", of_source, of_source),
        ("self", of_target, of_target),
        ("cross", of_target, of_source),
    ):
        apart = queries[:, :, None] != keys[:, None, :]
        for scores in map(numpy, plain.attention_scores(inputs)[name]):
            assert (scores.transpose(0, 2, 3, 1)[apart] == 0).all() and apart.any()
            np.testing.assert_allclose(scores.sum(-1).transpose(0, 2, 1)[queries > 0], 1, atol=1e-6)


def test_a_part_that_tells_positions_gets_those_of_the_segment():
    """They restart in each segment; given ones count in their place, for queries and keys."""
    layer = MultiHeadAttention(3, 4, position=RotaryEmbedding())
    x = np.random.default_rng(0).normal(size=(2, 7, 12)).astype("float32")
    segments, positions = np.array([[1, 1, 1, 2, 2, 0, 0]] * 2), np.array([[0, 1, 2, 0, 1, 0, 1]])

    def attend(**kwargs):
        return numpy(layer(x, x, segment_ids=segments, **kwargs))

    tripled = attend(positions=3 * positions)
    np.testing.assert_array_equal(tripled, attend(positions=3 * positions, key_positions=3 * positions))
    np.testing.assert_allclose(attend(), attend(positions=positions), atol=1e-6)
    assert np.abs(tripled - attend()).max() > 1e-3


def test_a_functional_model_of_free_length(plain):
    inputs = packed()[0]
    symbolic = {name: keras.Input((None,), dtype="int32", name=name) for name in inputs}
    functional = keras.Model(symbolic, plain(symbolic))
    assert functional.output.shape == (None, None, V)
    np.testing.assert_allclose(numpy(functional(inputs)), numpy(plain(inputs)), atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="XLA is TensorFlow's and JAX's")
def test_fit_with_xla_is_fit_without():
    x, y, w = packed()
    results = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(5)
        model = Transformer(V, **{**SIZES, "num_layers": 1})
        model.compile(keras.optimizers.SGD(0.5), LinearCrossEntropy(0.1), jit_compile=jit_compile)
        history = model.fit(x, y, sample_weight=w, epochs=2, verbose=0).history
        results.append([np.array(history["loss"]), *model.get_weights()])
    for mine, theirs in zip(*results):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_segments_of_one_side_are_refused(plain, side):
    inputs = packed()[0]
    del inputs[f"{side}_segment_ids"]
    other = "decoder" if side == "encoder" else "encoder"
    with pytest.raises(ValueError, match=f"or neither. Received: {other}_segment_ids alone"):
        plain(inputs)
