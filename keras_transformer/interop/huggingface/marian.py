"""Marian (Junczys-Dowmunt et al. 2018): the paper's Transformer with a bias of the logits."""

from keras_transformer.interop.huggingface.activations import activation, activation_name
from keras_transformer.interop.huggingface.checkpoint import Config
from keras_transformer.interop.huggingface.encoders import require
from keras_transformer.interop.huggingface.sequences import (
    one_id,
    require_class,
    require_plain,
    require_settings,
)
from keras_transformer.interop.huggingface.table import Entry, Row, Tied, linear, norm
from keras_transformer.layers import FeedForward, PositionalEncoding
from keras_transformer.models import Transformer

ARCHITECTURES = ("MarianMTModel",)
DEFAULTS = {  # what a config may leave out
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
    "share_encoder_decoder_embeddings": True,
}
EPSILON = 1e-5  # of layer normalisation: theirs has no entry for it


def unused(architecture):
    """Keys that a file may have and the model has no use for: sinusoids, which are computed."""
    return (r"model\.(encoder|decoder)\.embed_positions\.weight",)


def build(architecture, checkpoint, dtype=None):
    """Our model, with weights still to be set."""
    config = Config({**DEFAULTS, **checkpoint.config})
    require_settings(
        "marian",
        config,
        normalize_before=False,
        normalize_embedding=False,
        add_final_layer_norm=False,
        static_position_embeddings=True,
        tie_word_embeddings=True,
        decoder_attention_heads=config["encoder_attention_heads"],
        decoder_ffn_dim=config["encoder_ffn_dim"],
    )
    function = activation(config["activation_function"])
    shared = config["share_encoder_decoder_embeddings"]
    position = PositionalEncoding(interleaved=False, dtype=dtype, name="positional_encoding")
    feed_forward = FeedForward(config["encoder_ffn_dim"], activation=function, dropout=config["activation_dropout"])
    return Transformer(
        config["vocab_size"],
        config["encoder_layers"],
        config["encoder_attention_heads"],
        config["d_model"],
        config["encoder_ffn_dim"],
        dropout=config["dropout"],
        target_vocabulary_size=None if shared else config.get("decoder_vocab_size") or config["vocab_size"],
        pad_token_id=config.get("pad_token_id"),
        start_token_id=config["decoder_start_token_id"],
        end_token_id=one_id(config, "eos_token_id", 0),
        attention_dropout=config["attention_dropout"],
        activation=function,
        layer_norm_epsilon=EPSILON,
        feed_forward=feed_forward if config["activation_dropout"] else None,
        num_decoder_layers=config["decoder_layers"],
        encoder_position=position,
        decoder_position=position,
        embedding_scale=None if config["scale_embedding"] else 1.0,
        use_output_bias=True,
        dtype=dtype,
    )


def rows(model):
    """The table of `model`."""
    if model.target_vocabulary_size is None:
        yield Entry("model.shared.weight", "token_embedding.embeddings")
        for key in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"):
            yield Tied(key, "model.shared.weight")
    else:
        yield Entry("model.encoder.embed_tokens.weight", "token_embedding.embeddings")
        yield Entry("model.decoder.embed_tokens.weight", "target_token_embedding.embeddings")
        yield Tied("lm_head.weight", "model.decoder.embed_tokens.weight")
    yield Entry("final_logits_bias", "output_bias", Row())
    for side, blocks in (("encoder", model.encoder_blocks), ("decoder", model.decoder_blocks)):
        for index in range(len(blocks)):
            layer, block = f"model.{side}.layers.{index}", f"{side}_blocks.{index}"
            yield from _attention(f"{layer}.self_attn", f"{block}._self_attention_layer")
            yield from norm(f"{layer}.self_attn_layer_norm", f"{block}._self_attention_layer_norm")
            if side == "decoder":
                yield from _attention(f"{layer}.encoder_attn", f"{block}._cross_attention_layer")
                yield from norm(f"{layer}.encoder_attn_layer_norm", f"{block}._cross_attention_layer_norm")
            yield from linear(f"{layer}.fc1", f"{block}._feedforward._intermediate_dense")
            yield from linear(f"{layer}.fc2", f"{block}._feedforward._output_dense")
            yield from norm(f"{layer}.final_layer_norm", f"{block}._feedforward_layer_norm")


def _attention(key, path):
    for theirs, ours in (("q_proj", "query_dense"), ("k_proj", "key_dense"), ("v_proj", "value_dense")):
        yield from linear(f"{key}.{theirs}", f"{path}.{ours}")
    yield from linear(f"{key}.out_proj", f"{path}.output_dense", 2)


def describe(model):
    """The config of `model`; a `ValueError` if Marian has no such model."""
    require_class("marian", model, Transformer)
    require_plain("marian", model, "attention", "normalization", "residual")
    part = model.feed_forward
    is_plain = part is None or (
        type(part) is FeedForward
        and (part.intermediate_dim, part.activation, part.use_bias) == (model.intermediate_dim, model.activation, True)
    )
    scale = model.embedding_scale
    require(
        "marian",
        normalize_first=(model.normalize_first, not model.normalize_first, "post-norm blocks"),
        layer_norm_epsilon=(model.layer_norm_epsilon, model.layer_norm_epsilon == EPSILON, f"{EPSILON}"),
        feed_forward=(part and part.get_config(), is_plain, "a plain `FeedForward`"),
        encoder_position=(model.encoder_position, _is_theirs(model.encoder_position), POSITION),
        decoder_position=(model.decoder_position, _is_theirs(model.decoder_position), POSITION),
        embedding_scale=(scale, scale in (None, 1, model.hidden_dim**0.5), "a scale of 1 or of sqrt(hidden_dim)"),
        tie_word_embeddings=(model.tie_word_embeddings, model.tie_word_embeddings, "a tied output"),
        use_output_bias=(model.use_output_bias, model.use_output_bias, "a bias of the logits"),
    )
    return {
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "vocab_size": model.vocabulary_size,
        "decoder_vocab_size": model.target_vocabulary_size or model.vocabulary_size,
        "share_encoder_decoder_embeddings": model.target_vocabulary_size is None,
        "encoder_layers": model.num_layers,
        "decoder_layers": len(model.decoder_blocks),
        "encoder_attention_heads": model.num_heads,
        "decoder_attention_heads": model.num_heads,
        "d_model": model.hidden_dim,
        "encoder_ffn_dim": model.intermediate_dim,
        "decoder_ffn_dim": model.intermediate_dim,
        "activation_function": activation_name(model.activation),
        "dropout": model.dropout,
        "attention_dropout": model.dropout if model.attention_dropout is None else model.attention_dropout,
        "activation_dropout": 0.0 if part is None else part.dropout,
        "scale_embedding": scale != 1,
        "max_position_embeddings": 512,
        "pad_token_id": model.pad_token_id,
        "decoder_start_token_id": model.start_token_id,
        "eos_token_id": model.end_token_id,
        "forced_eos_token_id": None,
    }


POSITION = "`PositionalEncoding(interleaved=False)`"


def _is_theirs(position):
    return type(position) is PositionalEncoding and (position.interleaved, position.max_wavelength) == (False, 10000)
