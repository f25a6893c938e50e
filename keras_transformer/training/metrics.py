"""Metrics over real tokens: hand them to `compile(weighted_metrics=...)`, so that padding weighs nothing."""

import functools

import keras
from keras import ops

from keras_transformer.training.losses import smoothed_cross_entropy


@keras.saving.register_keras_serializable(package="keras_transformer")
class CrossEntropy(keras.metrics.MeanMetricWrapper):
    """Mean cross-entropy a token, in nats, of integer labels and logits; label smoothing plays no part.

    It is the function of the loss, so that a compiler makes one computation of the two.
    """

    def __init__(self, name="cross_entropy", dtype=None):
        super().__init__(functools.partial(smoothed_cross_entropy, label_smoothing=0.0), name=name, dtype=dtype)
        self._direction = "down"

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="keras_transformer")
class Perplexity(CrossEntropy):
    """`exp` of the mean cross-entropy a token over all that was seen, not a mean of batches' perplexities."""

    def __init__(self, name="perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def result(self):
        return ops.exp(super().result())


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """Share of real tokens whose most probable prediction is right."""

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
