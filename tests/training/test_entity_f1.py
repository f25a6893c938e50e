"""F1 of entities against seqeval, on labels in and out of form."""

import random

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.training import EntityF1, entities

SCHEMES = {
    "BIO": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "BIOES": ["O", *(f"{prefix}-{kind}" for kind in ("PER", "A-B") for prefix in "BIES")],
    "without O": ["B-PER", "I-PER", "I-LOC"],
}
METRICS = {}  # one of each scheme, reset between examples: making one costs more than using it


def sentences(labels, seed, count=101):
    """Pairs of true and predicted labels, of which about half agree."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        true = draw.choices(labels, k=draw.randrange(1, 14))
        pairs.append((true, [label if draw.random() < 0.8 else draw.choice(labels) for label in true]))
    return pairs


@pytest.mark.parametrize("scheme", SCHEMES)
def test_spans_are_those_of_seqeval(scheme):
    get_entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    for true, _ in sentences(SCHEMES[scheme], seed=1):
        assert entities(true) == [(kind, start, end + 1) for kind, start, end in get_entities(true)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_f1_is_that_of_seqeval(scheme):
    """Over batches, with padding behind and places of weight 0 between the words."""
    f1_score = pytest.importorskip("seqeval.metrics").f1_score
    labels = SCHEMES[scheme]
    pairs = sentences(labels, seed=2)
    metric = EntityF1(labels)
    draw = np.random.default_rng(3)
    for start in range(0, len(pairs), 17):
        batch = pairs[start : start + 17]
        weights = np.zeros((len(batch), 29), "float32")
        true, predicted = draw.integers(len(labels), size=(2, *weights.shape))
        for row, (ours, theirs) in enumerate(batch):
            places = np.sort(draw.choice(29, len(ours), replace=False))
            weights[row, places] = draw.uniform(0.1, 1.0, len(ours))
            true[row, places] = [labels.index(label) for label in ours]
            predicted[row, places] = [labels.index(label) for label in theirs]
        metric.update_state(true, np.eye(len(labels))[predicted], weights)
    expected = f1_score([true for true, _ in pairs], [predicted for _, predicted in pairs])
    assert 0.2 < expected < 0.9
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(SCHEMES)), st.data())
@pytest.mark.filterwarnings("ignore")  # seqeval's, where there is no entity
def test_spans_and_f1_are_those_of_seqeval_whatever_the_labels(scheme, data):
    metrics = pytest.importorskip("seqeval.metrics")
    labels = SCHEMES[scheme]
    pairs = data.draw(st.lists(st.lists(st.tuples(*[st.sampled_from(labels)] * 2), min_size=1, max_size=7), max_size=3))
    true, predicted = ([[pair[side] for pair in sentence] for sentence in pairs] for side in (0, 1))
    for sentence in true:
        theirs = metrics.sequence_labeling.get_entities(sentence)
        assert entities(sentence) == [(kind, start, end + 1) for kind, start, end in theirs]
    metric = METRICS.get(scheme) or METRICS.setdefault(scheme, EntityF1(labels))
    metric.reset_state()
    places = np.zeros((2, 3, 7), "int32")
    weights = np.zeros((3, 7), "float32")
    for row, sentence in enumerate(pairs):
        weights[row, : len(sentence)] = 1
        for side, found in enumerate((true, predicted)):
            places[side, row, : len(sentence)] = [labels.index(label) for label in found[row]]
    metric.update_state(places[0], np.eye(len(labels))[places[1]], weights)
    expected = metrics.f1_score(true, predicted, zero_division=0) if any(map(entities, true + predicted)) else 0.0
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)


def test_without_weights_and_without_entities():
    metric = EntityF1(["O", "B-X", "I-X"])
    assert float(metric.result()) == 0.0
    metric.update_state([[0, 0]], np.eye(3)[[[0, 0]]])
    assert float(metric.result()) == 0.0
    metric.update_state([[1, 2, 1]], np.eye(3)[[[1, 2, 0]]])
    np.testing.assert_allclose(float(metric.result()), 2 * 1 / (1 + 2), rtol=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_in_fit_and_from_config():
    keras.utils.set_random_seed(5)
    inputs = keras.Input((7, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    draw = np.random.default_rng(6)
    x, y, weights = draw.normal(size=(5, 7, 3)), draw.integers(3, size=(5, 7)), np.ones((5, 7))
    weights[:, 4:] = 0
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[EntityF1(["O", "B-X", "I-X"])],
    )
    found = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["entity_f1"]
    metric = EntityF1.from_config(EntityF1(["O", "B-X", "I-X"]).get_config())
    metric.update_state(y[:, :4], model.predict(x, verbose=0)[:, :4])
    np.testing.assert_allclose(found, float(metric.result()), rtol=1e-6)


@pytest.mark.parametrize("label", ["NOUN", "B", "X-PER", "O-PER"])
def test_labels_of_no_entity_are_refused(label):
    with pytest.raises(ValueError, match=f"Received: '{label}'"):
        EntityF1(["O", label])
