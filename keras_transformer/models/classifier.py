"""A class for each text."""

import keras

from keras_transformer.models.encoder_head import ClassifierHead


@keras.saving.register_keras_serializable(package="keras_transformer")
class Classifier(ClassifierHead):
    """Logits of classes, of what the encoder's pooler makes of the first token (Devlin et al. 2019, section 4.1).

    Without a pooler they are logits of that token's state.

    Args:
        encoder: an `Encoder`, used as it is; a model that has one as its `encoder`; or the Keras config of one.
        num_classes: how many.
        dropout: rate before the logits; None means the encoder's.

    Call arguments:
        inputs: those of the encoder.

    Returns:
        Logits `(B, num_classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.models import Classifier, Encoder
    >>> encoder = Encoder(100, 1, num_heads=2, hidden_dim=16, intermediate_dim=32, pooler_activation="tanh")
    >>> tuple(Classifier(encoder, num_classes=3)({"token_ids": np.ones((2, 7))}).shape)
    (2, 3)
    """

    def __init__(self, encoder, num_classes, dropout=None, **kwargs):
        super().__init__(encoder, num_classes, dropout, **kwargs)
        self.encoder.unfreeze_pooler()

    def call(self, inputs, training=None):
        return self.logits(self.encoder.pool(self.encoder(inputs, training=training)), training=training)
