"""The encoder's block: self-attention and feed-forward, each in a residual connection."""

import keras

from keras_transformer.layers.block import Block
from keras_transformer.layers.masks import keras_mask
from keras_transformer.layers.rematerialization import as_a_whole
from keras_transformer.layers.results import pack


@keras.saving.register_keras_serializable(package="keras_transformer")
class EncoderBlock(Block):
    """One layer of the encoder (Vaswani et al. 2017, section 3.1).

    Constructor, call arguments and weights are those of `keras_hub.layers.TransformerEncoder`. What varies
    otherwise is handed in as a part: a layer (or another object named below) or its Keras config. A part is a
    pattern: each sublayer gets a clone of it, under the block's dtype policy; only `position` is used as it is.

    Args:
        intermediate_dim: `F`, width of the feed-forward network.
        num_heads: `H`.
        dropout: rate after each sublayer, and on attention weights unless `attention_dropout` says otherwise.
        activation: of the feed-forward network.
        layer_norm_epsilon: added to the variance in layer normalisation.
        normalize_first: False is the paper's post-norm; True is pre-norm.
        attention_dropout: rate on attention weights; None means `dropout`.
        key_dim: `K`, width of a head; None means that of the input over `num_heads`, rounded down.
        position: what self-attention knows of positions, such as `RotaryEmbedding()`. Handed to several blocks, it
            is shared by them.
        attention: a `MultiHeadAttention`, whose arguments then count in place of `num_heads`, `key_dim` and
            `attention_dropout`.
        feed_forward: such as a `GatedFeedForward`, whose arguments then count in place of `intermediate_dim` and
            `activation`.
        normalization: such as `keras.layers.RMSNormalization()`; None means layer normalisation.
        residual: `PostNorm`, `PreNorm`, `SandwichNorm` or another `Residual`, with what is done to the branch, such
            as `PreNorm(StochasticDepth(0.1))`; None means post- or pre-norm by `normalize_first`.

    Call arguments:
        inputs: `(B, T, D)`.
        padding_mask: `(B, T)`; True = real. By default the mask that Keras carries along with `inputs`.
        attention_mask: `(T, T)`, `(B, T, T)` or `(B, H, T, T)`; True = may attend.
        return_attention_scores: whether to return the weights `(B, H, T, T)` too.
        segment_ids: integers `(B, T)` of packed rows: a query attends to its own segment alone.
        positions: integers `(T,)` or `(B, T)`; None means 0 to T - 1, or from 0 in each segment.

    Returns:
        `(B, T, D)`, or that and the scores. A Keras mask on `inputs` is passed on.

    Example:

    >>> import keras, numpy as np
    >>> from keras_transformer.layers import EncoderBlock, GatedFeedForward, PreNorm, StochasticDepth
    >>> block = EncoderBlock(
    ...     intermediate_dim=32,
    ...     num_heads=2,
    ...     feed_forward=GatedFeedForward(22, activation="silu", use_bias=False),
    ...     normalization=keras.layers.RMSNormalization(),
    ...     residual=PreNorm(StochasticDepth(0.1)),
    ... )
    >>> tuple(block(np.ones((1, 5, 8))).shape)
    (1, 5, 8)
    """

    @as_a_whole
    def build(self, inputs_shape):
        self._self_attention_layer = self._build_attention(
            inputs_shape, inputs_shape, "self_attention_layer", self.position
        )
        self._build_residual(inputs_shape, "self_attention")
        self._build_residual(inputs_shape, "feedforward")
        self._feedforward = self._build_feed_forward(inputs_shape)

    def call(
        self,
        inputs,
        padding_mask=None,
        attention_mask=None,
        training=None,
        return_attention_scores=False,
        segment_ids=None,
        positions=None,
    ):
        scores: dict | None = {} if return_attention_scores else None
        self_attention = self._attention(
            "self",
            scores,
            None,
            value_mask=keras_mask(inputs) if padding_mask is None else padding_mask,
            attention_mask=attention_mask,
            segment_ids=segment_ids,
            positions=positions,
            training=training,
        )
        x = self._residual(inputs, self_attention, "self_attention", training)
        x = self._residual(x, self._feedforward, "feedforward", training)
        return pack(x, scores and scores["self"])

    def compute_output_shape(self, inputs_shape):
        return inputs_shape
