"""Label-smoothed cross-entropy (Vaswani et al. 2017, section 5.4; Szegedy et al. 2016, section 7)."""

import keras
from keras import ops


def smoothed_cross_entropy(labels, logits, label_smoothing=0.1):
    """`-(1 - e) log p(y) - e/V sum_v log p(v)` for integer labels; no one-hot tensor is built.

    With `log p(v) = z_v - lse`, that is `lse - (1 - e) z_y - e mean(z)`, and its gradient with respect to the
    logits is `p - (1 - e) [v = y] - e/V`, which is written out so that one pass over the logits makes it.

    Args:
        labels: integers, of any shape `(...)`.
        logits: `(..., V)` of any float dtype; the loss is computed in float32 or wider.

    Returns:
        `(...)`, in nats.
    """
    vocabulary_size = logits.shape[-1]
    labels = ops.cast(labels, "int32")
    logits_dtype = logits.dtype

    @ops.custom_gradient
    def loss(logits):
        z = ops.cast(logits, keras.backend.result_type(logits_dtype, "float32"))
        normaliser = ops.logsumexp(z, axis=-1, keepdims=True)
        picked = ops.squeeze(ops.take_along_axis(z, labels[..., None], axis=-1), -1)
        value = ops.squeeze(normaliser, -1) - (1.0 - label_smoothing) * picked
        if label_smoothing:
            value = value - label_smoothing * ops.mean(z, axis=-1)

        def gradient(*args, upstream=None):  # Keras hands it over by name on PyTorch, by place elsewhere
            upstream = args[0] if upstream is None else upstream
            target = ops.where(
                ops.equal(ops.arange(vocabulary_size, dtype="int32"), labels[..., None]),
                1.0 - label_smoothing + label_smoothing / vocabulary_size,
                label_smoothing / vocabulary_size,
            )
            return ops.cast(upstream[..., None] * (ops.exp(z - normaliser) - target), logits_dtype)

        return value, gradient

    return loss(logits)


@keras.saving.register_keras_serializable(package="keras_transformer")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Label-smoothed cross-entropy of integer labels, a mean over real tokens.

    Equal to `keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=...)` on one-hot labels.
    Tokens count by their sample weight: the sum of the weighted losses is divided by the sum of the weights, so
    that padding with weight zero changes nothing.

    Args:
        label_smoothing: `e`, the share of probability spread evenly over the vocabulary; the paper's is 0.1.
    """

    def __init__(
        self, label_smoothing=0.1, reduction="mean_with_sample_weight", name="smoothed_cross_entropy", **kwargs
    ):
        super().__init__(reduction=reduction, name=name, **kwargs)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(
                f"`label_smoothing` must be at least 0 and less than 1. Received: label_smoothing={label_smoothing}"
            )
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        return smoothed_cross_entropy(y_true, y_pred, self.label_smoothing)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
