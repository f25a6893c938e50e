"""Length penalties: what a log-probability is divided by, so that long sentences can win.

A sentence of n tokens, its end token counted, scores `log p / penalty(n)`. Search ends early on the
ground that a penalty never falls as n grows, so a penalty of your own (any callable from lengths to
float32) must keep that.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transformer.generation.protocol import Tensor


class LengthPenalty:
    """A penalty that grows with the power `alpha` of the length; 0 compares plain log p."""

    def __init__(self, alpha: float):
        if not (alpha >= 0 and math.isfinite(alpha)):  # written so that NaN is refused as well
            raise ValueError(
                f"`alpha` of {type(self).__name__} must be a finite number of at least 0, so that "
                f"the penalty never falls with the length. Received: alpha={alpha}. "
                "Use 0 for no penalty."
            )
        self.alpha = alpha

    def __call__(self, lengths: Tensor) -> Tensor:
        """Lengths of any shape, at least 1, to penalties of that shape in float32."""
        return ops.power(self.base(ops.cast(lengths, "float32")), float(self.alpha))

    def base(self, lengths: Tensor) -> Tensor:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"alpha": self.alpha}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LengthPenalty":
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.alpha))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha})"


@keras.saving.register_keras_serializable(package="keras_transformer")
class GNMTLength(LengthPenalty):
    """`((5 + n) / 6) ** alpha`, with 0.6 in *Attention Is All You Need* (section 6.1).

    Wu et al. 2016, "Google's Neural Machine Translation System", equation 14.
    Differs from the paper: without its coverage term.
    """

    def __init__(self, alpha: float = 0.6):
        super().__init__(alpha)

    def base(self, lengths: Tensor) -> Tensor:
        return (5.0 + lengths) / 6.0


@keras.saving.register_keras_serializable(package="keras_transformer")
class AverageLength(LengthPenalty):
    """`n ** alpha`: with 1, the mean log-probability of a token."""

    def __init__(self, alpha: float = 1.0):
        super().__init__(alpha)

    def base(self, lengths: Tensor) -> Tensor:
        return lengths


def get(length_penalty: Any) -> Callable[[Tensor], Tensor]:
    """The penalty meant by a number (GNMT's alpha), a serialised penalty or a callable."""
    if isinstance(length_penalty, Real) and not isinstance(length_penalty, bool | np.bool_):
        return GNMTLength(float(length_penalty))
    if isinstance(length_penalty, dict):
        length_penalty = keras.saving.deserialize_keras_object(length_penalty)
    if callable(length_penalty):
        return length_penalty
    raise TypeError(
        "`length_penalty` must be a number (GNMT's alpha, 0 for no penalty), a penalty such as "
        f"`AverageLength(1.0)`, or a callable. Received: {length_penalty!r}."
    )
