"""What each backend needs for a search to be fast."""

from collections.abc import Callable, Hashable
from typing import Any

import keras


def compiled(function, jit_compile=False):
    """`function` of tensors as a graph where the backend needs one for its loops to be fast.

    TensorFlow: a `tf.function` that is traced once for each number of axes, not for each shape; with `jit_compile`
    XLA compiles it once for each shape. JAX compiles the loop of a search by itself, and PyTorch runs it as it is.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True, autograph=False, jit_compile=jit_compile or None)
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()(function)
    return function


class Remembered:
    """The functions that were made last, by what they were made for.

    Each may be a graph, or several, so that they cannot all be kept.

    >>> from keras_transformer.generation.compiled import Remembered
    >>> remembered = Remembered(most=1)
    >>> [remembered(key, lambda: made) for key, made in [("a", 1), ("a", 2), ("b", 3), ("a", 4)]]
    [1, 1, 3, 4]
    """

    def __init__(self, most: int = 64):
        self._most = most
        self._functions: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._functions)

    def __call__(self, settings: Any, make: Callable[[], Any]) -> Any:
        """The function made for settings equal to these; what has no hash is equal to itself alone."""
        key = _hashable(settings)
        found = self._functions.get(key)
        if found is None:
            # Settings stay with the function: an id is an object's as long as that lives.
            found = self._functions[key] = (make(), settings)
            for oldest in list(self._functions)[: -self._most]:
                self._functions.pop(oldest, None)
        return found[0]


def _hashable(value: Any) -> Hashable:
    if isinstance(value, tuple):
        return tuple(_hashable(part) for part in value)
    try:
        hash(value)
    except TypeError:
        return type(value), id(value)
    return value
