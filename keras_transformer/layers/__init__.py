"""TOKENS -> STATES: attention, positions and blocks."""

from keras_transformer.layers import patterns
from keras_transformer.layers.attention import MultiHeadAttention
from keras_transformer.layers.decoder_block import DecoderBlock
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.encoder_block import EncoderBlock
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.initializers import ProjectionGlorotUniform
from keras_transformer.layers.positional_encoding import PositionalEncoding

__all__ = [
    "DecoderBlock",
    "Dropout",
    "EncoderBlock",
    "FeedForward",
    "MultiHeadAttention",
    "PositionalEncoding",
    "ProjectionGlorotUniform",
    "patterns",
]
