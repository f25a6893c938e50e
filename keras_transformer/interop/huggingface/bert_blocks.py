"""What BERT and RoBERTa have in common: the tensors of the embeddings and blocks, and the entries of the config."""

from keras_transformer.interop.huggingface.activations import activation, activation_name
from keras_transformer.interop.huggingface.table import embedding, linear, norm, positions

DEFAULTS = {  # what a config may leave out
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
}
UNUSED = (r"(\w+\.)?embeddings\.(position_ids|token_type_ids)",)


def encoder_arguments(config, max_sequence_length):
    """The arguments of `Encoder`."""
    for name, value in {"position_embedding_type": "absolute", "is_decoder": False}.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"Of {config['model_type']} only {name}={value!r} is supported. Received: {name}={config[name]!r}"
            )
    return {
        "vocabulary_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "hidden_dim": config["hidden_size"],
        "intermediate_dim": config["intermediate_size"],
        "dropout": config["hidden_dropout_prob"],
        "attention_dropout": config["attention_probs_dropout_prob"],
        "activation": activation(config["hidden_act"]),
        "layer_norm_epsilon": config["layer_norm_eps"],
        "num_segments": config["type_vocab_size"],
        "max_sequence_length": max_sequence_length,
    }


def encoder_config(encoder):
    """The entries of the config, but for those of positions and special ids."""
    attention_dropout = encoder.dropout if encoder.attention_dropout is None else encoder.attention_dropout
    return {
        "vocab_size": encoder.vocabulary_size,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "hidden_size": encoder.hidden_dim,
        "intermediate_size": encoder.intermediate_dim,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": attention_dropout,
        "hidden_act": activation_name(encoder.activation),
        "layer_norm_eps": encoder.layer_norm_epsilon,
        "type_vocab_size": encoder.num_segments,
    }


def encoder_rows(num_layers, theirs, ours, skip=0):
    """The table of embeddings and blocks.

    Args:
        theirs, ours: what stands before the keys and the paths: "bert." and "encoder.".
        skip: rows of their table of positions that are never read.
    """
    yield from embedding(f"{theirs}embeddings.word_embeddings", f"{ours}token_embedding")
    yield from positions(f"{theirs}embeddings.position_embeddings", f"{ours}position_embedding", skip)
    yield from embedding(f"{theirs}embeddings.token_type_embeddings", f"{ours}segment_embedding")
    yield from norm(f"{theirs}embeddings.LayerNorm", f"{ours}embedding_norm")
    for index in range(num_layers):
        layer, block = f"{theirs}encoder.layer.{index}", f"{ours}blocks.{index}"
        for name in ("query", "key", "value"):
            yield from linear(f"{layer}.attention.self.{name}", f"{block}._self_attention_layer.{name}_dense")
        yield from linear(f"{layer}.attention.output.dense", f"{block}._self_attention_layer.output_dense", 2)
        yield from norm(f"{layer}.attention.output.LayerNorm", f"{block}._self_attention_layer_norm")
        yield from linear(f"{layer}.intermediate.dense", f"{block}._feedforward._intermediate_dense")
        yield from linear(f"{layer}.output.dense", f"{block}._feedforward._output_dense")
        yield from norm(f"{layer}.output.LayerNorm", f"{block}._feedforward_layer_norm")
