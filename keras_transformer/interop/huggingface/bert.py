"""BERT (Devlin et al. 2019)."""

from keras_transformer.interop.huggingface.bert_blocks import (
    DEFAULTS,
    UNUSED,
    encoder_arguments,
    encoder_config,
    encoder_rows,
)
from keras_transformer.interop.huggingface.checkpoint import Config
from keras_transformer.interop.huggingface.encoders import architecture_of, encoder_of, path_of, require
from keras_transformer.interop.huggingface.table import Entry, Tied, linear, norm
from keras_transformer.models import Classifier, Encoder, MaskedLM, TokenClassifier

ARCHITECTURES = (
    "BertModel",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertForTokenClassification",
)


def unused(architecture):
    """Keys that a file may have and the model has no use for: the first checkpoints have all heads in one file."""
    return (*UNUSED, r"cls\.seq_relationship\.\w+") if architecture == "BertForMaskedLM" else UNUSED


def build(architecture, checkpoint, dtype=None):
    """Our model for `architecture`, with weights still to be set."""
    config = Config({**DEFAULTS, **checkpoint.config})
    prefix = "" if architecture == "BertModel" else "bert."
    encoder = Encoder(
        **encoder_arguments(config, config["max_position_embeddings"]),
        pad_token_id=config.get("pad_token_id", 0),
        pooler_activation="tanh" if f"{prefix}pooler.dense.weight" in checkpoint else None,
        dtype=dtype,
        name="encoder",
    )
    if architecture == "BertModel":
        return encoder
    if architecture in ("BertForMaskedLM", "BertForPreTraining"):
        return MaskedLM(encoder, next_sentence=architecture == "BertForPreTraining")
    head = Classifier if architecture == "BertForSequenceClassification" else TokenClassifier
    return head(encoder, checkpoint.shape("classifier.weight")[0], dropout=config["classifier_dropout"])


def rows(model):
    """The table of `model`."""
    encoder, ours = encoder_of(model), path_of(model)
    theirs = "" if model is encoder else "bert."
    yield from encoder_rows(encoder.num_layers, theirs, ours)
    if encoder.pooler is not None:
        yield from linear(f"{theirs}pooler.dense", f"{ours}pooler")
    if isinstance(model, MaskedLM):
        yield from linear("cls.predictions.transform.dense", "transform_dense")
        yield from norm("cls.predictions.transform.LayerNorm", "transform_norm")
        yield Entry("cls.predictions.bias", "output_bias")
        yield Tied("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")
        yield Tied("cls.predictions.decoder.bias", "cls.predictions.bias")
        if model.next_sentence:
            yield from linear("cls.seq_relationship", "next_sentence_dense")
    elif model is not encoder:
        yield from linear("classifier", "output_dense")


def describe(model):
    """The config of `model`; a `ValueError` if BERT has no such model."""
    names = {
        Encoder: "BertModel",
        MaskedLM: "BertForPreTraining" if getattr(model, "next_sentence", False) else "BertForMaskedLM",
        Classifier: "BertForSequenceClassification",
        TokenClassifier: "BertForTokenClassification",
    }
    architecture, encoder = architecture_of(model, names, "bert"), encoder_of(model)
    pooler = encoder.pooler_activation and encoder.pooler_activation.__name__
    require(
        "bert",
        num_segments=(encoder.num_segments, encoder.num_segments is not None, "a table of segments"),
        pooler_activation=(
            pooler,
            pooler == "tanh" or (pooler is None and not isinstance(model, Classifier)),
            'a pooler with "tanh", or none where nothing is pooled',
        ),
    )
    config = {
        "architectures": [architecture],
        **encoder_config(encoder),
        "max_position_embeddings": encoder.max_sequence_length,
        "pad_token_id": encoder.pad_token_id,
    }
    if isinstance(model, MaskedLM):
        same = model.activation is None or model.activation is encoder.activation
        require("bert", activation=(model.activation, same, "the encoder's activation in the head"))
    elif model is not encoder:
        config["classifier_dropout"] = model.dropout
    return config
