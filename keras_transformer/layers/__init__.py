"""TOKENS -> STATES: attention, positions and blocks."""

from keras_transformer.layers import patterns
from keras_transformer.layers.activations import gelu_tanh
from keras_transformer.layers.alibi_bias import AlibiBias
from keras_transformer.layers.attention import MultiHeadAttention
from keras_transformer.layers.branch import LayerScale, StochasticDepth
from keras_transformer.layers.crf import CRF
from keras_transformer.layers.decoder_block import DecoderBlock
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.encoder_block import EncoderBlock
from keras_transformer.layers.feed_forward import FeedForward, GatedFeedForward
from keras_transformer.layers.initializers import ProjectionGlorotUniform
from keras_transformer.layers.position_embedding import PositionEmbedding
from keras_transformer.layers.positional_encoding import PositionalEncoding
from keras_transformer.layers.relative_position_bias import RelativePositionBias
from keras_transformer.layers.relative_position_embedding import RelativePositionEmbedding
from keras_transformer.layers.residual import PostNorm, PreNorm, Residual, SandwichNorm
from keras_transformer.layers.rotary_embedding import RotaryEmbedding
from keras_transformer.layers.tag_schemes import allowed_transitions, split_label
from keras_transformer.layers.token_dropout import TokenDropout

__all__ = [
    "CRF",
    "AlibiBias",
    "DecoderBlock",
    "Dropout",
    "EncoderBlock",
    "FeedForward",
    "GatedFeedForward",
    "LayerScale",
    "MultiHeadAttention",
    "PositionEmbedding",
    "PositionalEncoding",
    "PostNorm",
    "PreNorm",
    "ProjectionGlorotUniform",
    "RelativePositionBias",
    "RelativePositionEmbedding",
    "Residual",
    "RotaryEmbedding",
    "SandwichNorm",
    "StochasticDepth",
    "TokenDropout",
    "allowed_transitions",
    "gelu_tanh",
    "patterns",
    "split_label",
]
