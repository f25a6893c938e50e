"""What the models have in common that are an encoder and a head on it."""

from typing import Any

import keras

from keras_transformer.layers import Dropout
from keras_transformer.layers.arguments import check_positive_integers, check_rates
from keras_transformer.layers.parts import as_part
from keras_transformer.models.encoder import Encoder, bert_initializer
from keras_transformer.models.model import Model


class EncoderHead(Model):
    """A model made of an encoder and of layers on its states, under the encoder's dtype policy if none is given.

    The encoder is used as it is handed in, weights and all, so that several heads may share one.
    """

    encoder: Any

    def __init__(self, encoder, **kwargs):
        if hasattr(encoder, "encoder"):
            encoder = encoder.encoder
        encoder = as_part(encoder, "encoder", Encoder, "Encoder(vocabulary_size=10_000)")
        if encoder is None:
            raise ValueError("`encoder` must be a `models.Encoder`. Received: encoder=None")
        if kwargs.get("dtype") is None:
            kwargs["dtype"] = encoder.dtype_policy
        super().__init__(**kwargs)
        self.encoder = encoder

    def get_config(self):
        config = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": {k: v for k, v in config.items() if k != "build_config"}}


class ClassifierHead(EncoderHead):
    """Dropout and a dense layer with a logit for each class, on states or on what is pooled of them."""

    def __init__(self, encoder, num_classes, dropout=None, **kwargs):
        super().__init__(encoder, **kwargs)
        check_positive_integers(num_classes=num_classes)
        if dropout is not None:
            check_rates(dropout=dropout)
        self.num_classes = num_classes
        self.dropout = dropout
        given = {"dtype": self.dtype_policy}
        self.output_dropout = Dropout(self.encoder.dropout if dropout is None else dropout, name="dropout", **given)
        self.output_dense = keras.layers.Dense(
            num_classes, kernel_initializer=bert_initializer(), name="output_dense", **given
        )
        self.build({"token_ids": (None, None)})

    def build(self, input_shape):
        self.output_dense.build((None, self.encoder.hidden_dim))

    def logits(self, x, training=None):
        """Logits `(..., num_classes)` of `(..., D)`."""
        return self.output_dense(self.output_dropout(x, training=training))

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "dropout": self.dropout}
