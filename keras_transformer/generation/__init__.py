"""LOGITS -> DECODING: search over anything that turns a token into the logits of the next.

`Decoder` is what search asks of a model, `Hypotheses` what it returns. Knows no model.
"""

from keras_transformer.generation.beam import beam_search
from keras_transformer.generation.compiled import compiled
from keras_transformer.generation.greedy import greedy_search
from keras_transformer.generation.penalties import AverageLength, GNMTLength, LengthPenalty
from keras_transformer.generation.protocol import Decoder, Hypotheses

__all__ = [
    "AverageLength",
    "Decoder",
    "GNMTLength",
    "Hypotheses",
    "LengthPenalty",
    "beam_search",
    "compiled",
    "greedy_search",
]
