"""Pieces of words and windows of pieces, against plain Python."""

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("tensorflow_text")

from keras_transformer.text import (
    WordFeatures,
    WordPieceTokenizer,
    batch_by_tokens,
    first_of_words,
    pieces_of_words,
    tagged_dataset,
    to_tagged_examples,
    windows,
)

LETTERS = "abcde"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS)]
SENTENCES = [["Ab", "c", "", "\u200d"], [], ["a" * 50], ["deab", "E"]]
LABELS = ["X", "Y", "Z"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(VOCABULARY, lowercase=True)


def drawn(seed, count=9, longest=23):
    draw = np.random.default_rng(seed)
    rows = [
        ["".join(draw.choice(list(LETTERS), draw.integers(1, 5))) for _ in range(draw.integers(0, longest))]
        for _ in range(count)
    ]
    return [*rows, ["a"] * 61]


def test_each_word_has_its_pieces(tokenizer):
    pieces = pieces_of_words(tokenizer, tf.ragged.constant(SENTENCES, tf.string, ragged_rank=1))
    a, b, c, d, e = range(5, 10)
    inside = 5
    expected = [[a, b + inside, c, 1, 1], [], [a, *[a + inside] * 31], [d, e + inside, a + inside, b + inside, e]]
    assert pieces.token_ids.to_list() == expected
    assert pieces.words.to_list() == [[0, 0, 1, 2, 3], [], [0] * 32, [0, 0, 0, 0, 1]]
    assert pieces.capitals.to_list() == [[1, 1, 0, 0, 0], [], [0] * 32, [0, 0, 0, 0, 1]]
    firsts = first_of_words(pieces).to_list()
    assert firsts == [[True, False, True, True, True], [], [True] + [False] * 31, [True, False, False, False, True]]


@pytest.mark.parametrize(
    "max_length, overlap, special", [(8, 3, (2, 3)), (7, 0, (None, None)), (9, 7, (2, None)), (512, 5, (2, 3))]
)
def test_each_piece_is_read_once_and_far_from_the_cuts(tokenizer, max_length, overlap, special):
    pieces = pieces_of_words(tokenizer, tf.ragged.constant(drawn(3), tf.string, ragged_rank=1))
    read = windows(pieces, max_length, overlap, 0, *special)
    ids, mask = read.token_ids.numpy(), read.padding_mask.numpy()
    assert ids.shape[1] <= max_length
    np.testing.assert_array_equal(mask, ids != 0)
    before, after = (token is not None for token in special)
    if before:
        np.testing.assert_array_equal(ids[:, 0], special[0])
    if after:
        np.testing.assert_array_equal(ids[np.arange(len(ids)), mask.sum(axis=1) - 1], special[1])
    where = set()
    for sentence, rows, columns in zip(*(x.to_list() for x in (pieces.token_ids, read.rows, read.columns))):
        assert [ids[r, c] for r, c in zip(rows, columns)] == sentence
        where |= set(zip(rows, columns))
        for place, (row, column) in enumerate(zip(rows, columns)):
            around = column - before, mask[row].sum() - 1 - after - column
            for side, to_edge in zip(around, (place, len(sentence) - 1 - place)):
                assert side >= min(overlap // 2, to_edge)
    assert len(where) == sum(map(len, pieces.token_ids.to_list()))


def test_windows_that_cannot_be_are_refused(tokenizer):
    pieces = pieces_of_words(tokenizer, tf.ragged.constant([["a"]], tf.string))
    with pytest.raises(ValueError, match="max_length=5 and overlap=3"):
        windows(pieces, 5, 3, 0, 2, 3)


def labelled(seed):
    draw = np.random.default_rng(seed)
    rows = [words for words in drawn(seed) if words]
    return [(tuple(words), tuple(draw.choice(LABELS, len(words)))) for words in rows]


@pytest.mark.integration
@pytest.mark.parametrize("label_on", ["first", "all"])
def test_each_word_counts_once_with_its_label(tokenizer, label_on):
    sentences = labelled(4)
    dataset = tagged_dataset(sentences)
    examples = to_tagged_examples(dataset, tokenizer, LABELS, 9, 3, label_on, segment_capitals=True)
    counts, weight = np.zeros(3), 0.0
    for inputs, labels, weights in batch_by_tokens(examples, 90, [5, 9], shuffle=False):
        assert inputs["token_ids"].shape == inputs["segment_ids"].shape == labels.shape == weights.shape
        assert not weights.numpy()[inputs["token_ids"].numpy() < 5].any()
        np.add.at(counts, labels.numpy(), weights.numpy())
        weight += weights.numpy().sum()
    expected = [sum(label == name for _, row in sentences for label in row) for name in LABELS]
    np.testing.assert_allclose(counts, expected, rtol=1e-6)
    np.testing.assert_allclose(weight, sum(len(words) for words, _ in sentences), rtol=1e-6)


def test_features_are_one_piece_a_word():
    sentences = labelled(5)
    features = WordFeatures.learn([word for words, _ in sentences for word in words])
    examples = to_tagged_examples(tagged_dataset(sentences), features, LABELS, 512, 3)
    (batch,) = examples
    inputs, labels, weights = batch
    for (words, found), ids, row in zip(sentences, inputs["token_ids"], labels.to_list()):
        np.testing.assert_array_equal(ids, features(words))
        assert [LABELS[i] for i in row] == list(found)
    assert (weights.values.numpy() == 1).all()
    for inputs, labels, _ in batch_by_tokens(examples, 128, [16, 64]):
        assert inputs["token_ids"].shape == (*labels.shape, 8)


@pytest.mark.integration
def test_labels_that_are_not_known_or_not_there_are_errors(tokenizer):
    broken = tf.data.Dataset.from_tensors((tf.constant(["a", "b"]), tf.constant(["X", "Q"])))
    with pytest.raises(tf.errors.InvalidArgumentError, match="received the label"):
        list(to_tagged_examples(broken, tokenizer, LABELS))
    broken = tf.data.Dataset.from_tensors((tf.constant(["a", "b"]), tf.constant(["X"])))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a label for each word"):
        list(to_tagged_examples(broken, tokenizer, LABELS))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"labels": ["X", "X"]}, "received X more than once"),
        ({"labels": []}, r"received \[\]"),
        ({"label_on": "last"}, "received 'last'"),
    ],
)
def test_bad_arguments_are_refused(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        to_tagged_examples(tagged_dataset(labelled(6)), tokenizer, **{"labels": LABELS, **options})


def test_batches_of_sentences_are_refused(tokenizer):
    with pytest.raises(ValueError, match="received .*TensorSpec.*: make it with tagged_dataset"):
        to_tagged_examples(tagged_dataset(labelled(6)).ragged_batch(2), tokenizer, LABELS)
