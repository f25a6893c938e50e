"""BERT's pre-training model: the words behind masked tokens, and on request whether one text follows another."""

import keras
from keras import ops

from keras_transformer.layers.arguments import check_booleans
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.models.encoder import bert_initializer
from keras_transformer.models.encoder_head import EncoderHead
from keras_transformer.models.vocabulary_end import VocabularyEnd
from keras_transformer.training import LinearCrossEntropy


@keras.saving.register_keras_serializable(package="keras_transformer")
class MaskedLM(VocabularyEnd, EncoderHead):
    """Logits of the token behind each mask (Devlin et al. 2019, section 3.1 and appendix A.1).

    A dense layer, an activation and a norm, then the product with the encoder's own table of tokens, and a bias.

    Args:
        encoder: an `Encoder`, used as it is; a model that has one as its `encoder`; or the Keras config of one.
        next_sentence: whether there are logits too for the question if the second segment follows the first.
        activation: after the dense layer; None means the encoder's.

    Call arguments:
        inputs: those of the encoder, and optionally `"mask_positions"` `(B, P)`, integers: where to predict.

    Returns:
        Logits `(B, T, V)`, or `(B, P, V)` with `mask_positions`, which saves most of the work: BERT masks 15 in 100.
        With `next_sentence` a dict: `"token_logits"` are those, and `"next_sentence_logits"` `(B, 2)`, of which the
        first is for "follows".

    Example:

    >>> import numpy as np
    >>> from keras_transformer.models import Encoder, MaskedLM
    >>> model = MaskedLM(Encoder(100, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32))
    >>> tuple(model({"token_ids": np.ones((2, 7)), "mask_positions": np.array([[1, 3], [0, 5]])}).shape)
    (2, 2, 100)
    """

    def __init__(self, encoder, next_sentence=False, activation=None, **kwargs):
        super().__init__(encoder, **kwargs)
        check_booleans(next_sentence=next_sentence)
        if next_sentence and self.encoder.pooler is None:
            raise ValueError(
                "`next_sentence` needs an encoder with a pooler. Received: next_sentence=True with an encoder of "
                'pooler_activation=None. Make it with `pooler_activation="tanh"`.'
            )
        self.next_sentence = next_sentence
        self.activation = None if activation is None else keras.activations.get(activation)
        given = {"dtype": self.dtype_policy}
        self.transform_dense = keras.layers.Dense(
            self.encoder.hidden_dim,
            activation=self.activation or self.encoder.activation,
            kernel_initializer=bert_initializer(),
            name="transform_dense",
            **given,
        )
        self.transform_norm = LayerNormalization(
            epsilon=self.encoder.layer_norm_epsilon, name="transform_norm", **given
        )
        self.next_sentence_dense = None
        if next_sentence:
            self.encoder.unfreeze_pooler()
            self.next_sentence_dense = keras.layers.Dense(
                2, kernel_initializer=bert_initializer(), name="next_sentence_dense", **given
            )
        self.build({"token_ids": (None, None)})

    def build(self, input_shape):
        states = (None, None, self.encoder.hidden_dim)
        self.transform_dense.build(states)
        self.transform_norm.build(states)
        self.output_bias = self.add_weight(
            shape=(self.encoder.vocabulary_size,), initializer="zeros", name="output_bias"
        )
        if self.next_sentence_dense is not None:
            self.next_sentence_dense.build((None, self.encoder.hidden_dim))

    def call(self, inputs, training=None):
        inputs = dict(inputs)
        mask_positions = inputs.pop("mask_positions", None)
        states = self.encoder(inputs, training=training)
        hidden = states
        if mask_positions is not None:
            hidden = ops.take_along_axis(states, ops.cast(mask_positions, "int32")[..., None], axis=1)
        token_logits = self.end(self.transform_norm(self.transform_dense(hidden)))
        if self.next_sentence_dense is None:
            return token_logits
        next_sentence_logits = self.next_sentence_dense(self.encoder.pool(states))
        return {"token_logits": token_logits, "next_sentence_logits": next_sentence_logits}

    def logits(self, hidden):
        """Logits `(..., V)` of transformed states `(..., D)`."""
        logits = self.encoder.token_embedding(hidden, reverse=True)
        return logits + ops.cast(self.output_bias, logits.dtype)

    def end(self, hidden):
        if not self._at_states:
            return self.logits(hidden)
        return ops.concatenate([hidden, ops.ones_like(hidden[..., :1])], axis=-1)  # the factor of the bias

    def output_table(self):
        """The table `(V, D + 1)`, with the bias as its last column."""
        return ops.concatenate([self.encoder.token_embedding.embeddings, self.output_bias[:, None]], axis=1)

    def compile(self, optimizer="rmsprop", loss=None, *args, **kwargs):
        if self.next_sentence and isinstance(loss, LinearCrossEntropy):
            raise ValueError(
                "`LinearCrossEntropy` takes a model with one output. Received: loss=LinearCrossEntropy with "
                "next_sentence=True. Use `SmoothedCrossEntropy` for `token_logits`."
            )
        super().compile(optimizer, loss, *args, **kwargs)

    def get_config(self):
        return {
            **super().get_config(),
            "next_sentence": self.next_sentence,
            "activation": self.activation and keras.activations.serialize(self.activation),
        }
