"""A conditional random field on a classifier of tokens: its loss, what it learns, and how it is kept."""

import itertools

import keras
import numpy as np
import pytest
from crf_numpy import log_likelihood
from keras import ops

from keras_transformer.layers import allowed_transitions
from keras_transformer.models import CRFTagger, Encoder, TokenClassifier
from keras_transformer.training import TokenAccuracy

B, T, L = 5, 7, 3
LABELS = ["O", "B-X", "I-X"]


def made(**kwargs):
    encoder = Encoder(23, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32, dropout=0.0, **kwargs)
    return CRFTagger(TokenClassifier(encoder, L), L, allowed_transitions(LABELS))


def drawn():
    draw = np.random.default_rng(2)
    ids = draw.integers(1, 23, size=(B, T))
    weights = (draw.random((B, T)) < 0.7).astype("float32")
    weights[:, 0] = 1
    # Labels in form, whichever places count: a span has two words, of which the second has an odd id.
    labels = np.zeros((B, T), "int32")
    for row in range(B):
        places = np.flatnonzero(weights[row])
        for a, b in itertools.pairwise(places):
            if ids[row, b] % 2 and labels[row, a] == 0:
                labels[row, a], labels[row, b] = 1, 2
    return ids, labels, weights


def test_the_loss_is_the_negative_log_likelihood_a_label():
    tagger = made()
    draw = np.random.default_rng(3)
    tagger.crf.set_weights([draw.normal(size=w.shape) for w in tagger.crf.weights])
    ids, labels, weights = drawn()
    emissions = ops.convert_to_numpy(tagger({"token_ids": ids})).astype("float64")
    penalty = np.where(np.array(tagger.allowed), 0, -1e4)
    transitions, start, end = (ops.convert_to_numpy(w).astype("float64") for w in tagger.crf.weights)
    scores = transitions + penalty[:-1, :-1], start + penalty[-1, :-1], end + penalty[:-1, -1]
    total = sum(log_likelihood(x[w > 0], y[w > 0], *scores) for x, y, w in zip(emissions, labels, weights))
    tagger.compile("sgd", weighted_metrics=[TokenAccuracy()], jit_compile=False)
    found = tagger.evaluate({"token_ids": ids}, labels, sample_weight=weights, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], -total / weights.sum(), rtol=1e-5)
    best, _ = tagger.decode(emissions.astype("float32"), weights > 0)
    right = (ops.convert_to_numpy(best) == labels)[weights > 0].mean()
    np.testing.assert_allclose(found["accuracy"], right, rtol=1e-6)


@pytest.mark.integration
def test_it_learns_is_saved_and_answers_alike(tmp_path):
    tagger = made()
    ids, labels, weights = drawn()
    tagger.compile(keras.optimizers.Adam(0.03), weighted_metrics=[TokenAccuracy()], jit_compile=False)
    history = tagger.fit({"token_ids": ids}, labels, sample_weight=weights, epochs=25, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert np.abs(ops.convert_to_numpy(tagger.crf.transitions)).max() > 0.1
    tagger.save(tmp_path / "tagger.keras")
    again = keras.saving.load_model(tmp_path / "tagger.keras")
    emissions = tagger({"token_ids": ids})
    np.testing.assert_array_equal(ops.convert_to_numpy(again({"token_ids": ids})), ops.convert_to_numpy(emissions))
    for ours, theirs in zip(again.decode(emissions, weights), tagger.decode(emissions, weights)):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def test_probabilities_are_of_the_labels_that_are_decoded():
    tagger = made()
    ids, _, weights = drawn()
    emissions = tagger({"token_ids": ids})
    labels, probabilities = (ops.convert_to_numpy(x) for x in tagger.decode(emissions, weights))
    marginals = np.exp(ops.convert_to_numpy(tagger.crf.log_marginals(emissions, weights)))
    np.testing.assert_allclose(probabilities, np.take_along_axis(marginals, labels[..., None], -1)[..., 0], rtol=1e-6)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="classifier=None"):
        CRFTagger(None, 3)
