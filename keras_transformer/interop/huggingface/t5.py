"""T5, 1.0 (Raffel et al. 2020) and 1.1 (Shazeer 2020, gated and untied).

Its attention does not divide by `sqrt(K)`: the kernels of queries are scaled. 1.0 ties the output and multiplies the
last states by `D^-0.5`, the embeddings being of order one: that is the scheme of Vaswani et al. 2017, section 3.4, with
a table that is `sqrt(D)` times ours.
"""

import math

import keras
import numpy as np

from keras_transformer.interop.huggingface.activations import activation, activation_name
from keras_transformer.interop.huggingface.checkpoint import Config
from keras_transformer.interop.huggingface.encoders import require
from keras_transformer.interop.huggingface.sequences import (
    one_id,
    require_class,
    require_plain,
    unscaled_query,
)
from keras_transformer.interop.huggingface.table import Entry, Linear, Same, Scaled, Tied, linear
from keras_transformer.layers import FeedForward, GatedFeedForward, MultiHeadAttention, RelativePositionBias
from keras_transformer.models import Transformer

ARCHITECTURES = ("T5ForConditionalGeneration",)
DEFAULTS = {  # what a config may leave out
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "pad_token_id": 0,
    "eos_token_id": 1,
}
TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def unused(architecture):
    """Keys that a file may have and the model has no use for: a bias between the stacks that is never read."""
    return (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)


def build(architecture, checkpoint, dtype=None):
    """Our model, with weights still to be set."""
    config = Config({**DEFAULTS, **checkpoint.config})
    gate, _, name = config["feed_forward_proj"].rpartition("-")
    if gate not in ("", "gated"):
        raise ValueError(
            '`feed_forward_proj` of config.json must be an activation, or "gated-" and one. '
            f"Received: {config['feed_forward_proj']!r}"
        )
    function = activation("gelu_new" if config["feed_forward_proj"] == "gated-gelu" else name)
    rate = config["dropout_rate"]
    tied = "lm_head.weight" not in checkpoint or np.array_equal(
        checkpoint["lm_head.weight"], checkpoint["shared.weight"]
    )
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    if scaled and not tied:
        raise ValueError(
            "A model with a `lm_head` of its own does not scale its last states. "
            f"Received: scale_decoder_outputs={config.get('scale_decoder_outputs')}, "
            f"tie_word_embeddings={config.get('tie_word_embeddings')} and a `lm_head.weight` in "
            f"{checkpoint.directory} that is not `shared.weight`. Write the model with tie_word_embeddings=False."
        )
    kind = GatedFeedForward if gate else FeedForward
    buckets = {
        "num_buckets": config["relative_attention_num_buckets"],
        "max_distance": config["relative_attention_max_distance"],
        "num_heads": config["num_heads"],
        "dtype": dtype,
    }
    return Transformer(
        config["vocab_size"],
        config["num_layers"],
        config["num_heads"],
        config["d_model"],
        config["d_ff"],
        dropout=rate,
        pad_token_id=config["pad_token_id"],
        start_token_id=config.get("decoder_start_token_id", config["pad_token_id"]),
        end_token_id=one_id(config, "eos_token_id"),
        activation=function,
        normalize_first=True,
        layer_norm_epsilon=config["layer_norm_epsilon"],
        attention=MultiHeadAttention(config["num_heads"], config["d_kv"], dropout=rate, use_bias=False),
        feed_forward=kind(config["d_ff"], activation=function, dropout=rate, use_bias=False),
        normalization=keras.layers.RMSNormalization(epsilon=config["layer_norm_epsilon"]),
        num_decoder_layers=config.get("num_decoder_layers") or config["num_layers"],
        encoder_position=RelativePositionBias(**buckets, bidirectional=True, name="encoder_position"),
        decoder_position=RelativePositionBias(**buckets, bidirectional=False, name="decoder_position"),
        embedding_scale=None if scaled else 1.0,
        tie_word_embeddings=tied,
        dtype=dtype,
    )


def rows(model):
    """The table of `model`."""
    scale = math.sqrt(model.hidden_dim) if model.embedding_scale is None else model.embedding_scale
    yield Entry("shared.weight", "token_embedding.embeddings", Same() if scale == 1 else Scaled(Same(), 1 / scale))
    for key in TABLES:
        yield Tied(key, "shared.weight")
    if model.tie_word_embeddings:
        yield Tied("lm_head.weight", "shared.weight")
    else:
        yield Entry("lm_head.weight", "token_embedding.reverse_embeddings", Linear())
    for side, blocks in (("encoder", model.encoder_blocks), ("decoder", model.decoder_blocks)):
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield Entry(bias, f"{side}_position.embeddings")
        for index in range(len(blocks)):
            layer, block = f"{side}.block.{index}.layer", f"{side}_blocks.{index}"
            yield from _attention(f"{layer}.0.SelfAttention", f"{block}._self_attention_layer", model.attention)
            yield _norm(f"{layer}.0.layer_norm", f"{block}._self_attention_layer_norm")
            last = 1
            if side == "decoder":
                yield from _attention(f"{layer}.1.EncDecAttention", f"{block}._cross_attention_layer", model.attention)
                yield _norm(f"{layer}.1.layer_norm", f"{block}._cross_attention_layer_norm")
                last = 2
            yield from _feed_forward(f"{layer}.{last}.DenseReluDense", f"{block}._feedforward", model.feed_forward)
            yield _norm(f"{layer}.{last}.layer_norm", f"{block}._feedforward_layer_norm")
        yield _norm(f"{side}.final_layer_norm", f"{side}_norm")


def _attention(key, path, part):
    yield from unscaled_query(f"{key}.q", f"{path}.query_dense", part.key_dim)
    yield from linear(f"{key}.k", f"{path}.key_dense", bias=False)
    yield from linear(f"{key}.v", f"{path}.value_dense", bias=False)
    yield from linear(f"{key}.o", f"{path}.output_dense", 2, bias=False)


def _feed_forward(key, path, part):
    if isinstance(part, GatedFeedForward):
        yield from linear(f"{key}.wi_0", f"{path}._gate_dense", bias=False)
        yield from linear(f"{key}.wi_1", f"{path}._intermediate_dense", bias=False)
    else:
        yield from linear(f"{key}.wi", f"{path}._intermediate_dense", bias=False)
    yield from linear(f"{key}.wo", f"{path}._output_dense", bias=False)


def _norm(key, path):
    return Entry(f"{key}.weight", f"{path}.scale")


def describe(model):
    """The config of `model`; a `ValueError` if T5 has no such model."""
    require_class("t5", model, Transformer)
    require_plain("t5", model, "residual", "target_vocabulary_size")
    attention, feed_forward, normalization = model.attention, model.feed_forward, model.normalization
    encoder, decoder = model.encoder_position, model.decoder_position
    is_biased = all(isinstance(part, RelativePositionBias) for part in (encoder, decoder))
    root = math.sqrt(model.hidden_dim)
    scaled = model.embedding_scale in (None, root)
    require(
        "t5",
        normalize_first=(model.normalize_first, model.normalize_first, "pre-norm blocks"),
        attention=(attention, attention is not None and not attention.use_bias, "attention without biases"),
        feed_forward=(
            feed_forward,
            isinstance(feed_forward, FeedForward) and not feed_forward.use_bias,
            "a `FeedForward` or `GatedFeedForward` without biases",
        ),
        normalization=(
            normalization,
            isinstance(normalization, keras.layers.RMSNormalization),
            "`keras.layers.RMSNormalization`",
        ),
        encoder_position=(encoder, is_biased and encoder.bidirectional, "`RelativePositionBias()`"),
        decoder_position=(
            decoder,
            is_biased and not decoder.bidirectional,
            "`RelativePositionBias(bidirectional=False)`",
        ),
        embedding_scale=(
            model.embedding_scale,
            model.embedding_scale == 1 or (scaled and model.tie_word_embeddings),
            "a scale of 1, or of sqrt(hidden_dim) with a tied output",
        ),
        use_output_bias=(model.use_output_bias, not model.use_output_bias, "logits without a bias"),
    )
    same = encoder.num_buckets, encoder.max_distance
    require(
        "t5",
        decoder_position=(
            (decoder.num_buckets, decoder.max_distance),
            (decoder.num_buckets, decoder.max_distance) == same,
            f"the buckets of both stacks alike, {same}",
        ),
    )
    name = activation_name(feed_forward.activation)
    gated = isinstance(feed_forward, GatedFeedForward)
    if gated:  # theirs reads "gated-gelu" as the approximate one, and has no name for the other
        require("t5", feed_forward=(name, name != "gelu", "`gelu_tanh` in a gate"))
        name = "gated-gelu" if name == "gelu_new" else f"gated-{name}"
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": model.vocabulary_size,
        "d_model": model.hidden_dim,
        "d_kv": attention.key_dim,
        "d_ff": feed_forward.intermediate_dim,
        "num_layers": model.num_layers,
        "num_decoder_layers": len(model.decoder_blocks),
        "num_heads": attention.num_heads,
        "relative_attention_num_buckets": encoder.num_buckets,
        "relative_attention_max_distance": encoder.max_distance,
        "dropout_rate": model.dropout,
        "layer_norm_epsilon": normalization.epsilon,
        "feed_forward_proj": name,
        "tie_word_embeddings": scaled,  # transformers takes it for the scale of the last states, whatever is tied
        "pad_token_id": model.pad_token_id,
        "decoder_start_token_id": model.start_token_id,
        "eos_token_id": model.end_token_id,
    }
