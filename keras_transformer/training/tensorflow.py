"""What of training is TensorFlow's alone: `tf.distribute`, loops, and iterators over the data. Loaded on use."""

import collections
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

_PREFIX = "iterator"
TESTED = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)


def sum_over_replicas(value):
    """`value`, a scalar of each replica, summed over those that train side by side; outside a replica `value`."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def number_of_replicas():
    """How many replicas add up their gradients."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def check_optimizer(optimizer, strategy):
    """Refuses what Keras cannot do under several replicas, before TensorFlow does in terms of its graph."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    steps = getattr(inner, "gradient_accumulation_steps", None)
    if steps and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "Keras does not accumulate gradients under a `tf.distribute` strategy of several replicas. Received: "
            f"gradient_accumulation_steps={steps} with {strategy.num_replicas_in_sync} replicas. Leave it out and use "
            "larger batches, with `keras.RematScope` if memory is short; or train with `keras.distribution` on JAX."
        )


def check_strategy():
    """Refuses a `tf.distribute` strategy under which models here were never seen to train.

    Raises:
        ValueError: names the strategy and what to use in its place.
    """
    if not tf.distribute.has_strategy() or isinstance(tf.distribute.get_strategy(), TESTED):
        return
    name = type(tf.distribute.get_strategy()).__name__
    known = "Keras 3 does not work with it" if "MultiWorker" in name or "CollectiveAll" in name else "it is not tested"
    raise ValueError(
        f"Models are trained under `tf.distribute.MirroredStrategy` alone. Received: strategy={name}; {known}. "
        "For the GPUs of one machine use `MirroredStrategy`; for several machines, or weights that are split, use "
        "`keras.distribution` on JAX (KERAS_BACKEND=jax): `DataParallel`, or `ModelParallel` with `models.layout_map`."
    )


def one_by_one(condition, body, state):
    """`tf.while_loop` that begins a round when the one before has ended; by default ten are under way at a time.

    With them the tensors of ten rounds live at the same time, though each needs what the one before has summed up.
    """
    return tf.while_loop(condition, body, state, parallel_iterations=1)


def softmax_cross_entropy(logits, labels):
    """Cross-entropies `(C,)` and their gradients `(C, V)` in one operation, which takes the place of the logits."""
    return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=labels)


def relay(like):
    """A function from a list of batches to an iterator over them which a `tf.function` takes for the iterator `like`.

    So the function is not traced again. It must draw all that was handed over before more is.
    """
    if not isinstance(like, tf.data.Iterator):  # of a distribution strategy: Keras takes a plain iterator as well
        return iter
    waiting: collections.deque = collections.deque()

    def hand_over():
        while waiting:
            yield waiting.popleft()

    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False  # nothing is drawn before it is there
    dataset = tf.data.Dataset.from_generator(hand_over, output_signature=like.element_spec)
    iterator = iter(dataset.with_options(options))

    def handed(batches):
        waiting.extend(batches)
        return iterator

    return handed


def iterator_state(iterator):
    """Where an iterator is, with all that its pipeline holds at that moment, as arrays by name.

    Returns:
        None if TensorFlow cannot save it: a pipeline that counts, draws from a stateful generator or calls Python.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            tf.train.Checkpoint(iterator=iterator).write(f"{folder}/{_PREFIX}")
        except (tf.errors.OpError, ValueError, NotImplementedError):
            return None
        return {path.name: np.frombuffer(path.read_bytes(), "uint8") for path in Path(folder).iterdir()}


def set_iterator_state(iterator, state):
    """Puts an iterator over the same pipeline, of this process or another, where `iterator_state` found one."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in state.items():
            (Path(folder) / name).write_bytes(array.tobytes())
        tf.train.Checkpoint(iterator=iterator).read(f"{folder}/{_PREFIX}").assert_consumed()
