"""What searches check in their arguments alike."""

from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transformer.generation.protocol import Tensor


def check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:  # type: ignore[operator]
        raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={value!r}.")


def check_return_sequences(num_return_sequences: Any, num_beams: int) -> None:
    check_count("num_return_sequences", num_return_sequences)
    if num_return_sequences > num_beams:
        raise ValueError(
            "`num_return_sequences` must be at most `num_beams`, which is all that a search keeps. "
            f"Received: num_return_sequences={num_return_sequences}, num_beams={num_beams}."
        )


def check_token_ids(name: str, value: Any, vocabulary_size: int) -> np.ndarray:
    """`value`, no part of a graph, as an array of ids of the vocabulary."""
    ids = as_integers(name, value)
    if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary_size:
        wrong = ids[(ids < 0) | (ids >= vocabulary_size)][0]
        raise ValueError(
            f"`{name}` must be ids of at least 0, below {vocabulary_size}, the size of the vocabulary. "
            f"Received: {wrong} among them. Use the tokenizer that the model was trained with."
        )
    return ids.astype("int32")


def as_integers(name: str, value: Any) -> np.ndarray:
    """`value`, no part of a graph, as an array of integers."""
    numbers = ops.convert_to_numpy(value) if ops.is_tensor(value) else np.asarray(value)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must be integers. Received: dtype={keras.backend.standardize_dtype(numbers.dtype)}")
    return numbers


def check_rows(name: str, value: Any, sentences: int) -> np.ndarray:
    """`value`, no part of a graph, as an array of integers with an entry for each of the `sentences`."""
    numbers = as_integers(name, value)
    if not numbers.ndim or len(numbers) != sentences:
        raise ValueError(
            f"`{name}` must have one entry for each of the {sentences} sentences. Received: shape={numbers.shape}"
        )
    return numbers.astype("int32")


def check_start_ids(start_ids: Any) -> Tensor:
    """`start_ids` as an int32 tensor (B,)."""
    start_ids = ops.cast(ops.convert_to_tensor(start_ids), "int32")
    if len(start_ids.shape) != 1:
        raise ValueError(
            "`start_ids` must be of shape (batch,): the one token that each sentence starts from; "
            "what precedes it belongs in the decoder's state. "
            f"Received shape: {tuple(start_ids.shape)}."
        )
    return start_ids


def sentence_limits(limits: Any, max_length: Any, start_ids: Tensor) -> Tensor:
    """The most tokens of each sentence, (B,) int32; never above `max_length`.

    `max_length` may be a scalar tensor, whose value a graph knows too late for an error: nothing
    is then generated below 1.
    """
    if not ops.is_tensor(max_length):
        check_count("max_length", max_length)
    if limits is None:
        limits = ops.full(ops.shape(start_ids), max_length, dtype="int32")
    limits = ops.cast(ops.convert_to_tensor(limits), "int32")
    batch, received = start_ids.shape[0], tuple(limits.shape)
    unknown = None in (batch, *received)  # inside a graph
    if len(received) != 1 or (batch != received[0] and not unknown):
        raise ValueError(
            "`limits` must be of shape (batch,): one maximum for each of the "
            f"{'' if batch is None else f'{batch} '}sentences in `start_ids`. "
            f"Received shape: {received}."
        )
    return ops.minimum(limits, ops.cast(max_length, "int32"))
