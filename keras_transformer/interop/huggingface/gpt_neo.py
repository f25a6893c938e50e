"""GPT-Neo: GPT-3's alternation of dense and banded layers (Brown et al. 2020, section 2.1).

Its attention has a bias after the heads alone and does not divide by `sqrt(K)`: the kernels of queries are scaled.
"""

from keras_transformer.interop.huggingface.activations import activation, activation_name
from keras_transformer.interop.huggingface.checkpoint import Config
from keras_transformer.interop.huggingface.encoders import require
from keras_transformer.interop.huggingface.gpt2 import (
    config_of_ends,
    ids,
    output_rows,
    require_table_and_pre_norm,
)
from keras_transformer.interop.huggingface.sequences import require_class, require_plain, unscaled_query
from keras_transformer.interop.huggingface.table import embedding, linear, norm, positions
from keras_transformer.layers import MultiHeadAttention, PositionEmbedding
from keras_transformer.layers.patterns import SlidingWindow
from keras_transformer.models import CausalLM

ARCHITECTURES = ("GPTNeoForCausalLM",)
DEFAULTS = {  # what a config may leave out
    "attention_types": [[["global", "local"], 12]],
    "intermediate_size": None,
    "window_size": 256,
    "activation_function": "gelu_new",
    "resid_dropout": 0.0,
    "attention_dropout": 0.0,
    "layer_norm_epsilon": 1e-5,
}


def unused(architecture):
    """Keys that a file may have and the model has no use for: causal masks."""
    return (r"transformer\.h\.\d+\.attn\.attention\.(masked_)?bias",)


def build(architecture, checkpoint, dtype=None):
    """Our model, with weights still to be set."""
    config = Config({**DEFAULTS, **checkpoint.config})
    key_dim, rest = divmod(config["hidden_size"], config["num_heads"])
    if rest:
        raise ValueError(
            "`hidden_size` of config.json must be a multiple of `num_heads`. "
            f"Received: hidden_size={config['hidden_size']}, num_heads={config['num_heads']}"
        )
    kinds = [kind for period, times in config["attention_types"] for _ in range(times) for kind in period]
    if len(kinds) != config["num_layers"] or not {*kinds} <= {"global", "local"}:
        raise ValueError(
            f"`attention_types` of config.json must say of {config['num_layers']} layers which are global and which "
            f"local. Received: {config['attention_types']}"
        )

    def attention(kind):
        return MultiHeadAttention(
            config["num_heads"],
            key_dim,
            dropout=config["attention_dropout"],
            use_bias=False,
            use_output_bias=True,
            pattern=SlidingWindow(config["window_size"]) if kind == "local" else None,
        )

    return CausalLM(
        config["vocab_size"],
        config["num_layers"],
        config["num_heads"],
        config["hidden_size"],
        config["intermediate_size"] or 4 * config["hidden_size"],
        dropout=config["resid_dropout"],
        attention_dropout=config["attention_dropout"],
        activation=activation(config["activation_function"]),
        layer_norm_epsilon=config["layer_norm_epsilon"],
        position=PositionEmbedding(config["max_position_embeddings"], dtype=dtype, name="position_embedding"),
        attention=[attention(kind) for kind in kinds],
        tie_word_embeddings=config.get("tie_word_embeddings", True),
        **ids(config),
        dtype=dtype,
    )


def rows(model):
    """The table of `model`."""
    yield from embedding("transformer.wte", "token_embedding")
    yield from positions("transformer.wpe", "position_embedding")
    for index in range(model.num_layers):
        layer, block = f"transformer.h.{index}", f"blocks.{index}"
        theirs, ours = f"{layer}.attn.attention", f"{block}._self_attention_layer"
        yield from norm(f"{layer}.ln_1", f"{block}._self_attention_layer_norm")
        yield from unscaled_query(f"{theirs}.q_proj", f"{ours}.query_dense", model.hidden_dim // model.num_heads)
        yield from linear(f"{theirs}.k_proj", f"{ours}.key_dense", bias=False)
        yield from linear(f"{theirs}.v_proj", f"{ours}.value_dense", bias=False)
        yield from linear(f"{theirs}.out_proj", f"{ours}.output_dense", 2)
        yield from norm(f"{layer}.ln_2", f"{block}._feedforward_layer_norm")
        yield from linear(f"{layer}.mlp.c_fc", f"{block}._feedforward._intermediate_dense")
        yield from linear(f"{layer}.mlp.c_proj", f"{block}._feedforward._output_dense")
    yield from norm("transformer.ln_f", "final_norm")
    yield from output_rows(model)


def describe(model):
    """The config of `model`; a `ValueError` if GPT-Neo has no such model."""
    require_class("gpt_neo", model, CausalLM)
    require_plain("gpt_neo", model, "feed_forward", "normalization", "residual")
    require_table_and_pre_norm("gpt_neo", model)
    parts = model.attention if isinstance(model.attention, list) else [model.attention]
    parts = [parts[index % len(parts)] for index in range(model.num_layers)]
    key_dim = model.hidden_dim // model.num_heads
    for part in parts:
        plain = part is not None and _is_theirs(part, model.num_heads, key_dim)
        needed = (
            f"`MultiHeadAttention({model.num_heads}, {key_dim}, use_bias=False, use_output_bias=True)`, banded or not"
        )
        require("gpt_neo", attention=(part and part.get_config(), plain, needed))
    sizes = {part.pattern.size for part in parts if part.pattern is not None}
    require("gpt_neo", attention=(sorted(sizes), len(sizes) <= 1, "windows of one size"))
    kinds = ["global" if part.pattern is None else "local" for part in parts]
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "vocab_size": model.vocabulary_size,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "hidden_size": model.hidden_dim,
        "intermediate_size": model.intermediate_dim,
        "max_position_embeddings": model.position.sequence_length,
        "attention_types": [[kinds, 1]],
        "attention_layers": kinds,
        "window_size": sizes.pop() if sizes else 256,
        "activation_function": activation_name(model.activation),
        "resid_dropout": model.dropout,
        "embed_dropout": model.dropout,
        "attention_dropout": parts[0].dropout,
        **config_of_ends(model),
    }


def _is_theirs(part, num_heads, key_dim):
    expected = MultiHeadAttention(
        num_heads, key_dim, dropout=part.dropout, use_bias=False, use_output_bias=True, pattern=part.pattern
    )
    free = ("name", "dtype", "kernel_initializer", "bias_initializer", "seed", "flash_attention", "trainable")
    configs = [{k: v for k, v in x.get_config().items() if k not in free} for x in (part, expected)]
    return configs[0] == configs[1] and (part.pattern is None or isinstance(part.pattern, SlidingWindow))
