"""Pairs of strings to examples: nothing is reordered, and what is dropped is counted."""

import itertools

import pytest
import tensorflow as tf

from keras_transformer.text import count_dropped, learn_vocabulary, shift, to_examples


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "char.model"
    return learn_vocabulary(["abcdefg hij"], path, 15, model_type="char")


def dataset(*pairs):
    return tf.data.Dataset.from_tensor_slices(tuple(list(side) for side in zip(*pairs, strict=True)))


def listed(examples):
    return [(source.numpy().tolist(), target.numpy().tolist()) for source, target in examples.unbatch()]


def test_source_ends_and_target_is_raw(tokenizer):
    a, cab = (ids.numpy().tolist() for ids in tokenizer(["a", "cab"]))
    assert listed(to_examples(dataset(("a", "cab"), ("cab", "a")), tokenizer, tokenizer)) == [
        ([*a, 3], cab),
        ([*cab, 3], a),
    ]


@pytest.mark.integration
# A text of n letters has n + 1 tokens (the first is the word boundary) and one special token.
@pytest.mark.parametrize(
    ("pair", "kept"),
    [
        (("abc", "abc"), True),
        (("abcd", "a"), False),
        (("a", "abcd"), False),
        (("", "a"), False),
        (("a", " "), False),
    ],
)
def test_what_is_dropped(tokenizer, pair, kept):
    pairs = dataset(("ab", "ab"), pair)
    assert len(listed(to_examples(pairs, tokenizer, tokenizer, max_length=5))) == 1 + kept
    dropped = count_dropped(pairs, tokenizer, tokenizer, max_length=5)
    assert dropped.dropped == 1 - kept and dropped.total == 2


def test_dropped_in_words(tokenizer):
    pairs = dataset(("abcdefg", ""), ("abcdefg", "a"), ("a", "a"))
    dropped = count_dropped(pairs, tokenizer, tokenizer, max_length=5)
    assert str(dropped) == "2 of 3 pairs dropped (1 longer than 5 tokens, 1 with an empty side)"


def test_all_dropped(tokenizer):
    pairs = dataset(("", ""), ("abcdefgh", "a"))
    assert listed(to_examples(pairs, tokenizer, tokenizer, max_length=5)) == []


def test_order_is_kept_over_many_batches(tokenizer):
    letters = "abcdefg"
    pairs = dataset(*[(letters[i % 7], letters[i % 5]) for i in range(2500)])
    examples = listed(to_examples(pairs, tokenizer, tokenizer))
    ids = [row[-1] for row in tokenizer(list(letters)).to_list()]
    assert [(source[-2], target[-1]) for source, target in examples] == [(ids[i % 7], ids[i % 5]) for i in range(2500)]


def test_infinite_pairs(tokenizer):
    examples = to_examples(dataset(("a", "b")).repeat(), tokenizer, tokenizer).unbatch()
    assert len(list(itertools.islice(examples, 1500))) == 1500


def test_refuses(tokenizer):
    pairs = dataset(("a", "b"))
    with pytest.raises(ValueError, match="received .*shape=\\(None,\\)"):
        to_examples(pairs.batch(2), tokenizer, tokenizer)
    with pytest.raises(ValueError, match="max_length must be at least 2, .*received 1"):
        to_examples(pairs, tokenizer, tokenizer, max_length=1)


def test_shift():
    inputs, labels, weights = shift(tf.constant([7, 8, 3]), tf.constant([5, 6]))
    assert inputs["encoder_token_ids"].numpy().tolist() == [7, 8, 3]
    assert inputs["decoder_token_ids"].numpy().tolist() == [2, 5, 6]
    assert labels.numpy().tolist() == [5, 6, 3]
    assert weights.numpy().tolist() == [1.0, 1.0, 1.0] and weights.dtype == tf.float32
    assert labels.dtype == inputs["decoder_token_ids"].dtype == tf.int32


def test_shift_of_a_ragged_batch_is_the_shift_of_its_rows():
    source, target = tf.ragged.constant([[7, 3], [8, 9, 3]]), tf.ragged.constant([[5], [6, 5, 4]])
    inputs, labels, weights = shift(source, target, start_token_id=10, end_token_id=11)
    assert inputs["decoder_token_ids"].to_list() == [[10, 5], [10, 6, 5, 4]]
    assert labels.to_list() == [[5, 11], [6, 5, 4, 11]] and weights.to_list() == [
        [1.0] * 2,
        [1.0] * 4,
    ]
