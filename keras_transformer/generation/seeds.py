"""Seeds that are tensors, so that one graph serves every seed."""

from numbers import Integral
from typing import Any

import keras
from keras import ops


class TensorSeed(keras.random.SeedGenerator):
    """What `keras.random` takes for a seed in place of an int: a scalar tensor, with nothing that counts on."""

    def __init__(self, seed: Any):
        self._seed = seed  # nothing of `SeedGenerator`'s, which would make a variable

    def next(self, ordered: bool = True) -> Any:
        dtype = "uint32" if keras.backend.backend() == "jax" else "int32"  # JAX's keys are uint32 and nothing else
        return ops.cast(ops.stack([self._seed, ops.zeros_like(self._seed)]), dtype)


def as_seed(seed: Any) -> Any:
    """`seed` for `keras.random`: an int or scalar integer tensor gives the same numbers either way."""
    if seed is None or isinstance(seed, keras.random.SeedGenerator):
        return seed
    if not ops.is_tensor(seed):
        check_seed(seed)
    return TensorSeed(ops.cast(ops.convert_to_tensor(seed), "int32"))


def check_seed(seed: Any) -> None:
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**31:  # type: ignore[operator]
        raise ValueError(
            "`seed` must be an integer of at least 0, below 2**31, or None for another result each time. "
            f"Received: seed={seed!r}."
        )
