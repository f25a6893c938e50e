"""Label-smoothed cross-entropy (Vaswani et al. 2017, section 5.4; Szegedy et al. 2016, section 7)."""

import keras
from keras import ops

from keras_transformer.training.token_mean import check_tokens_per_batch, token_mean


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
    that padding with weight zero changes nothing. Under `tf.distribute` both sums are over all replicas.

    With `gradient_accumulation_steps` Keras averages the gradients of batches, and a token counts less in a batch that
    has more of them. Divided by a constant, `tokens_per_batch`, every token of all batches counts the same; the loss
    that `fit` shows is then not a mean over the tokens of a batch, the metric `cross_entropy` is.

    Args:
        label_smoothing: `e`, the share of probability spread evenly over the vocabulary; the paper's is 0.1.
        reduction: as in Keras; what is said above of sums holds for "mean_with_sample_weight".
        tokens_per_batch: about how many real tokens a batch of `fit` has, those of all replicas together; None: counted
            in each batch. With accumulation of `k` batches it is still the number of one batch.
    """

    def __init__(
        self,
        label_smoothing=0.1,
        reduction="mean_with_sample_weight",
        name="smoothed_cross_entropy",
        tokens_per_batch=None,
        **kwargs,
    ):
        super().__init__(reduction=reduction, name=name, **kwargs)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(
                f"`label_smoothing` must be at least 0 and less than 1. Received: label_smoothing={label_smoothing}"
            )
        check_tokens_per_batch(tokens_per_batch)
        if tokens_per_batch is not None and reduction != "mean_with_sample_weight":
            raise ValueError(
                '`tokens_per_batch` is for the reduction "mean_with_sample_weight". '
                f"Received: tokens_per_batch={tokens_per_batch}, reduction={reduction!r}"
            )
        self.label_smoothing = label_smoothing
        self.tokens_per_batch = tokens_per_batch

    def __call__(self, y_true, y_pred, sample_weight=None):
        if self.reduction != "mean_with_sample_weight":
            return super().__call__(y_true, y_pred, sample_weight)
        total = _Sum(self.call, self.dtype)(y_true, y_pred, sample_weight)
        count = _Sum(_one_each, self.dtype)(y_true, y_pred, sample_weight)
        return token_mean(total, count, self.tokens_per_batch)

    def call(self, y_true, y_pred):
        return smoothed_cross_entropy(y_true, y_pred, self.label_smoothing)

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "tokens_per_batch": self.tokens_per_batch,
        }


class _Sum(keras.losses.Loss):
    """The sum of what a function gives for labels and logits, under Keras's rules for weights and for masks."""

    def __init__(self, function, dtype):
        super().__init__(reduction="sum", dtype=dtype)
        self._function = function

    def call(self, y_true, y_pred):
        return self._function(y_true, y_pred)


def _one_each(y_true, y_pred):
    return ops.ones_like(y_pred[..., 0])
