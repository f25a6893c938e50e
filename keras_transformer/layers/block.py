"""What the encoder's and the decoder's block share: their arguments and how they make their sublayers."""

import keras

from keras_transformer.layers.attention import MultiHeadAttention
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.initializers import clone_initializer
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.layers.residual import residual


class Block(keras.layers.Layer):
    """Sublayers, each with its own layer normalisation and dropout, in residual connections."""

    def __init__(
        self,
        intermediate_dim,
        num_heads,
        dropout=0.0,
        activation="relu",
        layer_norm_epsilon=1e-5,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        normalize_first=False,
        attention_dropout=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.activation = keras.activations.get(activation)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.normalize_first = normalize_first
        self.attention_dropout = attention_dropout
        self.supports_masking = True

    def _check_width(self, width):
        if width is None or width // self.num_heads == 0:
            raise ValueError(
                "The width of the input must be known and at least `num_heads`. "
                f"Received: width={width}, num_heads={self.num_heads}"
            )

    def _make_attention(self, query_shape, value_shape, name):
        attention = MultiHeadAttention(
            num_heads=self.num_heads,
            key_dim=query_shape[-1] // self.num_heads,
            dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            bias_initializer=clone_initializer(self.bias_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        attention.build(query_shape, value_shape)
        return attention

    def _make_feed_forward(self, shape):
        feed_forward = FeedForward(
            self.intermediate_dim,
            activation=self.activation,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            bias_initializer=clone_initializer(self.bias_initializer),
            dtype=self.dtype_policy,
            name="feedforward",
        )
        feed_forward.build(shape)
        return feed_forward

    def _make_norm(self, shape, name):
        norm = LayerNormalization(epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name)
        norm.build(shape)
        return norm

    def _make_dropout(self, name):
        return Dropout(self.dropout, dtype=self.dtype_policy, name=name)

    def _residual(self, x, sublayer, name, training):
        return residual(
            x,
            sublayer,
            normalization=getattr(self, f"_{name}_layer_norm"),
            dropout=getattr(self, f"_{name}_dropout"),
            normalize_first=self.normalize_first,
            training=training,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "normalize_first": self.normalize_first,
            "attention_dropout": self.attention_dropout,
        }
