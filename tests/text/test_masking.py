"""Masks: how many, where, what becomes of them, and that a seed says all of it."""

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.text import mask_tokens

V, MASK, SPECIAL = 101, 4, range(5)
KEYWORDS = {"mask_token_id": MASK, "vocabulary_size": V, "special_token_ids": SPECIAL}


def rows(count=3, length=41, seed=0):
    """Start, ordinary tokens, end, padding: rows of several lengths."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, V, (count, length)).astype("int32")
    ids[:, 0] = 2
    for row, end in zip(ids, rng.integers(length // 2, length, count)):
        row[end], row[end + 1 :] = 3, 0
    return ids


def masked(ids, seed=(1, 2), **kwargs):
    inputs, labels, weights = mask_tokens(ids, seed, **{**KEYWORDS, **kwargs})
    return (x.numpy() for x in (inputs["token_ids"], inputs["mask_positions"], labels, weights))


def test_what_is_chosen_is_the_label_and_nothing_else_changes():
    ids = rows()
    token_ids, positions, labels, weights = masked(ids)
    for row in range(len(ids)):
        chosen = positions[row][weights[row] == 1]
        assert len(chosen) == round(0.15 * (ids[row] >= 5).sum())
        assert (np.diff(chosen) > 0).all()
        np.testing.assert_array_equal(labels[row][weights[row] == 1], ids[row, chosen])
        assert (ids[row, chosen] >= 5).all()
        rest = np.setdiff1d(np.arange(ids.shape[1]), chosen)
        np.testing.assert_array_equal(token_ids[row, rest], ids[row, rest])
        for x in (positions, labels):
            assert (x[row][weights[row] == 0] == 0).all()


def test_the_shares_are_those_asked_for():
    ids = rows(2000)
    token_ids, positions, labels, weights = masked(ids)
    now = np.take_along_axis(token_ids, positions, 1)[weights == 1]
    labels = labels[weights == 1]
    # Some 9,000 draws: four standard deviations of a share of 0.8 are 0.017.
    assert np.mean(now == MASK) == pytest.approx(0.8, abs=0.017)
    assert np.mean(now == labels) == pytest.approx(0.1 + 0.1 / 96, abs=0.013)
    assert set(np.unique(now)) - {MASK} == set(range(5, V))
    places = np.bincount(positions[weights == 1], minlength=41)[1:20]
    assert places.min() > 0.7 * places.mean()  # every place has its chance: some 230 draws each


def test_one_seed_one_result_and_another_another():
    ids = rows()
    first, again, other = (list(masked(ids, seed)) for seed in ((1, 2), (1, 2), (1, 3)))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert (first[1] != other[1]).any()


def test_in_a_dataset_whose_length_is_not_known():
    ids = rows()
    dataset = tf.data.Dataset.from_tensors(ids).map(
        lambda x: mask_tokens(tf.ensure_shape(x, [None, None]), (1, 2), max_predictions=6, **KEYWORDS)
    )
    inputs, labels, weights = next(iter(dataset))
    for a, b in zip(masked(ids), (inputs["token_ids"], inputs["mask_positions"], labels, weights)):
        np.testing.assert_array_equal(a, b.numpy())


def test_short_rows_and_rows_of_nothing():
    token_ids, positions, _, weights = masked([[2, 9, 3], [2, 3, 0]], max_predictions=5)
    np.testing.assert_array_equal(weights, [[1, 0, 0, 0, 0], [0] * 5])
    assert positions.tolist() == [[1, 0, 0, 0, 0], [0] * 5]
    np.testing.assert_array_equal(token_ids[1], [2, 3, 0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rate": 1.5}, "rate must be between 0 and 1, received 1.5"),
        ({"mask_rate": 0.9, "random_rate": 0.2}, "received 0.9 and 0.2"),
        ({"special_token_ids": range(V)}, "received all 101"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        masked(rows(), **arguments)
