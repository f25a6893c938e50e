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


def _is_most_probable(labels, logits):
    """Whether the label's logit is greater than all others. A tie is a miss: equal logits predict nothing.

    A count of the logits that are not smaller takes one pass that compilers vectorise, which an argmax is not.
    """
    of_label = ops.take_along_axis(logits, ops.cast(labels, "int32")[..., None], axis=-1)
    not_smaller = ops.sum(ops.cast(ops.greater_equal(logits, of_label), "int32"), axis=-1)
    return ops.cast(ops.equal(not_smaller, 1), "float32")


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenAccuracy(keras.metrics.MeanMetricWrapper):
    """Share of real tokens whose most probable prediction is right."""

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(_is_most_probable, name=name, dtype=dtype)
        self._direction = "up"

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}
