"""What a logits processor is: a pure function from logits to logits, as a value that serialises.

The model of a search with processors is the processed one: logits pass through all processors in order, and what
comes out is normalised by the softmax. Scores are log-probabilities of that model. (CTranslate2 does so; fairseq, and
Hugging Face in beam search, take tokens away after the softmax, so that the rest no longer sums to one.)
"""

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np

from keras_transformer.generation.protocol import Tensor

registered = keras.saving.register_keras_serializable(package="keras_transformer")


class SearchContext(NamedTuple):
    """What a processor may know of the search, whose rows are `N = B * num_beams`, a sentence's beside each other."""

    step: Tensor
    """() int32: the tokens generated so far, alike in all rows."""

    end_token_id: int
    num_beams: int

    token_ids: Tensor | None = None
    """(N, max_length) int32, of which the first `step` columns are the tokens generated so far, the start token not
    among them; None if no processor of the search has `needs_history`."""


@dataclass(frozen=True, eq=False)
class LogitsProcessor:
    """The base of processors. One of your own is a registered frozen dataclass with `__call__`.

    Equal processors share the graph of a search: dataclasses are equal if their fields are, others only to themselves.

    Any other callable `(logits, context)` serves too, and is given the history.

    >>> import dataclasses, keras
    >>> from keras import ops
    >>> from keras_transformer.generation import LogitsProcessor
    >>> @keras.saving.register_keras_serializable(package="readme")
    ... @dataclasses.dataclass(frozen=True)
    ... class EarlierIds(LogitsProcessor):
    ...     bonus: float
    ...
    ...     def __call__(self, logits, context):
    ...         return logits - self.bonus * ops.arange(logits.shape[-1], dtype="float32")
    >>> ops.convert_to_numpy(EarlierIds(0.5)(ops.zeros((1, 3)), None))
    array([[ 0. , -0.5, -1. ]], dtype=float32)
    """

    needs_history: ClassVar[bool] = False
    """Whether `context.token_ids` must be there: beams then carry it along."""

    sees_prompt: ClassVar[bool] = False
    """Whether in a decoder-only model the prompt counts as generated."""

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        """Logits (N, V) float32, none of them NaN, to logits of that shape; -inf is a token that is never chosen."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: keras.saving.serialize_keras_object(value.item() if isinstance(value, np.generic) else value)
            for name, value in values.items()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LogitsProcessor":
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


def refuse(processor: LogitsProcessor, argument: str, expected: str, advice: str = "") -> None:
    raise ValueError(
        f"`{argument}` of {type(processor).__name__} must be {expected}. "
        f"Received: {argument}={getattr(processor, argument)!r}.{advice and ' '}{advice}"
    )


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least  # type: ignore[operator]
