"""Processors that reshape the distribution for sampling: temperature, and what cuts its tail.

Each is its paper's rule on the logits as they come, so the order counts: temperature goes first.
"""

import math
from dataclasses import dataclass

from keras import ops

from keras_transformer.generation.processor import (
    LogitsProcessor,
    SearchContext,
    is_count,
    is_number,
    refuse,
    registered,
)
from keras_transformer.generation.protocol import Tensor

HALVINGS = 30
"""From a range of at most 60 (`1 - p` is no less than 2^-53, and V no more than e^20) down to 6e-8, a unit in the last
place of the probabilities."""


@registered
@dataclass(frozen=True)
class Temperature(LogitsProcessor):
    """Logits divided by `temperature`: below 1 the likely become likelier.

    >>> from keras import ops
    >>> from keras_transformer.generation import Temperature
    >>> ops.convert_to_numpy(Temperature(0.5)(ops.array([[1.0, -2.0]]), None))
    array([[ 2., -4.]], dtype=float32)
    """

    temperature: float

    def __post_init__(self):
        if not is_number(self.temperature) or not 0 < self.temperature < math.inf:
            refuse(self, "temperature", "a finite number above 0", "In place of 0 use greedy search.")

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        return logits / self.temperature


@registered
@dataclass(frozen=True)
class TopK(LogitsProcessor):
    """The `top_k` most probable tokens (Fan et al. 2018, section 5.1), and those as probable as the last of them.

    >>> from keras import ops
    >>> from keras_transformer.generation import TopK
    >>> ops.convert_to_numpy(TopK(2)(ops.array([[1.0, 3.0, 2.0]]), None))
    array([[-inf,   3.,   2.]], dtype=float32)
    """

    top_k: int

    def __post_init__(self):
        if not is_count(self.top_k):
            refuse(self, "top_k", "an integer of at least 1")

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        best, _ = ops.top_k(logits, min(self.top_k, logits.shape[-1]))
        # The least as a minimum: a slice of what comes back would make XLA sort all of V.
        return keep(logits >= ops.min(best, axis=-1, keepdims=True), logits)


@registered
@dataclass(frozen=True)
class TopP(LogitsProcessor):
    """The smallest set of most probable tokens whose probability is at least `top_p`: the nucleus.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    Differs from the paper: tokens as probable as the last of them stay too, so no order decides.

    The vocabulary is not sorted: the least log-probability of the nucleus is found by halving.

    >>> from keras import ops
    >>> from keras_transformer.generation import TopP
    >>> logits = ops.log(ops.array([[0.5, 0.125, 0.25, 0.125]]))
    >>> ops.convert_to_numpy(ops.exp(TopP(0.7)(logits, None)))
    array([[0.5 , 0.  , 0.25, 0.  ]], dtype=float32)
    """

    top_p: float

    def __post_init__(self):
        if not is_number(self.top_p) or not 0 < self.top_p <= 1:
            refuse(self, "top_p", "a probability above 0, at most 1")

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        if self.top_p == 1:
            return logits
        log_q = logits - ops.max(logits, axis=-1, keepdims=True)
        q = ops.exp(log_q)
        enough = self.top_p * ops.sum(q, axis=-1, keepdims=True)

        def halve(_, bounds):
            low, high = bounds  # what is at least `low` is enough; `high` is not below the nucleus's least
            middle = (low + high) / 2
            is_enough = ops.sum(ops.where(log_q >= middle, q, 0.0), axis=-1, keepdims=True) >= enough
            return ops.where(is_enough, middle, low), ops.where(is_enough, high, middle)

        high = ops.zeros_like(enough)
        # All tokens below (1 - p) / V together have less than 1 - p.
        low = high + math.log((1 - self.top_p) / logits.shape[-1])
        low, _ = ops.fori_loop(0, HALVINGS, halve, (low, high))
        return keep(log_q >= low, logits)


@registered
@dataclass(frozen=True)
class MinP(LogitsProcessor):
    """Tokens at least `min_p` times as probable as the most probable (Nguyen et al. 2024, arXiv:2407.01082, eq. 2).

    >>> from keras import ops
    >>> from keras_transformer.generation import MinP
    >>> logits = ops.log(ops.array([[0.5, 0.125, 0.25, 0.125]]))
    >>> ops.convert_to_numpy(ops.exp(MinP(0.4)(logits, None)))
    array([[0.5 , 0.  , 0.25, 0.  ]], dtype=float32)
    """

    min_p: float

    def __post_init__(self):
        if not is_number(self.min_p) or not 0 < self.min_p <= 1:
            refuse(self, "min_p", "a probability above 0, at most 1")

    def __call__(self, logits: Tensor, context: SearchContext) -> Tensor:
        return keep(logits >= ops.max(logits, axis=-1, keepdims=True) + math.log(self.min_p), logits)


def keep(which: Tensor, logits: Tensor) -> Tensor:
    return ops.where(which, logits, -float("inf"))
