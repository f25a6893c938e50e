"""LOGITS -> DECODING: search over anything that turns a token into the logits of the next.

`Decoder` is what search asks of a model, `Hypotheses` what it returns, a `LogitsProcessor` what may come between.
`search` chooses among the searches by the keywords of `generate`. Knows no model.
"""

from keras_transformer.generation.beam import beam_search
from keras_transformer.generation.compiled import compiled
from keras_transformer.generation.greedy import greedy_search
from keras_transformer.generation.keywords import (
    KEYWORDS,
    PROCESSOR_KEYWORDS,
    as_settings_and_tensors,
    check_keywords,
    check_options,
    logits_processors,
    search,
)
from keras_transformer.generation.penalties import AverageLength, GNMTLength, LengthPenalty
from keras_transformer.generation.processor import LogitsProcessor, SearchContext
from keras_transformer.generation.protocol import AlignedHypotheses, Decoder, Hypotheses
from keras_transformer.generation.rules import (
    ForcedPrefix,
    MinLength,
    NoRepeatNGram,
    RepetitionPenalty,
    SuppressTokens,
)
from keras_transformer.generation.sampling import sample
from keras_transformer.generation.streaming import greedy_stream
from keras_transformer.generation.warpers import MinP, Temperature, TopK, TopP

__all__ = [
    "KEYWORDS",
    "PROCESSOR_KEYWORDS",
    "AlignedHypotheses",
    "AverageLength",
    "Decoder",
    "ForcedPrefix",
    "GNMTLength",
    "Hypotheses",
    "LengthPenalty",
    "LogitsProcessor",
    "MinLength",
    "MinP",
    "NoRepeatNGram",
    "RepetitionPenalty",
    "SearchContext",
    "SuppressTokens",
    "Temperature",
    "TopK",
    "TopP",
    "as_settings_and_tensors",
    "beam_search",
    "check_keywords",
    "check_options",
    "compiled",
    "greedy_search",
    "greedy_stream",
    "logits_processors",
    "sample",
    "search",
]
