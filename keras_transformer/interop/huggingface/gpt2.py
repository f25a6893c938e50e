"""GPT-2 (Radford et al. 2019)."""

from keras_transformer.interop.huggingface.activations import activation, activation_name
from keras_transformer.interop.huggingface.checkpoint import Config
from keras_transformer.interop.huggingface.encoders import require
from keras_transformer.interop.huggingface.sequences import (
    one_id,
    require_class,
    require_plain,
    require_settings,
)
from keras_transformer.interop.huggingface.table import (
    Entry,
    Flat,
    Kernel,
    Linear,
    Part,
    Tied,
    embedding,
    norm,
    positions,
)
from keras_transformer.layers import PositionEmbedding
from keras_transformer.models import CausalLM

ARCHITECTURES = ("GPT2LMHeadModel",)
DEFAULTS = {  # what a config may leave out
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
}


def unused(architecture):
    """Keys that a file may have and the model has no use for: causal masks."""
    return (r"transformer\.h\.\d+\.attn\.(masked_)?bias",)


def build(architecture, checkpoint, dtype=None):
    """Our model, with weights still to be set."""
    config = Config({**DEFAULTS, **checkpoint.config})
    require_settings(
        "gpt2",
        config,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    if "wte.weight" in checkpoint:  # the files of the release
        checkpoint.rename(lambda key: key if key == "lm_head.weight" else f"transformer.{key}")
    return CausalLM(
        config["vocab_size"],
        config["n_layer"],
        config["n_head"],
        config["n_embd"],
        config["n_inner"] or 4 * config["n_embd"],
        dropout=config["resid_pdrop"],
        attention_dropout=config["attn_pdrop"],
        activation=activation(config["activation_function"]),
        layer_norm_epsilon=config["layer_norm_epsilon"],
        position=PositionEmbedding(config["n_positions"], dtype=dtype, name="position_embedding"),
        tie_word_embeddings=config.get("tie_word_embeddings", True),
        **ids(config),
        dtype=dtype,
    )


def ids(config):
    """The special ids of `CausalLM`."""
    names = {"pad_token_id": "pad_token_id", "start_token_id": "bos_token_id", "end_token_id": "eos_token_id"}
    return {ours: one_id(config, theirs) for ours, theirs in names.items()}


def rows(model):
    """The table of `model`."""
    yield from embedding("transformer.wte", "token_embedding")
    yield from positions("transformer.wpe", "position_embedding")
    for index in range(model.num_layers):
        layer, block = f"transformer.h.{index}", f"blocks.{index}"
        yield from norm(f"{layer}.ln_1", f"{block}._self_attention_layer_norm")
        for part, name in enumerate(("query", "key", "value")):
            dense = f"{block}._self_attention_layer.{name}_dense"
            yield Entry(f"{layer}.attn.c_attn.weight", f"{dense}.kernel", Part(Kernel(), part, 3))
            yield Entry(f"{layer}.attn.c_attn.bias", f"{dense}.bias", Part(Flat(), part, 3))
        yield from _dense(f"{layer}.attn.c_proj", f"{block}._self_attention_layer.output_dense", 2)
        yield from norm(f"{layer}.ln_2", f"{block}._feedforward_layer_norm")
        yield from _dense(f"{layer}.mlp.c_fc", f"{block}._feedforward._intermediate_dense")
        yield from _dense(f"{layer}.mlp.c_proj", f"{block}._feedforward._output_dense")
    yield from norm("transformer.ln_f", "final_norm")
    yield from output_rows(model)


def output_rows(model):
    if model.tie_word_embeddings:
        yield Tied("lm_head.weight", "transformer.wte.weight")
    else:
        yield Entry("lm_head.weight", "token_embedding.reverse_embeddings", Linear())


def _dense(key, path, input_axes=1):
    yield Entry(f"{key}.weight", f"{path}.kernel", Kernel(input_axes))
    yield Entry(f"{key}.bias", f"{path}.bias", Flat())


def describe(model):
    """The config of `model`; a `ValueError` if GPT-2 has no such model."""
    require_class("gpt2", model, CausalLM)
    require_plain("gpt2", model, "attention", "feed_forward", "normalization", "residual")
    require_table_and_pre_norm("gpt2", model)
    attention_dropout = model.dropout if model.attention_dropout is None else model.attention_dropout
    return {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": model.vocabulary_size,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_embd": model.hidden_dim,
        "n_inner": model.intermediate_dim,
        "n_positions": model.position.sequence_length,
        "activation_function": activation_name(model.activation),
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": attention_dropout,
        **config_of_ends(model),
    }


def config_of_ends(model):
    return {
        "layer_norm_epsilon": model.layer_norm_epsilon,
        "tie_word_embeddings": model.tie_word_embeddings,
        "pad_token_id": model.pad_token_id,
        "bos_token_id": model.start_token_id,
        "eos_token_id": model.end_token_id,
    }


def require_table_and_pre_norm(model_type, model):
    require(
        model_type,
        position=(model.position, isinstance(model.position, PositionEmbedding), "a `PositionEmbedding`"),
        normalize_first=(model.normalize_first, model.normalize_first, "pre-norm blocks"),
        embedding_scale=(model.embedding_scale, model.embedding_scale == 1, "embeddings as they are"),
    )
