"""The best tokens of rows of logits: which they are, and what happens where there is nothing to choose."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.generation.candidates import GROUP, best_tokens, largest_of


def logits(rows, size, levels, seed=0):
    """Few levels make ties, in every row but the first ones: these offer nothing, little, and +inf."""
    x = np.random.default_rng((seed, size)).integers(0, levels, (rows, size)).astype("float32")
    x[0], x[1, 2:], x[2, size // 2] = -np.inf, -np.inf, np.inf
    return x


@pytest.mark.parametrize("levels", [2, 5, 10**6], ids=lambda levels: f"{levels} levels")
@pytest.mark.parametrize("size, count", [(4 * GROUP, 2), (4 * GROUP - 1, 2), (4 * GROUP + 1, 2), (9 * GROUP + 5, 4)])
def test_the_largest_are_those_of_top_k_with_ties(size, count, levels):
    x = ops.convert_to_tensor(logits(8, size, levels))
    (values, ids), (expected_values, expected_ids) = largest_of(x, count), ops.top_k(x, count)
    np.testing.assert_array_equal(ops.convert_to_numpy(values), ops.convert_to_numpy(expected_values))
    if keras.backend.backend() != "torch":  # which of equals PyTorch takes is not said
        np.testing.assert_array_equal(ops.convert_to_numpy(ids), ops.convert_to_numpy(expected_ids))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [5, 9 * GROUP])
def test_log_probabilities_are_those_of_the_softmax(size, count):
    x = np.random.default_rng(1).normal(size=(4, size)).astype("float32")
    x[3, 1] = np.nan  # a token that is never chosen
    log_p, ids = (ops.convert_to_numpy(found) for found in best_tokens(ops.convert_to_tensor(x), count))
    x[3, 1] = -np.inf
    expected = x.astype("float64") - np.log(np.exp(x.astype("float64")).sum(axis=1, keepdims=True))
    best = np.argsort(-expected, axis=1)[:, :count]
    np.testing.assert_array_equal(ids, best)
    np.testing.assert_allclose(log_p, np.take_along_axis(expected, best, 1), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_rows_that_offer_nothing_to_choose(count):
    x = logits(3, 6, 3)
    log_p, ids = (ops.convert_to_numpy(found) for found in best_tokens(ops.convert_to_tensor(x), count))
    assert (log_p[[0, 2]] == -np.inf).all() and np.isfinite(log_p[1]).all()
    assert ids[2, 0] == 3
