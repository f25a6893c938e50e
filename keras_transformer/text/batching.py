"""Examples of many lengths to batches of few shapes, each with about the same number of tokens.

Every shape costs a compilation, every padded position costs work for nothing: the shapes are
declared beforehand, and `choose_lengths` places them where they waste least.
"""

import bisect
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf


def shapes(batch_tokens: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The shapes `(rows, length)` of the batches of `batch_by_tokens`, one for each length.

    Args:
        batch_tokens: most positions of a batch, on each side.
        lengths: increasing lengths of the buckets.
    """
    lengths = [int(length) for length in lengths]
    if not lengths or lengths[0] < 1 or any(a >= b for a, b in pairwise(lengths)):
        raise ValueError(f"lengths must be positive and increasing, received {lengths}.")
    if batch_tokens < lengths[-1]:
        raise ValueError(
            f"batch_tokens must hold one example of the largest length, {lengths[-1]}, received "
            f"{batch_tokens}: raise batch_tokens or drop the long examples."
        )
    return [(batch_tokens // length, length) for length in lengths]


def batch_by_tokens(
    dataset: tf.data.Dataset,
    batch_tokens: int,
    lengths: Sequence[int],
    shuffle_buffer: int = 10_000,
    seed: int | None = None,
    pad_token_id: int = 0,
    initial_epoch: int = 0,
) -> tf.data.Dataset:
    """Batches of examples of like length, in the shapes `shapes(batch_tokens, lengths)` only.

    An example goes to the smallest length that holds its longest vector; all its vectors are padded
    to that length. What is left in a bucket at the end of an epoch is filled up with rows that are
    all padding, so that each example comes through exactly once an epoch. Examples wait in the
    shuffle buffer and in the buckets, nowhere else: memory does not grow with the dataset.

    Args:
        dataset: examples, any structure of vectors, such as `shift` makes. Integers are padded with
            `pad_token_id`, other values (the weights) with zero.
        batch_tokens: most positions of a batch, on each side.
        lengths: increasing lengths of the buckets; see `choose_lengths`. Iterating raises
            `tf.errors.InvalidArgumentError` at an example longer than the last.
        shuffle_buffer: number of examples to draw the next one from; 0 keeps the order, as
            evaluation wants it.
        seed: of the order, which is a function of the seed and the epoch alone. None draws a seed
            from Python's `random`, which `keras.utils.set_random_seed` seeds.
        pad_token_id: fills the integer vectors.
        initial_epoch: epoch of the first iteration over the result; each further iteration is the
            next epoch. A run that resumes at epoch `e` passes `e`.

    Returns:
        A dataset of the same structure, each vector now `(rows, length)`.
    """
    table = shapes(batch_tokens, lengths)
    _check_vectors(dataset, "dataset")
    if shuffle_buffer > 0:
        dataset = _shuffled(dataset, shuffle_buffer, random.getrandbits(31) if seed is None else seed, initial_epoch)
    rows_of = tf.constant([rows for rows, _ in table], tf.int64)
    length_of = tf.constant([length for _, length in table], tf.int64)
    # With buckets of several shapes only what they share is static.
    static = [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*table, strict=True)]
    padding = tf.nest.map_structure(lambda spec: _padding(spec.dtype, pad_token_id), dataset.element_spec)

    def bucket(*example: Any) -> tf.Tensor:
        longest = _longest(example)
        fits = tf.debugging.Assert(
            longest <= length_of[-1],
            [
                "an example is longer than the last of lengths, drop it or add a length: received",
                longest,
            ],
        )
        with tf.control_dependencies([fits]):
            return tf.searchsorted(length_of, longest[tf.newaxis], out_type=tf.int64)[0]

    def whole(arguments: tuple[Any, ...]) -> Any:
        # tf.data passes the parts of a tuple one by one and anything else as one argument.
        return arguments if isinstance(padding, tuple) else arguments[0]

    def batch(key: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        rows, length = rows_of[key], length_of[key]

        def fill(vectors: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
            missing = rows - tf.shape(vectors, tf.int64)[0]
            filled = tf.pad(vectors, [[0, missing], [0, 0]], constant_values=value)
            filled.set_shape(static)
            return filled

        lengths = tf.nest.map_structure(lambda _: length[tf.newaxis], padding)
        batches = window.padded_batch(rows, lengths, padding)
        return batches.map(lambda *vectors: tf.nest.map_structure(fill, whole(vectors), padding))

    batches = dataset.group_by_window(bucket, batch, window_size_func=lambda key: rows_of[key])
    return batches.prefetch(tf.data.AUTOTUNE)


def length_histogram(dataset: tf.data.Dataset) -> Counter[int]:
    """How many examples have each length, that of their longest vector. Reads the dataset once."""
    _check_vectors(dataset, "dataset")
    lengths = dataset.map(lambda *example: _longest(example), num_parallel_calls=tf.data.AUTOTUNE)
    histogram: Counter[int] = Counter()
    for batch in lengths.batch(1024).as_numpy_iterator():
        histogram.update(batch.tolist())
    return histogram


def count_batches(histogram: Counter[int], batch_tokens: int, lengths: Sequence[int]) -> int:
    """How many batches an epoch has: `batch_by_tokens` of the same arguments makes as many of these examples."""
    counts = [0] * len(lengths)
    for length, count in histogram.items():
        counts[bisect.bisect_left(lengths, length)] += count
    return sum(-(-count // rows) for count, (rows, _) in zip(counts, shapes(batch_tokens, lengths), strict=True))


def choose_lengths(
    dataset_or_lengths: tf.data.Dataset | Counter[int] | Iterable[int],
    num_buckets: int,
    multiple_of: int = 1,
) -> list[int]:
    """The lengths of the buckets that pad these examples least.

    Minimises the sum over the examples of the length of their bucket, exactly, by dynamic
    programming over the distinct lengths: the best `k` buckets for the examples up to a length are
    the best `k - 1` up to some shorter length and one bucket for the rest.

    Args:
        dataset_or_lengths: examples as `batch_by_tokens` takes them (read once; use `take` on a
            huge or infinite dataset), or the length of each.
        num_buckets: most lengths.
        multiple_of: each length is a multiple of it: 8 suits some accelerators, 1 pads least.

    Returns:
        Increasing lengths, at most `num_buckets`; the last holds the longest example.
    """
    if num_buckets < 1 or multiple_of < 1:
        raise ValueError(f"num_buckets and multiple_of must be at least 1, received {num_buckets} and {multiple_of}.")
    histogram: Counter[int] = Counter()
    for length, count in _histogram(dataset_or_lengths).items():
        histogram[-(-length // multiple_of) * multiple_of] += count
    if not histogram or min(histogram) < 1:
        raise ValueError(
            "dataset_or_lengths must hold examples of at least one token, received "
            f"{'an empty one' if histogram else 'none'}: check the corpus and max_length."
        )
    ends = np.array(sorted(histogram))
    before = np.concatenate([[0], np.cumsum([histogram[length] for length in ends])])

    # cost[j]: fewest positions for the examples of the first j lengths. One bucket for lengths
    # i..j-1 costs (before[j] - before[i]) * ends[j - 1].
    cost = np.concatenate([[0.0], before[1:] * ends])
    starts = []
    for _ in range(min(num_buckets, len(ends)) - 1):
        candidates = cost[:, np.newaxis] + (before[np.newaxis, 1:] - before[:, np.newaxis]) * ends
        # A bucket holds at least one length: i < j.
        candidates[np.tril_indices_from(candidates, k=-1)] = np.inf
        best = candidates[: len(ends)].argmin(axis=0)
        starts.append(best)
        cost = np.concatenate([[0.0], candidates.min(axis=0)])

    chosen, end = [], len(ends)
    for best in reversed(starts):
        chosen.append(int(ends[end - 1]))
        end = int(best[end - 1])
        if end == 0:
            return chosen[::-1]
    chosen.append(int(ends[end - 1]))
    return chosen[::-1]


def _shuffled(dataset: tf.data.Dataset, buffer: int, seed: int, initial_epoch: int) -> tf.data.Dataset:
    """The dataset in an order that (seed, epoch) fixes, each iteration being the next epoch.

    `Dataset.shuffle(reshuffle_each_iteration=True)` cannot start at a later epoch, so the epochs
    are counted here.
    """
    # Where tf.data runs; by default the variable would be placed on a GPU.
    with tf.device("CPU:0"):
        next_epoch = tf.Variable(initial_epoch, dtype=tf.int64, trainable=False)

    def epoch(_: tf.Tensor) -> tf.data.Dataset:
        # In this function's graph only: otherwise the global seed of the process would be mixed
        # into the order. Odd, since TensorFlow refuses a graph seed of 0 beside a tensor.
        tf.random.set_seed(2 * seed + 1)
        return dataset.shuffle(buffer, seed=next_epoch.assign_add(1) - 1, reshuffle_each_iteration=False)

    epochs = tf.data.Dataset.from_tensors(0).flat_map(epoch)
    # The graph holds the variable's handle only: the dataset keeps it alive.
    epochs.next_epoch = next_epoch
    return epochs


def _check_vectors(dataset: tf.data.Dataset, argument: str) -> None:
    if any(spec.shape.rank != 1 for spec in tf.nest.flatten(dataset.element_spec)):
        raise ValueError(
            f"{argument} must hold examples made of vectors, received {dataset.element_spec}: pass "
            "single examples, not batches."
        )


def _longest(example: Any) -> tf.Tensor:
    """Length of the longest vector of an example, int64 `()`."""
    return tf.reduce_max([tf.size(vector, tf.int64) for vector in tf.nest.flatten(example)])


def _padding(dtype: tf.DType, pad_token_id: int) -> tf.Tensor:
    return tf.constant(pad_token_id if dtype.is_integer else 0, dtype)


def _histogram(dataset_or_lengths: Any) -> Counter[int]:
    """How many examples have each length."""
    if isinstance(dataset_or_lengths, Counter):
        return dataset_or_lengths
    if isinstance(dataset_or_lengths, tf.data.Dataset):
        return length_histogram(dataset_or_lengths)
    return Counter(int(length) for length in dataset_or_lengths)
