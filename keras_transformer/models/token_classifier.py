"""A class for each token."""

import keras

from keras_transformer.models.encoder_head import ClassifierHead


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenClassifier(ClassifierHead):
    """Logits of classes of each token's state, for tagging (Devlin et al. 2019, section 5.3).

    Args:
        encoder: an `Encoder`, used as it is; a model that has one as its `encoder`; or the Keras config of one.
        num_classes: how many.
        dropout: rate before the logits; None means the encoder's.

    Call arguments:
        inputs: those of the encoder.

    Returns:
        Logits `(B, T, num_classes)`. What is padding has some too: give it the sample weight 0.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.models import Encoder, TokenClassifier
    >>> encoder = Encoder(100, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32)
    >>> tuple(TokenClassifier(encoder, num_classes=17)({"token_ids": np.ones((2, 7))}).shape)
    (2, 7, 17)
    """

    def call(self, inputs, training=None):
        return self.logits(self.encoder(inputs, training=training), training=training)
