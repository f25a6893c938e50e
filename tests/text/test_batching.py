"""Batches: few declared shapes, every example exactly once, an order that seed and epoch fix."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.text import (
    batch_by_tokens,
    choose_lengths,
    count_batches,
    learn_vocabulary,
    length_histogram,
    read_parallel,
    shapes,
    shift,
    to_examples,
)

MULTI30K = Path(__file__).parents[3] / "shared" / "data" / "multi30k"
SPEC = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int32))


def examples(count=101, longest=13, seed=0):
    """Shifted examples of random lengths; the first token of a source is its number."""
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(1, longest, size=2) for _ in range(count)]
    pairs = [(np.arange(100 + i, 100 + i + s), np.arange(500, 500 + t)) for i, (s, t) in enumerate(drawn)]
    return tf.data.Dataset.from_generator(lambda: iter(pairs), output_signature=SPEC).map(shift)


def numbers(batches):
    """The order in which the examples come."""
    return [int(row[0]) for inputs, _, _ in batches for row in inputs["encoder_token_ids"] if row[0]]


@pytest.mark.integration
@pytest.mark.parametrize(
    "shuffle, pool_size, lengths, pad_token_id",
    [
        (False, 50_000, [3, 7, 13], 0),
        (True, 50_000, [5, 11, 29], 9),
        (True, 1024, [3, 7, 13], 9),
        (False, 1024, [13], 9),
    ],
)
def test_every_token_once_in_declared_shapes(shuffle, pool_size, lengths, pad_token_id):
    dataset = examples(count=101 if pool_size > 1024 else 1100)
    declared = shapes(31, lengths)
    seen = []
    batches = batch_by_tokens(dataset, 31, lengths, pool_size, shuffle, seed=1, pad_token_id=pad_token_id)
    for inputs, labels, weights in batches.as_numpy_iterator():
        source, decoder = inputs["encoder_token_ids"], inputs["decoder_token_ids"]
        assert source.shape == decoder.shape == labels.shape == weights.shape and labels.shape in declared
        np.testing.assert_array_equal(weights, labels != pad_token_id)
        smaller = [length for length in lengths if length < labels.shape[1]]
        assert max((side != pad_token_id).sum(axis=1).max() for side in (source, labels)) > max(smaller, default=0)
        assert weights.dtype == np.float32
        for row in zip(source, decoder, labels, strict=True):
            vectors = [side[side != pad_token_id] for side in row]
            assert vectors[0].size or not (vectors[1].size or vectors[2].size)
            seen.append(tuple(map(tuple, vectors)))
    expected = Counter(
        (tuple(x["encoder_token_ids"]), tuple(x["decoder_token_ids"]), tuple(y))
        for x, y, _ in dataset.as_numpy_iterator()
    )
    assert Counter(row for row in seen if row[0]) == expected


def test_hand_derived():
    vectors = [[1], [2, 2], [3, 3, 3], [4]]
    dataset = tf.data.Dataset.from_generator(lambda: iter(vectors), output_signature=SPEC[0])
    batches = [batch.tolist() for batch in batch_by_tokens(dataset, 4, [1, 3], shuffle=False).as_numpy_iterator()]
    assert batches == [[[3, 3, 3]], [[2, 2, 0]], [[1], [4], [0], [0]]]
    dataset = tf.data.Dataset.from_generator(lambda: iter([[5], *vectors, [6, 6]]), output_signature=SPEC[0])
    batches = [batch.tolist() for batch in batch_by_tokens(dataset, 6, [1, 3], shuffle=False).as_numpy_iterator()]
    assert batches == [[[3, 3, 3], [2, 2, 0]], [[6, 6, 0], [5, 0, 0]], [[1], [4], [0], [0], [0], [0]]]
    assert shapes(4, [1, 3]) == [(4, 1), (1, 3)]


def test_static_shapes():
    one = batch_by_tokens(examples(), 31, [13]).element_spec
    assert {spec.shape.as_list() == [2, 13] for spec in tf.nest.flatten(one)} == {True}
    same_rows = batch_by_tokens(examples(), 30, [13, 14]).element_spec
    assert {tuple(spec.shape.as_list()) for spec in tf.nest.flatten(same_rows)} == {(2, None)}
    assert set(one[0]) == {"encoder_token_ids", "decoder_token_ids"}


@pytest.mark.integration
def test_order_is_a_function_of_seed_and_epoch():
    def epoch(seed, number):
        return numbers(batch_by_tokens(examples(), 31, [7, 13], seed=seed, initial_epoch=number))

    run = batch_by_tokens(examples(), 31, [7, 13], seed=5)
    epochs = [numbers(run) for _ in range(3)]
    tf.random.set_seed(1234)  # The global seed must not be mixed in.
    assert [epoch(5, number) for number in range(3)] == epochs
    orders = [*epochs, epoch(6, 0), list(range(100, 201))]
    assert all(sorted(order) == orders[-1] for order in orders)
    assert all(a != b for a, b in itertools.combinations(orders, 2))


def test_no_shuffle_sorts_and_keeps_the_order_of_the_equally_long():
    def longest(example):
        return max(vector.size for vector in (example[0]["encoder_token_ids"], example[1]))

    expected = sorted(examples().as_numpy_iterator(), key=lambda example: -longest(example))  # a stable sort
    found = numbers(batch_by_tokens(examples(), 31, [13], shuffle=False))
    assert found == [int(example[0]["encoder_token_ids"][0]) for example in expected]


@pytest.mark.integration
@pytest.mark.parametrize("lengths, seed", [([13], 0), ([3, 7, 13], 1), (list(range(2, 14)), 2)])
def test_batches_are_counted_beforehand(lengths, seed):
    dataset = examples(seed=seed)
    count = count_batches(length_histogram(dataset), 31, lengths)
    assert count == sum(1 for _ in batch_by_tokens(dataset, 31, lengths, seed=seed)) > 1


def test_the_epoch_is_counted_through_other_datasets():
    run = batch_by_tokens(examples(), 31, [13], seed=5).map(lambda *batch: batch).prefetch(1)
    assert numbers(run) != numbers(run)


def test_infinite_dataset():
    def forever():
        for number in itertools.count():
            yield np.arange(1, 2 + number % 7)

    dataset = tf.data.Dataset.from_generator(forever, output_signature=SPEC[0])
    batches = batch_by_tokens(dataset, 21, [3, 7], pool_size=20, seed=0)
    assert {batch.shape for batch in itertools.islice(batches.as_numpy_iterator(), 50)} == {
        (7, 3),
        (3, 7),
    }


def test_empty_dataset():
    assert list(batch_by_tokens(examples().take(0), 31, [13])) == []


def test_too_long_an_example_is_not_lost_silently():
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than the last of lengths"):
        list(batch_by_tokens(examples(), 31, [3, 7]))


@pytest.mark.parametrize(
    ("batch_tokens", "lengths", "message"),
    [
        (31, [7, 3], r"increasing, received \[7, 3\]"),
        (31, [], r"received \[\]"),
        (31, [0, 3], r"positive and increasing, received \[0, 3\]"),
        (12, [7, 13], "largest length, 13, received 12"),
    ],
)
def test_refuses(batch_tokens, lengths, message):
    with pytest.raises(ValueError, match=message):
        batch_by_tokens(examples(), batch_tokens, lengths)


def test_refuses_batches():
    with pytest.raises(ValueError, match="vectors or ragged batches of vectors, received .*before they are padded"):
        batch_by_tokens(tf.data.Dataset.from_tensors([[1, 2]]), 31, [13])


def padded(lengths, buckets):
    return sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths)


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_chosen_lengths_are_the_best(num_buckets, seed):
    lengths = np.random.default_rng(seed).geometric(0.2, size=40).clip(1, 17)
    chosen = choose_lengths(lengths, num_buckets)
    distinct = sorted(set(lengths.tolist()))
    choices = itertools.combinations(distinct[:-1], min(num_buckets, len(distinct)) - 1)
    assert padded(lengths, chosen) == min(padded(lengths, [*choice, distinct[-1]]) for choice in choices)
    assert len(chosen) <= num_buckets and chosen == sorted(set(chosen))


def test_chosen_lengths_by_hand():
    assert choose_lengths([2, 2, 2, 9, 10], 2) == [2, 10]
    assert choose_lengths([2, 2, 2, 9, 10], 2, multiple_of=8) == [8, 16]
    assert choose_lengths(iter([5, 5]), 4) == [5]


def test_chosen_lengths_of_a_dataset_count_the_longer_side():
    dataset = tf.data.Dataset.from_tensors((tf.range(3), tf.range(4))).map(shift)
    assert choose_lengths(dataset, 3) == [5]


@pytest.mark.parametrize(
    ("lengths", "arguments", "message"),
    [
        ([], (3,), "received none"),
        ([0], (3,), "received an empty one"),
        ([4], (0,), "received 0 and 1"),
    ],
)
def test_choose_lengths_refuses(lengths, arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_lengths(lengths, *arguments)


@pytest.mark.skipif(not MULTI30K.exists(), reason=f"no Multi30k at {MULTI30K}")
def test_multi30k_from_files_to_batches(tmp_path):
    pairs = read_parallel(MULTI30K / "val.en.gz", MULTI30K / "val.de.gz")
    tokenizer = learn_vocabulary(pairs, tmp_path / "joint.model", 1000)
    dataset = to_examples(pairs, tokenizer, tokenizer).map(shift)
    lengths = choose_lengths(dataset, 6)
    seen, real, positions, rows = set(), 0, 0, 0
    for inputs, labels, weights in batch_by_tokens(dataset, 1024, lengths, seed=0).as_numpy_iterator():
        source = inputs["encoder_token_ids"]
        seen.add(labels.shape)
        rows += weights.any(axis=1).sum()
        real += np.count_nonzero(source) + weights.sum()
        positions += source.size + labels.size
    assert rows == 1014 and seen <= set(shapes(1024, lengths))
    assert real / positions > 0.8
