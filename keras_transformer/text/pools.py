"""Examples read into pools, epoch after epoch: what is done to a pool knows all of its examples at once."""

import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Examples are handled in ragged batches of so many: one by one, tf.data takes a hundred microseconds for each.
EXAMPLES_TOGETHER = 1024


def epochs(
    dataset: tf.data.Dataset,
    pool_size: int,
    of_pools: Callable[[tf.data.Dataset], tf.data.Dataset],
    seed: int | None,
    initial_epoch: int,
) -> tf.data.Dataset:
    """What `of_pools` makes of an epoch's pools, another order for each iteration over the result.

    Args:
        dataset: examples, as `ragged` takes them.
        pool_size: about how many make a pool.
        of_pools: from a dataset of `(key, pool)` to one of batches. The key is an int64 `(2,)` for
            `tf.random.experimental`, a function of the seed, the epoch and the number of the pool alone; the pool
            has the structure of the examples, in ragged `(P, None)`.
        seed: None draws one from Python's `random`.
        initial_epoch: number of the first iteration's epoch.
    """
    if pool_size < 1:
        raise ValueError(f"pool_size must be at least 1, received {pool_size}.")
    pools = ragged(dataset).ragged_batch(-(-pool_size // EXAMPLES_TOGETHER)).prefetch(1).enumerate()
    seed = random.getrandbits(31) if seed is None else seed
    # Where tf.data runs; by default the variable would be placed on a GPU.
    with tf.device("CPU:0"):
        next_epoch = tf.Variable(initial_epoch, dtype=tf.int64, trainable=False)

    def epoch(_: tf.Tensor) -> tf.data.Dataset:
        number = next_epoch.assign_add(1) - 1

        def with_key(index: tf.Tensor, pool: Any) -> tuple[tf.Tensor, Any]:
            key = tf.constant([seed, 0], tf.int64)
            for folded in (number, index):
                key = tf.random.experimental.stateless_fold_in(key, folded)
            return key, tf.nest.map_structure(lambda x: x.merge_dims(0, 1), pool, expand_composites=False)

        return of_pools(pools.map(with_key))

    result = tf.data.Dataset.from_tensors(0).flat_map(epoch)
    # The graph holds the variable's handle only: the dataset keeps it alive.
    result.next_epoch = next_epoch
    options = tf.data.Options()
    # Each epoch is an iterator of its own, and the end of an iterator waits for the thread that tunes it: now and then
    # for most of a minute (TensorFlow 2.21), in which nothing is trained.
    options.autotune.enabled = False
    return result.prefetch(4).with_options(options)


def ragged(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The examples in ragged batches, as they may be already."""
    specs = tf.nest.flatten(dataset.element_spec)
    if all(isinstance(spec, tf.RaggedTensorSpec) and spec.ragged_rank == 1 for spec in specs):
        return dataset
    if all(isinstance(spec, tf.TensorSpec) and spec.shape.rank == 1 for spec in specs):
        # Vectors that are all of one length come out dense.
        return _mapped(
            dataset.ragged_batch(EXAMPLES_TOGETHER),
            lambda batch: batch if isinstance(batch, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(batch),
        )
    raise ValueError(
        f"dataset must hold vectors or ragged batches of vectors, received {dataset.element_spec}: pass examples "
        "before they are padded."
    )


def _mapped(dataset: tf.data.Dataset, function: Callable[[Any], Any]) -> tf.data.Dataset:
    """The dataset with `function` of each part of its elements."""

    def each(*parts: Any) -> Any:
        # tf.data passes the parts of a tuple one by one and anything else as one argument.
        element = parts if isinstance(dataset.element_spec, tuple) else parts[0]
        return tf.nest.map_structure(function, element, expand_composites=False)

    return dataset.map(each)
