"""The encoder's block: self-attention and feed-forward, each in a residual connection."""

import keras

from keras_transformer.layers.block import Block
from keras_transformer.layers.masks import keras_mask


@keras.saving.register_keras_serializable(package="keras_transformer")
class EncoderBlock(Block):
    """One layer of the encoder (Vaswani et al. 2017, section 3.1).

    Constructor, call arguments and weights are those of `keras_hub.layers.TransformerEncoder`.

    Args:
        intermediate_dim: `F`, width of the feed-forward network.
        num_heads: `H`.
        dropout: rate after each sublayer, and on attention weights unless `attention_dropout` says otherwise.
        activation: of the feed-forward network.
        layer_norm_epsilon: added to the variance in layer normalisation.
        normalize_first: False is the paper's post-norm; True is pre-norm.
        attention_dropout: rate on attention weights; None means `dropout`.

    Call arguments:
        inputs: `(B, T, D)`.
        padding_mask: `(B, T)`; True = real. By default the mask that Keras carries along with `inputs`.
        attention_mask: `(T, T)`, `(B, T, T)` or `(B, H, T, T)`; True = may attend.
        return_attention_scores: whether to return the weights `(B, H, T, T)` too.

    Returns:
        `(B, T, D)`, or that and the scores.
    """

    def build(self, inputs_shape):
        self._check_width(inputs_shape[-1])
        self._self_attention_layer = self._make_attention(inputs_shape, inputs_shape, "self_attention_layer")
        self._self_attention_layer_norm = self._make_norm(inputs_shape, "self_attention_layer_norm")
        self._self_attention_dropout = self._make_dropout("self_attention_dropout")
        self._feedforward_layer_norm = self._make_norm(inputs_shape, "feedforward_layer_norm")
        self._feedforward = self._make_feed_forward(inputs_shape)
        self._feedforward_dropout = self._make_dropout("feedforward_dropout")

    def call(
        self,
        inputs,
        padding_mask=None,
        attention_mask=None,
        training=None,
        return_attention_scores=False,
    ):
        if padding_mask is None:
            padding_mask = keras_mask(inputs)

        def self_attention(x):
            return self._self_attention_layer(
                x,
                x,
                value_mask=padding_mask,
                attention_mask=attention_mask,
                return_attention_scores=return_attention_scores,
                training=training,
            )

        x, *scores = self._residual(inputs, self_attention, "self_attention", training)
        (x,) = self._residual(x, self._feedforward, "feedforward", training)
        return (x, *scores) if return_attention_scores else x
