"""Examples of many lengths to batches of few shapes, each with about the same number of tokens.

Every shape costs a compilation, every padded position costs work for nothing: the shapes are
declared beforehand, and `choose_lengths` places them where they waste least.
"""

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from .pools import epochs, ragged


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
    pool_size: int = 50_000,
    shuffle: bool = True,
    seed: int | None = None,
    pad_token_id: int = 0,
    initial_epoch: int = 0,
) -> tf.data.Dataset:
    """Batches of examples of like length, in the shapes `shapes(batch_tokens, lengths)` only.

    Examples are read into a pool of about `pool_size`, sorted by length and cut into batches: a batch has the
    smallest of `lengths` that holds its longest vector, and as many rows as fit. Only the last batch of a pool
    is filled up, with rows that are all padding, so that each example comes through exactly once an epoch. Memory
    holds two pools and does not grow with the dataset.

    Args:
        dataset: examples, any structure of vectors or of ragged batches of vectors `(B, None)`, such as `to_examples`
            and `shift` make; in ragged batches an element of a vector may be a vector `(B, None, K)`. Integers
            are padded with `pad_token_id`, other values (the weights) with zero.
        batch_tokens: most positions of a batch, on each side.
        lengths: increasing lengths of the batches; see `choose_lengths`. Iterating raises
            `tf.errors.InvalidArgumentError` at an example longer than the last.
        pool_size: number of examples sorted together. Shuffling happens inside the pool, so a file that is
            larger and in some order (by source, say) should be shuffled once on disk.
        shuffle: whether equally long examples meet in new company each epoch, and batches come in random order.
        seed: of the order, which is a function of the seed and the epoch alone. None draws a seed
            from Python's `random`, which `keras.utils.set_random_seed` seeds.
        pad_token_id: fills the integer vectors.
        initial_epoch: epoch of the first iteration over the result; each further iteration is the
            next epoch. A run that resumes at epoch `e` passes `e`.

    Returns:
        A dataset of the same structure, each vector now `(rows, length)` or `(rows, length, K)`.
    """
    table = shapes(batch_tokens, lengths)
    # With several shapes only what they share is static.
    static = [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*table, strict=True)]

    def batches(key: tf.Tensor, pool: Any) -> tf.data.Dataset:
        longest = _longest(pool)
        order = tf.range(tf.size(longest))
        if shuffle:
            order = tf.random.experimental.stateless_shuffle(order, key)
        order = tf.gather(order, tf.argsort(-tf.gather(longest, order), stable=True))
        starts, rows, sizes = _cut(tf.gather(longest, order), table)
        cuts = tf.range(tf.size(starts))
        if shuffle:
            cuts = tf.random.experimental.stateless_shuffle(cuts, key + 1)

        def batch(cut: tf.Tensor) -> Any:
            members = order[starts[cut] : starts[cut] + rows[cut]]

            def dense(vectors: tf.RaggedTensor) -> tf.Tensor:
                fill = tf.constant(pad_token_id if vectors.dtype.is_integer else 0, vectors.dtype)
                padded = tf.gather(vectors, members).to_tensor(fill)
                wanted = tf.concat([tf.stack([rows[cut], sizes[cut]]), tf.shape(padded)[2:]], axis=0)
                missing = wanted - tf.shape(padded)
                padded = tf.pad(padded, tf.stack([tf.zeros_like(missing), missing], axis=1), constant_values=fill)
                padded.set_shape([*static, *vectors.shape[2:]])
                return padded

            return tf.nest.map_structure(dense, pool, expand_composites=False)

        return tf.data.Dataset.from_tensor_slices(cuts).map(batch, num_parallel_calls=2, deterministic=True)

    def of_pools(pools: tf.data.Dataset) -> tf.data.Dataset:
        return pools.flat_map(batches)

    return epochs(dataset, pool_size, of_pools, seed, initial_epoch)


def length_histogram(dataset: tf.data.Dataset) -> Counter[int]:
    """How many examples have each length, that of their longest vector. Reads the dataset once."""
    lengths = ragged(dataset).map(lambda *examples: _longest(examples), num_parallel_calls=tf.data.AUTOTUNE)
    histogram: Counter[int] = Counter()
    for batch in lengths.as_numpy_iterator():
        histogram.update(batch.tolist())
    return histogram


def count_batches(histogram: Counter[int], batch_tokens: int, lengths: Sequence[int]) -> int:
    """How many batches an epoch has: as many as `batch_by_tokens` makes of these examples in one pool."""
    rows_of = dict(zip(lengths, (rows for rows, _ in shapes(batch_tokens, lengths)), strict=True))
    batches = room = 0
    for length in sorted(histogram, reverse=True):
        count = histogram[length] - room
        if count > 0:
            rows = rows_of[lengths[bisect.bisect_left(lengths, length)]]
            batches += -(-count // rows)
            room = -count % rows
        else:
            room = -count
    return batches


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


def _longest(examples: Any) -> tf.Tensor:
    """Length of the longest vector of each example of a ragged batch, int32 `(B,)`."""
    sides = tf.nest.flatten(examples, expand_composites=False)
    return tf.reduce_max(tf.stack([tf.cast(side.row_lengths(), tf.int32) for side in sides]), axis=0)


def _cut(longest: tf.Tensor, table: list[tuple[int, int]]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Where each batch starts, its rows and its length, int32 `(n,)`, for examples of falling lengths `(P,)`."""
    rows_of, length_of = (tf.constant(side, tf.int32) for side in zip(*table, strict=True))
    fits = tf.debugging.Assert(
        tf.reduce_all(longest <= length_of[-1]),
        [
            "an example is longer than the last of lengths, drop it or add a length: received",
            tf.reduce_max(longest),
        ],
    )
    with tf.control_dependencies([fits]):
        shape = tf.searchsorted(length_of, longest)
    count = tf.size(longest)

    def next_batch(start: tf.Tensor, starts: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        return start + rows_of[shape[start]], starts.write(starts.size(), start)

    starts = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=[])
    _, starts = tf.while_loop(lambda start, _: start < count, next_batch, (tf.constant(0), starts))
    starts = starts.stack()
    return starts, tf.gather(rows_of, tf.gather(shape, starts)), tf.gather(length_of, tf.gather(shape, starts))


def _histogram(dataset_or_lengths: Any) -> Counter[int]:
    """How many examples have each length."""
    if isinstance(dataset_or_lengths, Counter):
        return dataset_or_lengths
    if isinstance(dataset_or_lengths, tf.data.Dataset):
        return length_histogram(dataset_or_lengths)
    return Counter(int(length) for length in dataset_or_lengths)
