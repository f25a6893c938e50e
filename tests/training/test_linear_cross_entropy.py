"""The fused end of the vocabulary: against the unfused loss, its gradients, and whole training steps with it."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer.models import Transformer
from keras_transformer.training import (
    CrossEntropy,
    LinearCrossEntropy,
    SmoothedCrossEntropy,
    TokenAccuracy,
    linear_cross_entropy,
    smoothed_cross_entropy,
)

N, D, V = 13, 7, 11


def arguments(seed=0):
    rng = np.random.default_rng(seed)
    hidden, table = rng.normal(size=(N, D)).astype("float32"), rng.normal(size=(V, D)).astype("float32")
    labels = rng.integers(0, V, N).astype("int32")
    weights = rng.choice([0.0, 1.0, 0.5], N).astype("float32")
    return hidden, table, labels, weights


def unfused(hidden, table, labels, weights, smoothing):
    logits = ops.matmul(hidden, ops.transpose(table))
    return ops.sum(ops.convert_to_tensor(weights) * smoothed_cross_entropy(labels, logits, smoothing))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 12, 13, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_sums_are_numpys(smoothing, chunk_size, training):
    hidden, table, labels, weights = arguments()
    z = hidden.astype("float64") @ table.T.astype("float64")
    log_p = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    entropy = -log_p[np.arange(N), labels]
    loss = (1 - smoothing) * entropy - smoothing * log_p.mean(-1)
    expected = [(weights * x).sum() for x in (loss, entropy, z.argmax(-1) == labels)]
    found = linear_cross_entropy(hidden, table, labels, weights, smoothing, chunk_size, training=training)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-6)  # float32 sums of 13 terms


@pytest.mark.parametrize("chunk_size", [1, 5, 13, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradients_are_those_of_the_unfused_loss(smoothing, chunk_size):
    hidden, table, *rest = arguments()
    found = gradients(lambda h, t: 3.0 * linear_cross_entropy(h, t, *rest, smoothing, chunk_size)[0], hidden, table)
    expected = gradients(lambda h, t: 3.0 * unfused(h, t, *rest, smoothing), hidden, table)
    for mine, theirs in zip(found, expected):
        np.testing.assert_allclose(mine, theirs, atol=5e-6)  # float32, values up to 10
        assert np.abs(theirs).max() > 1


def test_metrics_have_no_gradient():
    hidden, table, *rest = arguments()
    for found in gradients(lambda h, t: ops.sum(linear_cross_entropy(h, t, *rest)[1:]), hidden, table):
        np.testing.assert_array_equal(found, 0.0)


def test_tokens_without_weight_do_not_count_whatever_they_hold():
    hidden, table, labels, weights = arguments()
    spoiled = hidden.copy()
    spoiled[weights == 0] = np.nan
    strange = np.where(weights == 0, -1, labels)
    clean = gradients(lambda h, t: linear_cross_entropy(h, t, labels, weights, chunk_size=5)[0], hidden, table)
    assert (weights == 0).any()
    found = linear_cross_entropy(spoiled, table, strange, weights, chunk_size=5)
    expected = linear_cross_entropy(hidden, table, labels, weights, chunk_size=5)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))
    (of_hidden,) = gradients(
        lambda h: linear_cross_entropy(h, ops.convert_to_tensor(table), strange, weights, chunk_size=5)[0], spoiled
    )
    np.testing.assert_array_equal(of_hidden, clean[0])


def test_a_weight_that_is_nan_is_not_passed_over():
    hidden, table, labels, weights = arguments()
    weights[3] = np.nan
    assert np.isnan(ops.convert_to_numpy(linear_cross_entropy(hidden, table, labels, weights, chunk_size=5))[0])


def test_equal_logits_are_no_hit():
    labels, weights = np.zeros(3, "int32"), np.ones(3, "float32")
    found = linear_cross_entropy(np.zeros((3, 2), "float32"), np.ones((4, 2), "float32"), labels, weights)
    np.testing.assert_allclose(ops.convert_to_numpy(found), [3 * np.log(4), 3 * np.log(4), 0.0], rtol=1e-6)


def test_a_large_vocabulary_in_half_precision():
    table = np.zeros((50_000, 4), "float32")
    table[49_999] = 4.0
    hidden = np.full((2, 4), 1.0, "float16")
    labels, weights = np.array([49_999, 7], "int32"), np.ones(2, "float32")
    found = ops.convert_to_numpy(linear_cross_entropy(hidden, table, labels, weights, 0.0))
    normaliser = np.log(np.exp(16.0) + 49_999)
    np.testing.assert_allclose(found, [2 * normaliser - 16, 2 * normaliser - 16, 1.0], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it is TensorFlow that starts ten rounds of a loop")
def test_one_chunk_is_in_memory_at_a_time():
    import tensorflow as tf

    _, _, *rest = arguments()

    @tf.function
    def step(hidden, table):
        with tf.GradientTape() as tape:
            tape.watch([hidden, table])
            loss = linear_cross_entropy(hidden, table, *rest, chunk_size=5)[0]
        return tape.gradient(loss, [hidden, table])

    operations = step.get_concrete_function(tf.TensorSpec([None, D]), tf.TensorSpec([V, D])).graph.get_operations()
    rounds = [op.get_attr("parallel_iterations") for op in operations if op.type in ("While", "StatelessWhile")]
    assert rounds == [1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_half_precision_has_the_gradients_of_its_numbers(smoothing):
    """Of a token that is nearly right too, where probability and target nearly cancel."""
    hidden, table, labels, weights = arguments()
    hidden[3] = 4 * table[labels[3]]
    hidden, table = (x.astype("float16").astype("float32") for x in (hidden, table))
    weights[3] = 1.0
    fixed = ops.convert_to_tensor(table)

    def in_half(h):
        return linear_cross_entropy(ops.cast(h, "float16"), fixed, labels, weights, smoothing, 5)[0]

    found = gradients(in_half, hidden)
    expected = gradients(lambda h: unfused(h, fixed, labels, weights, smoothing), hidden)
    # Logits up to 40 are rounded to 2^-6, and probabilities by as much of themselves; then the products.
    np.testing.assert_allclose(found[0], expected[0], rtol=2**-5, atol=2**-8)


def batch(rows=3, source=5, target=7, vocabulary=19):
    rng = np.random.default_rng(1)
    ids = {
        "encoder_token_ids": rng.integers(4, vocabulary, (rows, source)).astype("int32"),
        "decoder_token_ids": rng.integers(4, vocabulary, (rows, target)).astype("int32"),
    }
    weights = np.ones((rows, target), "float32")
    weights[1, 4:] = 0
    return ids, rng.integers(4, vocabulary, (rows, target)).astype("int32"), weights


def compiled(loss, metrics=None, **kwargs):
    model = Transformer(19, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.0, **kwargs)
    for number, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(number).normal(0, 0.3, weight.shape))
    model.compile(keras.optimizers.SGD(0.5), loss, weighted_metrics=metrics)
    return model


@pytest.mark.integration
@pytest.mark.parametrize("target_vocabulary_size", [None, 23])
def test_fit_and_evaluate_are_those_with_the_unfused_loss(target_vocabulary_size):
    x, y, w = batch()
    mine = compiled(LinearCrossEntropy(0.1, chunk_size=8), target_vocabulary_size=target_vocabulary_size)
    theirs = compiled(
        SmoothedCrossEntropy(0.1), [CrossEntropy(), TokenAccuracy()], target_vocabulary_size=target_vocabulary_size
    )
    for _ in range(2):
        found = mine.fit(x, y, sample_weight=w, batch_size=3, verbose=0).history
        expected = theirs.fit(x, y, sample_weight=w, batch_size=3, verbose=0).history
        assert set(found) == set(expected) == {"loss", "cross_entropy", "accuracy"}
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
        for a, b in zip(mine.get_weights(), theirs.get_weights()):
            np.testing.assert_allclose(a, b, atol=1e-5)  # float32, weights of order 1, two steps of 0.5
    found = mine.evaluate(x, y, sample_weight=w, batch_size=2, verbose=0, return_dict=True)
    expected = theirs.evaluate(x, y, sample_weight=w, batch_size=2, verbose=0, return_dict=True)
    for name in ("cross_entropy", "accuracy"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_a_call_returns_logits_all_the_same():
    x, y, w = batch()
    model = compiled(LinearCrossEntropy())
    model.fit(x, y, sample_weight=w, verbose=0)
    assert tuple(model(x, training=True).shape) == (3, 7, 19)
    assert model.predict(x, verbose=0).shape == (3, 7, 19)


def test_without_weights_every_token_counts():
    x, y, _ = batch()
    found = compiled(LinearCrossEntropy()).evaluate(x, y, verbose=0, return_dict=True)
    expected = compiled(LinearCrossEntropy()).evaluate(
        x, y, sample_weight=np.ones(y.shape), verbose=0, return_dict=True
    )
    assert found == pytest.approx(expected, rel=1e-6)  # a compiler may fold weights that are all 1


def test_a_compiled_model_loads_and_goes_on(tmp_path):
    x, y, w = batch()
    model = compiled(LinearCrossEntropy(0.2, chunk_size=5))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config() and loaded.loss.chunk_size == 5
    found, expected = (m.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True) for m in (loaded, model))
    assert found == expected and "accuracy" in found


def test_other_metrics_are_refused():
    with pytest.raises(ValueError, match=r"no logits for other metrics.*weighted_metrics=\[<CrossEntropy"):
        compiled(LinearCrossEntropy(), [CrossEntropy()])


@pytest.mark.parametrize("chunk_size", [0, 1.5, "all"])
def test_chunk_size_is_checked(chunk_size):
    with pytest.raises(ValueError, match=f"chunk_size={chunk_size}"):
        LinearCrossEntropy(chunk_size=chunk_size)
