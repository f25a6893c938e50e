"""Words as features: which values share an id, and that nothing but the words' values matters."""

import keras
import numpy as np
import pytest

from keras_transformer.text import WordFeatures

WORDS = ["The", "the", "running", "Runner", "runs", "1999", "2024", "U.S.", "x"] * 2
NAMES = ["word", "prefix1", "prefix3", "suffix1", "suffix2", "suffix3", "suffix4", "shape"]


@pytest.fixture(scope="module")
def features():
    return WordFeatures.learn(WORDS)


def shared(features, one, other):
    ours, theirs = features([one, other]).numpy()
    return {name for name, a, b in zip(NAMES, ours, theirs) if a == b}


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ("The", "the", {"word", "prefix3", "suffix1", "suffix2", "suffix3", "suffix4"}),
        ("1999", "2024", {"shape"}),
        ("running", "Runner", {"prefix3"}),
        ("runs", "running", {"prefix1", "prefix3", "shape"}),
    ],
)
def test_what_words_share(features, one, other, expected):
    assert shared(features, one, other) == expected


def test_ids_are_of_their_feature_and_unknown_values_of_its_unknown_id(features):
    ids = features([*WORDS, "zzzzzz"]).numpy()
    assert ids.dtype == "int32" and ids.shape == (19, 8)
    bounds = [*(unknown - 1 for unknown in features.unknown_ids), features.vocabulary_size]
    for column, low, high in zip(ids.T, bounds, bounds[1:]):
        assert (column > low).all() and (column < high).all()
    np.testing.assert_array_equal(ids[-1, :7], features.unknown_ids[:7])
    assert len(np.unique(ids[:-1, 0])) == 8 and (ids[:-1, 0] != features.unknown_ids[0]).all()


def test_rare_values_are_unknown():
    features = WordFeatures.learn(["a", "a", "b"], min_count=2)
    ids = features(["a", "b"]).numpy()[:, 0]
    assert ids[0] != features.unknown_ids[0] == ids[1]


def test_saved_and_after_tensorflow_forgets(features, tmp_path):
    expected = features(WORDS).numpy()
    features.save(tmp_path / "features.npz")
    again = WordFeatures(tmp_path / "features.npz")
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(again(WORDS), expected)
    np.testing.assert_array_equal(features(WORDS), expected)
    assert again.vocabulary_size == features.vocabulary_size


def test_any_word_has_features(features):
    assert features([]).shape == (0, 8)
    odd = features(["", b"\xff", "\U0001f680", "x" * 100_000, "x" * 64]).numpy()
    np.testing.assert_array_equal(odd[3], odd[4])  # no more than 64 characters of a word are read


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: WordFeatures([[1]]), "received 1"),
        (lambda path: WordFeatures(path / "absent"), "received .*absent"),
        (lambda path: WordFeatures.learn([]), "received none"),
        (lambda path: WordFeatures.learn(["a"], min_count=0), "received 0"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path)
