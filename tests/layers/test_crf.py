"""The conditional random field against all sequences, one by one, and against itself with fewer positions."""

import itertools

import keras
import numpy as np
import pytest
from crf_numpy import forward, log_likelihood, paths
from keras import ops

from keras_transformer.layers import CRF, allowed_transitions

B, T, L = 3, 5, 4
BIO = ["O", "B-X", "I-X", "B-Y", "I-Y"]
BIOES = ["O", "B-X", "I-X", "E-X", "S-X"]
REAL = [np.array([1, 1, 1, 1, 1], bool), np.array([0, 1, 0, 1, 1], bool), np.array([0, 0, 1, 0, 0], bool)]
MASK = np.stack(REAL)


def made(count=L, allowed=None, seed=0, **kwargs):
    """A field with weights drawn, and they in float64."""
    draw = np.random.default_rng(seed)
    weights = [draw.normal(size=shape).astype("float32") for shape in ((count, count), (count,), (count,))]
    crf = CRF(count, allowed, **kwargs)
    crf.build((None, None, count))
    crf.set_weights(weights)
    return crf, [w.astype("float64") for w in weights]


def drawn(count=L, seed=1, batch=B, length=T):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(batch, length, count)).astype("float32"), draw.integers(count, size=(batch, length))


def compiled(function):
    """As a graph, by XLA, where the backend is TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


def of_any_length(function):
    """As a graph that does not know the length of its inputs, where the backend is TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    def of(*arrays):
        specs = [tf.TensorSpec([None] * array.ndim, array.dtype) for array in arrays]
        specs[0] = tf.TensorSpec([None, None, L], "float32")
        return tf.function(function, specs)(*arrays)

    return of


@pytest.mark.parametrize("way", [lambda f: f, compiled, of_any_length], ids=["eager", "compiled", "any length"])
def test_all_that_is_found_is_that_of_all_sequences(way):
    crf, weights = made()
    x, labels = drawn()
    found = way(lambda x, y, mask: crf.log_likelihood(x, y, mask))(x, labels, MASK)
    best = way(lambda x, mask: crf.decode(x, mask))(x, MASK)
    marginals = way(lambda x, mask: crf.log_marginals(x, mask))(x, MASK)
    found, best, marginals = (ops.convert_to_numpy(r) for r in (found, best, marginals))
    for i, real in enumerate(REAL):
        sequences, scores = paths(x[i, real].astype("float64"), *weights)
        total = np.logaddexp.reduce(scores)
        np.testing.assert_allclose(total, forward(x[i, real].astype("float64"), *weights), rtol=1e-12)
        gold = (sequences == labels[i, real]).all(axis=1)
        np.testing.assert_allclose(found[i], scores[gold][0] - total, atol=2e-5)  # sums of some 10 float32
        np.testing.assert_array_equal(best[i, real], sequences[scores.argmax()])
        np.testing.assert_array_equal(best[i, ~real], 0)
        probabilities = np.exp(scores - total)
        for t, position in enumerate(np.flatnonzero(real)):
            expected = [probabilities[sequences[:, t] == label].sum() for label in range(L)]
            np.testing.assert_allclose(np.exp(marginals[i, position]), expected, atol=1e-5)
    np.testing.assert_array_equal(marginals[~MASK], 0.0)


def test_probabilities_of_all_sequences_add_up_to_one():
    crf, _ = made(3)
    x, _ = drawn(3, batch=1, length=4)
    every = np.array(list(itertools.product(range(3), repeat=4)))
    found = crf.log_likelihood(np.repeat(x, len(every), axis=0), every)
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(found)).sum(), 1.0, rtol=1e-5)


def test_a_long_sentence_equals_float64():
    crf, weights = made(7, seed=3)
    x, labels = drawn(7, seed=4, batch=2, length=67)
    found = ops.convert_to_numpy(crf.log_likelihood(x, labels))
    expected = [log_likelihood(a.astype("float64"), b, *weights) for a, b in zip(x, labels)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_position_is_no_loss_and_padding_is_no_position():
    crf, _ = made()
    x, labels = drawn()
    none = np.zeros((B, T), bool)
    np.testing.assert_array_equal(ops.convert_to_numpy(crf.log_likelihood(x, labels, none)), np.zeros(B))
    padded = np.concatenate([x, np.full((B, 2, L), 99.0, "float32")], axis=1)
    mask = np.arange(T + 2)[None] < np.full((B, 1), T)
    more = np.concatenate([labels, np.full((B, 2), -1)], axis=1)
    for ours, theirs in (
        (crf.log_likelihood(padded, more, mask), crf.log_likelihood(x, labels)),
        (crf.decode(padded, mask)[:, :T], crf.decode(x)),
        (crf.log_marginals(padded, mask)[:, :T], crf.log_marginals(x)),
    ):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), atol=1e-6)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_gradients_are_finite_differences(mask):
    """Of all weights and of the emissions, in float64 where Keras has it: on TensorFlow."""
    from autodiff import gradients

    on_tensorflow = keras.backend.backend() == "tensorflow"
    dtype, apart, bound = ("float64", 1e-5, 1e-7) if on_tensorflow else ("float32", 1e-2, 1e-3)
    crf = CRF(L, dtype=dtype)
    crf.build((None, None, L))
    draw = np.random.default_rng(5)
    values = [draw.normal(size=w.shape).astype(dtype) for w in crf.weights]
    x, labels = drawn()
    x = x.astype(dtype)

    def loss(x, *weights):
        scores = dict(zip((w.path for w in crf.weights), weights))
        with keras.StatelessScope([(w, scores[w.path]) for w in crf.weights]):
            return ops.sum(crf.log_likelihood(x, labels, mask))

    found = gradients(loss, x, *values)
    for place, value in enumerate((x, *values)):
        for index in [np.unravel_index(i, value.shape) for i in draw.choice(value.size, 3, replace=False)]:
            sides = []
            for sign in (1, -1):
                moved = [v.copy() for v in (x, *values)]
                moved[place][index] += sign * apart
                sides.append(float(loss(*(ops.convert_to_tensor(v) for v in moved))))
            np.testing.assert_allclose(found[place][index], (sides[0] - sides[1]) / (2 * apart), atol=bound)


@pytest.mark.parametrize("labels, scheme", [(BIO, "BIO"), (BIOES, "BIOES")])
def test_sequences_that_are_not_allowed_have_no_probability(labels, scheme):
    allowed = allowed_transitions(labels, scheme)
    count = len(labels)
    crf, weights = made(count, allowed, seed=6)
    x, _ = drawn(count, seed=7, batch=2, length=4)
    every = np.array(list(itertools.product(range(count), repeat=4)))
    legal = allowed[count, every[:, 0]] & allowed[every[:, -1], count]
    legal &= np.all([allowed[every[:, t], every[:, t + 1]] for t in range(3)], axis=0)
    assert 0 < legal.sum() < len(every)
    for sentence in x:
        found = ops.convert_to_numpy(crf.log_likelihood(np.repeat(sentence[None], len(every), axis=0), every))
        assert (found[~legal] < -5e3).all() and np.isfinite(found).all()
        _, scores = paths(sentence.astype("float64"), *weights)
        np.testing.assert_allclose(found[legal], scores[legal] - np.logaddexp.reduce(scores[legal]), atol=2e-5)
        best = ops.convert_to_numpy(crf.decode(sentence[None]))[0]
        np.testing.assert_array_equal(best, every[legal][scores[legal].argmax()])


def test_half_precision_emissions_are_summed_in_float32():
    crf, weights = made(dtype="mixed_float16")
    x, labels = drawn()
    half = x.astype("float16")
    found = crf.log_likelihood(half, labels)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected = [log_likelihood(a.astype("float64"), b, *weights) for a, b in zip(half, labels)]
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=2e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_labels": 0}, "num_labels=0"),
        ({"num_labels": 2, "allowed": np.ones((2, 2))}, r"shape=\(2, 2\), num_labels=2"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CRF(**arguments)


def test_emissions_of_other_labels_are_refused():
    with pytest.raises(ValueError, match=r"shape=\(3, 5, 4\), num_labels=7"):
        CRF(7)(drawn()[0])


@pytest.mark.parametrize(
    "labels, scheme, message",
    [
        (["O", "B"], "BIO", "Received: 'B'"),
        (["S-X"], "BIO", "must be O or one of B-TYPE, I-TYPE. Received: 'S-X'"),
        (["NOUN"], "BIOES", "Received: 'NOUN'"),
        (["O"], "IOB1", "scheme='IOB1'"),
    ],
)
def test_labels_of_another_scheme_are_refused(labels, scheme, message):
    with pytest.raises(ValueError, match=message):
        allowed_transitions(labels, scheme)
