"""Metrics over real tokens, as Keras's `evaluate` works them out batch by batch."""

import keras
import numpy as np
import pytest

from keras_transformer.training import CrossEntropy, Perplexity, SmoothedCrossEntropy, TokenAccuracy

N, T, V = 7, 5, 11


def data():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (N, T, V)).astype("float32")
    labels = rng.integers(0, V, (N, T))
    labels[::2] = logits[::2].argmax(-1)  # so that some are right
    weight = (np.arange(T) < np.array([5, 1, 3, 2, 5, 4, 1])[:, None]).astype("float32")
    return logits, labels, weight


def expected_of(logits, labels, weight):
    z = logits.astype("float64")
    log_p = (z - np.logaddexp.reduce(z, axis=-1, keepdims=True))[np.arange(N)[:, None], np.arange(T), labels]
    cross_entropy = -(log_p * weight).sum() / weight.sum()
    right = ((z.argmax(-1) == labels) * weight).sum() / weight.sum()
    return {"cross_entropy": cross_entropy, "perplexity": np.exp(cross_entropy), "accuracy": right}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_evaluate_with_uneven_batches_is_numpy_over_real_tokens(batch_size):
    inputs = keras.Input((T, V))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile(
        loss=SmoothedCrossEntropy(0.1),
        weighted_metrics=[CrossEntropy(), Perplexity(), TokenAccuracy()],
        run_eagerly=True,
    )
    logits, labels, weight = data()
    found = model.evaluate(logits, labels, sample_weight=weight, batch_size=batch_size, verbose=0, return_dict=True)
    for name, value in expected_of(logits, labels, weight).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)  # float32 sums of 21 terms; exp of 2 of them
    assert set(found) == {"loss", "cross_entropy", "perplexity", "accuracy"}


@pytest.mark.parametrize("kind", [CrossEntropy, Perplexity, TokenAccuracy])
def test_padding_changes_nothing(kind):
    logits, labels, weight = data()
    metric = kind()
    metric.update_state(labels, logits, weight)
    before = float(metric.result())
    logits[weight == 0], labels[weight == 0] = 5.0, 3
    metric.reset_state()
    metric.update_state(labels, logits, weight)
    assert float(metric.result()) == before
    np.testing.assert_allclose(before, expected_of(*data())[metric.name], rtol=1e-5)


@pytest.mark.parametrize("kind", [CrossEntropy, Perplexity, TokenAccuracy])
def test_a_token_counts_alike_in_batches_of_any_width(kind):
    """Batches by length have rows of different widths: no mean of a row may come into the mean of tokens."""
    logits, labels, weight = data()
    metric = kind()
    for rows, width in (([0, 4], T), ([2, 5], 4), ([3], 2), ([1, 6], 1)):
        metric.update_state(labels[rows, :width], logits[rows, :width], weight[rows, :width])
    np.testing.assert_allclose(float(metric.result()), expected_of(logits, labels, weight)[metric.name], rtol=1e-5)


def test_weights_of_rows_and_a_keras_mask_count():
    logits, labels, weight = data()
    of_rows = np.arange(N).astype("float32")
    metric, masked = TokenAccuracy(), keras.ops.convert_to_tensor(logits)
    masked._keras_mask = keras.ops.convert_to_tensor(weight.astype("bool"))
    metric.update_state(labels, masked, of_rows)
    expected = expected_of(logits, labels, weight * of_rows[:, None])["accuracy"]
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [CrossEntropy, Perplexity, TokenAccuracy])
def test_config_is_the_constructor(kind):
    metric = kind(name="figure")
    clone = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert type(clone) is kind and clone.get_config() == metric.get_config()
    assert clone.name == "figure"
