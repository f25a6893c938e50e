"""DistilBERT (Sanh et al. 2019): BERT without segments and with half the blocks."""

from keras_transformer.interop.huggingface.activations import activation, activation_name
from keras_transformer.interop.huggingface.checkpoint import Config
from keras_transformer.interop.huggingface.encoders import architecture_of, encoder_of, path_of, require
from keras_transformer.interop.huggingface.table import Entry, Tied, embedding, linear, norm, positions
from keras_transformer.models import Classifier, Encoder, MaskedLM, TokenClassifier

ARCHITECTURES = (
    "DistilBertModel",
    "DistilBertForMaskedLM",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
)
DEFAULTS = {
    "activation": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "pad_token_id": 0,
}
EPSILON = 1e-12  # no entry of the config


def unused(architecture):
    """Keys that a file may have and the model has no use for."""
    return (r"(\w+\.)?embeddings\.position_ids",)


def build(architecture, checkpoint, dtype=None):
    """Our model for `architecture`, with weights still to be set."""
    config = Config({**DEFAULTS, **checkpoint.config})
    encoder = Encoder(
        vocabulary_size=config["vocab_size"],
        num_layers=config["n_layers"],
        num_heads=config["n_heads"],
        hidden_dim=config["dim"],
        intermediate_dim=config["hidden_dim"],
        dropout=config["dropout"],
        attention_dropout=config["attention_dropout"],
        activation=activation(config["activation"]),
        layer_norm_epsilon=EPSILON,
        num_segments=None,
        max_sequence_length=config["max_position_embeddings"],
        pad_token_id=config["pad_token_id"],
        pooler_activation="relu" if architecture == "DistilBertForSequenceClassification" else None,
        dtype=dtype,
        name="encoder",
    )
    if architecture == "DistilBertModel":
        return encoder
    if architecture == "DistilBertForMaskedLM":
        return MaskedLM(encoder)
    num_classes = checkpoint.shape("classifier.weight")[0]
    if architecture == "DistilBertForSequenceClassification":
        return Classifier(encoder, num_classes, dropout=config["seq_classif_dropout"])
    return TokenClassifier(encoder, num_classes)


def rows(model):
    """The table of `model`."""
    encoder, ours = encoder_of(model), path_of(model)
    theirs = "" if model is encoder else "distilbert."
    yield from embedding(f"{theirs}embeddings.word_embeddings", f"{ours}token_embedding")
    yield from positions(f"{theirs}embeddings.position_embeddings", f"{ours}position_embedding")
    yield from norm(f"{theirs}embeddings.LayerNorm", f"{ours}embedding_norm")
    for index in range(encoder.num_layers):
        layer, block = f"{theirs}transformer.layer.{index}", f"{ours}blocks.{index}"
        for short, name in {"q": "query", "k": "key", "v": "value"}.items():
            yield from linear(f"{layer}.attention.{short}_lin", f"{block}._self_attention_layer.{name}_dense")
        yield from linear(f"{layer}.attention.out_lin", f"{block}._self_attention_layer.output_dense", 2)
        yield from norm(f"{layer}.sa_layer_norm", f"{block}._self_attention_layer_norm")
        yield from linear(f"{layer}.ffn.lin1", f"{block}._feedforward._intermediate_dense")
        yield from linear(f"{layer}.ffn.lin2", f"{block}._feedforward._output_dense")
        yield from norm(f"{layer}.output_layer_norm", f"{block}._feedforward_layer_norm")
    if isinstance(model, MaskedLM):
        yield from linear("vocab_transform", "transform_dense")
        yield from norm("vocab_layer_norm", "transform_norm")
        yield Entry("vocab_projector.bias", "output_bias")
        yield Tied("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight")
    elif model is not encoder:
        if isinstance(model, Classifier):
            yield from linear("pre_classifier", f"{ours}pooler")
        yield from linear("classifier", "output_dense")


def describe(model):
    """The config of `model`; a `ValueError` if DistilBERT has no such model."""
    names = dict(zip((Encoder, MaskedLM, Classifier, TokenClassifier), ARCHITECTURES))
    architecture, encoder = architecture_of(model, names, "distilbert"), encoder_of(model)
    pooler = encoder.pooler_activation and encoder.pooler_activation.__name__
    pooled = isinstance(model, Classifier)
    require(
        "distilbert",
        num_segments=(encoder.num_segments, encoder.num_segments is None, "an encoder without segments"),
        layer_norm_epsilon=(encoder.layer_norm_epsilon, encoder.layer_norm_epsilon == EPSILON, f"{EPSILON}"),
        pooler_activation=(
            pooler,
            pooler == ("relu" if pooled else None),
            'a pooler with "relu" in a `Classifier`, and none elsewhere',
        ),
    )
    config = {
        "architectures": [architecture],
        "vocab_size": encoder.vocabulary_size,
        "n_layers": encoder.num_layers,
        "n_heads": encoder.num_heads,
        "dim": encoder.hidden_dim,
        "hidden_dim": encoder.intermediate_dim,
        "dropout": encoder.dropout,
        "attention_dropout": encoder.dropout if encoder.attention_dropout is None else encoder.attention_dropout,
        "activation": activation_name(encoder.activation),
        "max_position_embeddings": encoder.max_sequence_length,
        "pad_token_id": encoder.pad_token_id,
    }
    if isinstance(model, MaskedLM):
        same = model.activation is None or model.activation is encoder.activation
        require("distilbert", activation=(model.activation, same, "the encoder's activation in the head"))
        require("distilbert", next_sentence=(model.next_sentence, not model.next_sentence, "a head without it"))
    elif pooled:
        config["seq_classif_dropout"] = encoder.dropout if model.dropout is None else model.dropout
    return config
