"""Metrics over real tokens: hand them to `compile(weighted_metrics=...)`, so that padding weighs nothing."""

import keras
from keras import ops

from keras_transformer.layers.masks import keras_mask
from keras_transformer.training.losses import smoothed_cross_entropy


class _TokenMean(keras.metrics.Mean):
    """The mean of a value a token over all tokens.

    Keras's own metrics take the mean of each row first, of values and of weights. So a token in a batch of long rows
    would count less than one in a batch of short rows.
    """

    def __init__(self, value, name, dtype, direction):
        super().__init__(name=name, dtype=dtype)
        self._value, self._direction = value, direction

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds the tokens of a batch.

        Args:
            y_true: ids `(..., T)`.
            y_pred: logits `(..., T, V)`.
            sample_weight: `(..., T)`, or of fewer axes: one for all tokens of a row. A Keras mask of `y_pred`
                counts too.
        """
        values = self._value(y_true, y_pred)
        weights = ops.ones_like(values)
        for given in (sample_weight, keras_mask(y_pred)):
            if given is not None:
                given = ops.cast(given, values.dtype)
                missing = (1,) * (len(values.shape) - len(given.shape))
                weights = weights * ops.reshape(given, (*ops.shape(given), *missing))
        super().update_state(ops.ravel(values), ops.ravel(weights))

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _cross_entropy(labels, logits):
    """The function of the loss, so that a compiler makes one computation of the two."""
    return smoothed_cross_entropy(labels, logits, label_smoothing=0.0)


@keras.saving.register_keras_serializable(package="keras_transformer")
class CrossEntropy(_TokenMean):
    """Mean cross-entropy a token, in nats, of integer labels and logits; label smoothing plays no part."""

    def __init__(self, name="cross_entropy", dtype=None):
        super().__init__(_cross_entropy, name, dtype, "down")


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
class TokenAccuracy(_TokenMean):
    """Share of real tokens whose most probable prediction is right."""

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(_is_most_probable, name, dtype, "up")
