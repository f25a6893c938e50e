"""LOGITS -> LOSS: losses, metrics, schedules, checkpoints, callbacks."""

from keras_transformer.training.bleu import Bleu
from keras_transformer.training.checkpoints import Checkpoints, Place, complete_or_absent
from keras_transformer.training.entity_f1 import EntityF1, entities
from keras_transformer.training.linear_cross_entropy import LinearCrossEntropy, linear_cross_entropy
from keras_transformer.training.losses import SmoothedCrossEntropy, smoothed_cross_entropy
from keras_transformer.training.memory import keep_freed_memory
from keras_transformer.training.metrics import CrossEntropy, Perplexity, TokenAccuracy
from keras_transformer.training.resume import BackupAndResume
from keras_transformer.training.schedules import InverseSquareRoot
from keras_transformer.training.skipped_updates import SkippedUpdates
from keras_transformer.training.terminate_on_nan import TerminateOnNaN
from keras_transformer.training.throughput import Throughput, matrix_product_speed

__all__ = [
    "BackupAndResume",
    "Bleu",
    "Checkpoints",
    "CrossEntropy",
    "EntityF1",
    "InverseSquareRoot",
    "LinearCrossEntropy",
    "Perplexity",
    "Place",
    "SkippedUpdates",
    "SmoothedCrossEntropy",
    "TerminateOnNaN",
    "Throughput",
    "TokenAccuracy",
    "complete_or_absent",
    "entities",
    "keep_freed_memory",
    "linear_cross_entropy",
    "matrix_product_speed",
    "smoothed_cross_entropy",
]
