"""RoBERTa (Liu et al. 2019): BERT's blocks, without next sentences, with other special ids.

Its table of positions starts with `pad_token_id + 1` rows that no real token has. Ours starts after them: position 0 is
the first token's. Theirs counts tokens that are not padding, so the two agree where padding stands on the right.
"""

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
    "RobertaModel",
    "RobertaForMaskedLM",
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
)


def unused(architecture):
    """Keys that a file may have and the model has no use for."""
    heads = {"RobertaForMaskedLM": (), "RobertaModel": ()}.get(architecture, (r"roberta\.pooler\.dense\.\w+",))
    return (*UNUSED, *heads)


def build(architecture, checkpoint, dtype=None):
    """Our model for `architecture`, with weights still to be set."""
    config = Config({"pad_token_id": 1, **DEFAULTS, **checkpoint.config})
    pooler = {
        "RobertaModel": "pooler.dense.weight",
        "RobertaForSequenceClassification": "classifier.dense.weight",
    }.get(architecture, "roberta.pooler.dense.weight")
    kept = architecture != "RobertaForTokenClassification" and pooler in checkpoint
    encoder = Encoder(
        **encoder_arguments(config, config["max_position_embeddings"] - config["pad_token_id"] - 1),
        pad_token_id=config["pad_token_id"],
        pooler_activation="tanh" if kept else None,
        dtype=dtype,
        name="encoder",
    )
    if architecture == "RobertaModel":
        return encoder
    if architecture == "RobertaForMaskedLM":
        return MaskedLM(encoder, activation="gelu")
    dropout = config["classifier_dropout"]
    if architecture == "RobertaForSequenceClassification":
        return Classifier(encoder, checkpoint.shape("classifier.out_proj.weight")[0], dropout=dropout)
    return TokenClassifier(encoder, checkpoint.shape("classifier.weight")[0], dropout=dropout)


def rows(model):
    """The table of `model`."""
    encoder, ours = encoder_of(model), path_of(model)
    theirs = "" if model is encoder else "roberta."
    yield from encoder_rows(encoder.num_layers, theirs, ours, skip=encoder.pad_token_id + 1)
    if encoder.pooler is not None:
        pooler = "classifier.dense" if isinstance(model, Classifier) else f"{theirs}pooler.dense"
        yield from linear(pooler, f"{ours}pooler")
    if isinstance(model, MaskedLM):
        yield from linear("lm_head.dense", "transform_dense")
        yield from norm("lm_head.layer_norm", "transform_norm")
        yield Entry("lm_head.bias", "output_bias")
        yield Tied("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight")
        yield Tied("lm_head.decoder.bias", "lm_head.bias")
    elif isinstance(model, Classifier):
        yield from linear("classifier.out_proj", "output_dense")
    elif model is not encoder:
        yield from linear("classifier", "output_dense")


def describe(model):
    """The config of `model`; a `ValueError` if RoBERTa has no such model."""
    names = dict(zip((Encoder, MaskedLM, Classifier, TokenClassifier), ARCHITECTURES))
    architecture, encoder = architecture_of(model, names, "roberta"), encoder_of(model)
    pooler = encoder.pooler_activation and encoder.pooler_activation.__name__
    require(
        "roberta",
        num_segments=(encoder.num_segments, encoder.num_segments is not None, "a table of segments, of one row"),
        pad_token_id=(encoder.pad_token_id, encoder.pad_token_id is not None, "a pad id: its positions start after it"),
        pooler_activation=(
            pooler,
            pooler == "tanh" or (pooler is None and not isinstance(model, Classifier)),
            'a pooler with "tanh", or none where nothing is pooled',
        ),
    )
    config = {
        "architectures": [architecture],
        **encoder_config(encoder),
        "max_position_embeddings": encoder.max_sequence_length + encoder.pad_token_id + 1,
        "pad_token_id": encoder.pad_token_id,
    }
    if isinstance(model, MaskedLM):
        name = (model.activation or encoder.activation).__name__
        require("roberta", activation=(name, name == "gelu", 'activation="gelu" in the head'))
        require(
            "roberta", next_sentence=(model.next_sentence, not model.next_sentence, "a head without next sentences")
        )
    elif model is not encoder:
        config["classifier_dropout"] = model.dropout
    return config
