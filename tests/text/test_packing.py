"""Packed rows: every example exactly once and whole, one shape, an order that seed and epoch fix."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.text import learn_vocabulary, pack, read_parallel, shift, to_examples
from keras_transformer.text import packing as module

MULTI30K = Path(__file__).parents[3] / "shared" / "data" / "multi30k"
SPEC = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int32))
ROWS, SOURCE, TARGET = 3, 17, 13


def examples(count=101, longest=13, seed=0):
    """Shifted examples of random lengths; the first token of a source is its number."""
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(1, longest, size=2) for _ in range(count)]
    pairs = [(np.arange(100 + i, 100 + i + s), np.arange(500, 500 + t)) for i, (s, t) in enumerate(drawn)]
    return tf.data.Dataset.from_generator(lambda: iter(pairs), output_signature=SPEC).map(shift)


def packed(dataset, **kwargs):
    return pack(dataset, ROWS * SOURCE + 5, SOURCE, TARGET, **{"seed": 1, **kwargs})


def unpacked(batches, pad_token_id=0):
    """The examples of the rows, as tuples of source, decoder input and labels, in the order of the rows."""
    found = []
    for inputs, labels, weights in batches.as_numpy_iterator():
        sides = inputs["encoder_segment_ids"], inputs["decoder_segment_ids"]
        assert inputs["encoder_token_ids"].shape == sides[0].shape == (ROWS, SOURCE)
        assert inputs["decoder_token_ids"].shape == sides[1].shape == labels.shape == weights.shape == (ROWS, TARGET)
        assert weights.dtype == np.float32 and {side.dtype for side in sides} == {np.dtype("int32")}
        np.testing.assert_array_equal(weights, sides[1] > 0)
        for tokens, side in (("encoder_token_ids", sides[0]), ("decoder_token_ids", sides[1])):
            assert (inputs[tokens][side == 0] == pad_token_id).all()
        assert (labels[sides[1] == 0] == pad_token_id).all()
        for row in range(ROWS):
            source, decoder = sides[0][row], sides[1][row]
            assert source.max() == decoder.max()
            for number, side in itertools.product(range(1, source.max() + 1), (source, decoder)):
                where = np.flatnonzero(side == number)
                assert where.size == where[-1] - where[0] + 1, "a segment is a run"
            found.extend(
                (
                    tuple(inputs["encoder_token_ids"][row][source == number]),
                    tuple(inputs["decoder_token_ids"][row][decoder == number]),
                    tuple(labels[row][decoder == number]),
                )
                for number in range(1, source.max() + 1)
            )
    return found


def expected(dataset):
    return [
        (tuple(x["encoder_token_ids"]), tuple(x["decoder_token_ids"]), tuple(y))
        for x, y, _ in dataset.as_numpy_iterator()
    ]


@pytest.mark.integration
@pytest.mark.parametrize(
    "count, pool_size, packers_of, shuffle, pad_token_id",
    [
        (101, 50_000, 4096, False, 0),
        (101, 50_000, 7, True, 9),
        (1100, 1024, 100, True, 0),
        (1100, 1024, 100, False, 9),
        (1, 5, 4096, True, 9),
    ],
)
def test_every_example_once_and_whole(count, pool_size, packers_of, shuffle, pad_token_id, monkeypatch):
    monkeypatch.setattr(module, "EXAMPLES_OF_A_PACKER", packers_of)
    dataset = examples(count)
    found = unpacked(packed(dataset, pool_size=pool_size, shuffle=shuffle, pad_token_id=pad_token_id), pad_token_id)
    assert Counter(found) == Counter(expected(dataset))


def lengths(*pairs):
    """Shifted examples of the given lengths of both sides, the sources filled with their number from 1."""
    vectors = [(np.full(s, n), np.full(t - 1, 50 + n)) for n, (s, t) in enumerate(pairs, 1)]
    return tf.data.Dataset.from_generator(lambda: iter(vectors), output_signature=SPEC).map(shift)


def test_hand_derived():
    # 3 goes where 2 left less room than 1; 4 would fit beside 1, but for its target.
    dataset = lengths((4, 3), (5, 4), (1, 2), (2, 4))
    inputs, labels, _ = next(iter(pack(dataset, 18, 6, 6, shuffle=False)))
    assert inputs["encoder_token_ids"].numpy().tolist() == [[1, 1, 1, 1, 0, 0], [2, 2, 2, 2, 2, 3], [4, 4, 0, 0, 0, 0]]
    encoder = inputs["encoder_segment_ids"].numpy().tolist()
    assert encoder == [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 2],
        [1, 1, 0, 0, 0, 0],
    ]
    decoder = inputs["decoder_segment_ids"].numpy().tolist()
    assert decoder == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 2, 2],
        [1, 1, 1, 1, 0, 0],
    ]
    assert labels.numpy().tolist() == [[51, 51, 3, 0, 0, 0], [52, 52, 52, 3, 53, 3], [54, 54, 54, 3, 0, 0]]


def test_the_fullest_row_is_closed_when_none_has_room(monkeypatch):
    monkeypatch.setattr(module, "OPEN_ROWS", 2)
    dataset = lengths((4, 2), (5, 2), (3, 2), (2, 2), (1, 2))  # 3 closes the row of 2, 4 fits beside 1, 5 beside 3
    inputs, _, _ = next(iter(pack(dataset, 18, 6, 6, shuffle=False)))
    assert inputs["encoder_token_ids"].numpy().tolist() == [[1, 1, 1, 1, 4, 4], [2, 2, 2, 2, 2, 0], [3, 3, 3, 5, 0, 0]]


@pytest.mark.integration
def test_order_is_a_function_of_seed_and_epoch():
    def epoch(seed, number):
        return unpacked(packed(examples(), seed=seed, initial_epoch=number))

    run = packed(examples(), seed=5)
    epochs = [unpacked(run) for _ in range(3)]
    tf.random.set_seed(1234)  # The global seed must not be mixed in.
    assert [epoch(5, number) for number in range(3)] == epochs
    orders = [*epochs, epoch(6, 0), expected(examples())]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    rest = unpacked(packed(examples(), seed=5, initial_epoch=1).skip(2))  # the place inside an epoch
    assert rest and rest == epochs[1][-len(rest) :]


@pytest.mark.integration
def test_static_shapes_and_endless_data():
    endless = packed(examples(7).repeat(), pool_size=20)
    inputs, labels, weights = endless.element_spec
    assert {x.shape.as_list()[1] for x in (inputs["encoder_token_ids"], inputs["encoder_segment_ids"])} == {SOURCE}
    assert {tuple(x.shape) for x in (inputs["decoder_token_ids"], labels, weights)} == {(ROWS, TARGET)}
    assert sum(1 for _ in endless.take(500)) == 500


def test_no_examples():
    assert list(packed(examples().take(0))) == []


def test_too_long_an_example_is_not_lost_silently():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"longer than a row, .*\[12 13\] \[for\] \[12 12\]"):
        list(pack(examples(), 31, 12, 12, seed=1))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((12, 13, 7), "must hold a row, of 13 tokens, received 12"),
        ((12, 0, 7), "at least 1, received 0 and 7"),
        ((12, 7, -1), "at least 1, received 7 and -1"),
        ((12, 7, 7, 0), "pool_size must be at least 1, received 0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        pack(examples(), *arguments)


def test_refuses_what_has_not_two_sides():
    with pytest.raises(ValueError, match=r"encoder_token_ids and decoder_token_ids.*received .*TensorSpec.*shift"):
        pack(examples().map(lambda x, y, w: (x["encoder_token_ids"], y, w)), 31, 13, 13)


@pytest.mark.skipif(not MULTI30K.exists(), reason=f"{MULTI30K} is missing")
@pytest.mark.slow
def test_multi30k_is_hardly_padded(tmp_path):
    pairs = read_parallel(MULTI30K / "train.en.gz", MULTI30K / "train.de.gz")
    tokenizer = learn_vocabulary(pairs, tmp_path / "joint.model", 8000)
    tokens = np.zeros(3, "int64")
    for inputs, labels, weights in pack(to_examples(pairs, tokenizer, tokenizer).map(shift), 4096, seed=1):
        source = inputs["encoder_segment_ids"]
        tokens += [np.count_nonzero(source), int(tf.reduce_sum(weights)), tf.size(labels).numpy()]
    assert (tokens[:2] > 0.94 * tokens[2]).all() and tokens[:2].sum() > 0.95 * 2 * tokens[2]
