"""Label-smoothed cross-entropy: against the formula over one-hot labels, in value and gradient."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer.training import SmoothedCrossEntropy, smoothed_cross_entropy

B, T, V = 2, 5, 11
SMOOTHING = [0.0, 0.1, 0.5]


def logits_and_labels(vocabulary=V, scale=3.0):
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(0, scale, (B, T, vocabulary)).astype("float32")
    return logits, rng.integers(0, vocabulary, (B, T)).astype("int32")


def smoothed_labels(labels, vocabulary, smoothing):
    """Szegedy et al. 2016, section 7: `(1 - e) [v = y] + e / V`."""
    return (1 - smoothing) * np.eye(vocabulary)[labels] + smoothing / vocabulary


def formula(labels, logits, smoothing):
    """In float64: minus the sum over the vocabulary of target times log-probability."""
    z = logits.astype("float64")
    log_p = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    return -(smoothed_labels(labels, logits.shape[-1], smoothing) * log_p).sum(-1)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_values_are_those_of_the_formula(smoothing):
    logits, labels = logits_and_labels()
    found = ops.convert_to_numpy(smoothed_cross_entropy(labels, logits, smoothing))
    assert found.shape == (B, T) and found.dtype == np.float32
    np.testing.assert_allclose(found, formula(labels, logits, smoothing), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("labels_dtype", ["int32", "int64", "uint8", "float32"])
def test_labels_of_any_dtype(labels_dtype):
    if keras.backend.backend() == "jax" and labels_dtype == "int64":
        pytest.skip("JAX has no int64 unless it is told to")
    logits, labels = logits_and_labels()
    found = ops.convert_to_numpy(smoothed_cross_entropy(ops.cast(labels, labels_dtype), logits))
    np.testing.assert_allclose(found, formula(labels, logits, 0.1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_gradients_are_those_of_the_formula(smoothing):
    logits, labels = logits_and_labels()
    weights = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(B, T)).astype("float32"))
    target = ops.convert_to_tensor(smoothed_labels(labels, V, smoothing).astype("float32"))
    (found,) = gradients(lambda z: ops.sum(weights * smoothed_cross_entropy(labels, z, smoothing)), logits)
    (expected,) = gradients(
        lambda z: -ops.sum(weights * ops.sum(target * ops.log_softmax(z, axis=-1), axis=-1)), logits
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)  # probabilities in float32, times weights below 3


@pytest.mark.parametrize("dtype, ulp", [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_half_precision_logits(dtype, ulp):
    logits, labels = logits_and_labels()
    half = ops.cast(logits, dtype)
    logits = ops.convert_to_numpy(ops.cast(half, "float32"))
    found = ops.convert_to_numpy(smoothed_cross_entropy(labels, half))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, formula(labels, logits, 0.1), rtol=1e-6, atol=1e-6)
    (gradient,) = gradients(lambda z: ops.sum(smoothed_cross_entropy(labels, z)), half)
    (expected,) = gradients(lambda z: ops.sum(smoothed_cross_entropy(labels, z)), logits)
    gradient = ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(gradient), "float32"))
    np.testing.assert_allclose(gradient, expected, rtol=ulp, atol=1e-7)  # rounded once, at the end


def test_logits_that_are_large_do_not_overflow():
    logits = np.array([[[60000.0, -60000.0, 0.0]]], "float16")
    found = ops.convert_to_numpy(smoothed_cross_entropy(np.array([[1]]), logits, 0.0))
    # float16 rounds 60000 to a multiple of 32: both logits are exact here, and so is their difference.
    np.testing.assert_array_equal(found, [[120000.0]])


def test_the_last_label_of_50000():
    logits, _ = logits_and_labels(50_000)
    labels = np.full((B, T), 49_999)
    found = ops.convert_to_numpy(smoothed_cross_entropy(labels, logits, 0.1))
    z = logits.astype("float64")
    log_p = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    expected = -0.9 * log_p[..., -1] - 0.1 * log_p.mean(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_equals_keras_on_one_hot_labels():
    logits, labels = logits_and_labels()
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = float(theirs(np.eye(V, dtype="float32")[labels], logits))
    np.testing.assert_allclose(float(SmoothedCrossEntropy(0.1)(labels, logits)), expected, rtol=1e-6)


def test_the_loss_is_a_mean_over_real_tokens():
    logits, labels = logits_and_labels()
    weight = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], "float32")
    expected = (formula(labels, logits, 0.1) * weight).sum() / 4
    loss = SmoothedCrossEntropy(0.1)
    np.testing.assert_allclose(float(loss(labels, logits, weight)), expected, rtol=1e-6)
    logits[weight == 0], labels[weight == 0] = 1000.0, 0
    np.testing.assert_allclose(float(loss(labels, logits, weight)), expected, rtol=1e-6)
    more = (
        np.pad(labels, ((0, 0), (0, 3))),
        np.pad(logits, ((0, 0), (0, 3), (0, 0))),
        np.pad(weight, ((0, 0), (0, 3))),
    )
    np.testing.assert_allclose(float(loss(*more)), expected, rtol=1e-6)


def test_config_is_the_constructor():
    loss = SmoothedCrossEntropy(0.3, reduction="sum", name="loss")
    clone = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(clone, SmoothedCrossEntropy) and clone.get_config() == loss.get_config()
    assert (clone.label_smoothing, clone.reduction, clone.name) == (0.3, "sum", "loss")


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 7, float("nan")])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(ValueError, match=f"at least 0 and less than 1. Received: label_smoothing={smoothing}"):
        SmoothedCrossEntropy(smoothing)
