"""A model of logits for each token with a conditional random field on them."""

import keras
from keras import ops

from keras_transformer.layers import CRF
from keras_transformer.layers.parts import as_part
from keras_transformer.models.model import Model
from keras_transformer.training.token_mean import share_of_replica, token_mean


@keras.saving.register_keras_serializable(package="keras_transformer")
class CRFTagger(Model):
    """Labels in sequence: `classifier` gives each token its emissions, a `layers.CRF` those of its neighbours.

    In `fit` and `evaluate` the loss is the negative log-likelihood of the labels, summed over the batch and divided by
    the number of labels. A token with the sample weight 0, such as a word's second piece or padding, is passed over:
    the sequence is that of the others. Weights other than 0 count as 1. Metrics are given the most probable sequence
    as logits, 1 for its label and 0 for others, and so need `weighted_metrics`. Compile it without a loss.

    Args:
        classifier: a model with logits `(B, T, L)`, such as a `TokenClassifier`; or its Keras config.
        num_labels: `L`.
        allowed: of the `CRF`, as `layers.allowed_transitions` makes it; None: each label may follow each.

    Call arguments:
        inputs: those of `classifier`.

    Returns:
        Emissions `(B, T, L)`; `decode` makes labels of them.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.models import CRFTagger, Encoder, TokenClassifier
    >>> encoder = Encoder(100, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32)
    >>> tagger = CRFTagger(TokenClassifier(encoder, num_classes=5), num_labels=5)
    >>> emissions = tagger({"token_ids": np.ones((2, 7))})
    >>> labels, probabilities = tagger.decode(emissions)
    >>> tuple(labels.shape), tuple(probabilities.shape)
    ((2, 7), (2, 7))
    """

    def __init__(self, classifier, num_labels, allowed=None, **kwargs):
        classifier = as_part(classifier, "classifier", keras.Model, "TokenClassifier(encoder, num_classes=17)")
        if classifier is None:
            raise ValueError("`classifier` must be a model with logits of tokens. Received: classifier=None")
        if kwargs.get("dtype") is None:
            kwargs["dtype"] = classifier.dtype_policy
        super().__init__(**kwargs)
        self.classifier = classifier
        self.num_labels = num_labels
        self.crf = CRF(num_labels, allowed, dtype=self.dtype_policy, name="crf")
        self.crf.build((None, None, num_labels))
        self.allowed = self.crf.allowed
        self.built = classifier.built  # it has no other weights

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, training=None):
        return self.classifier(inputs, training=training)

    def decode(self, emissions, padding_mask=None):
        """The most probable sequence of labels, int32 `(B, T)`, and how probable each of it is by itself, `(B, T)`."""
        labels = self.crf.decode(emissions, padding_mask)
        marginals = self.crf.log_marginals(emissions, padding_mask)
        picked = ops.take_along_axis(marginals, labels[..., None], axis=-1)
        return labels, ops.exp(ops.squeeze(picked, -1))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        real = ops.ones_like(y, "bool") if sample_weight is None else ops.greater(sample_weight, 0)
        total = -ops.sum(self.crf.log_likelihood(y_pred, y, real))
        return token_mean(total, ops.sum(ops.cast(real, "float32"))) + share_of_replica(sum(self.losses))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        real = None if sample_weight is None else ops.greater(sample_weight, 0)
        labels = self.crf.decode(y_pred, real)
        return super().compute_metrics(x, y, ops.one_hot(labels, self.num_labels), sample_weight)

    def get_config(self):
        classifier = keras.saving.serialize_keras_object(self.classifier)
        return {
            **super().get_config(),
            "classifier": {k: v for k, v in classifier.items() if k != "build_config"},
            "num_labels": self.num_labels,
            "allowed": self.allowed,
        }
