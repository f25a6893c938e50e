"""LOGITS -> LOSS: losses, metrics, schedules, checkpoints."""

from keras_transformer.training.checkpoints import Checkpoints, Place, complete_or_absent
from keras_transformer.training.entity_f1 import EntityF1, entities
from keras_transformer.training.linear_cross_entropy import LinearCrossEntropy, linear_cross_entropy
from keras_transformer.training.losses import SmoothedCrossEntropy, smoothed_cross_entropy
from keras_transformer.training.metrics import CrossEntropy, Perplexity, TokenAccuracy
from keras_transformer.training.schedules import InverseSquareRoot

__all__ = [
    "Checkpoints",
    "CrossEntropy",
    "EntityF1",
    "InverseSquareRoot",
    "LinearCrossEntropy",
    "Perplexity",
    "Place",
    "SmoothedCrossEntropy",
    "TokenAccuracy",
    "complete_or_absent",
    "entities",
    "linear_cross_entropy",
    "smoothed_cross_entropy",
]
