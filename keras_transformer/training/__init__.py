"""LOGITS -> LOSS: losses, metrics, schedules, checkpoints."""

from keras_transformer.training.checkpoints import Checkpoints, Place, complete_or_absent
from keras_transformer.training.losses import SmoothedCrossEntropy, smoothed_cross_entropy
from keras_transformer.training.metrics import CrossEntropy, Perplexity, TokenAccuracy
from keras_transformer.training.schedules import InverseSquareRoot

__all__ = [
    "Checkpoints",
    "CrossEntropy",
    "InverseSquareRoot",
    "Perplexity",
    "Place",
    "SmoothedCrossEntropy",
    "TokenAccuracy",
    "complete_or_absent",
    "smoothed_cross_entropy",
]
