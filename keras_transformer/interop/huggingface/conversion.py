"""From a directory to a model and back."""

import importlib

from keras_transformer.interop.huggingface.checkpoint import Checkpoint, write
from keras_transformer.interop.huggingface.table import dump, load
from keras_transformer.models import Classifier, TokenClassifier

MODEL_TYPES = ("bert", "distilbert", "roberta")
"""Each has a module of its name here, with `ARCHITECTURES`, `unused`, `build`, `rows` and `describe`."""


def from_huggingface(directory, dtype=None):
    """Our model with the weights of a model of Hugging Face transformers: in evaluation it returns what theirs does.

    Args:
        directory: with `config.json` and safetensors, as `save_pretrained` writes it: one file, or shards with their
            index. Nothing is downloaded and no pickle is opened.
        dtype: policy of the model, such as "mixed_bfloat16"; None: Keras's default.

    Returns:
        An `Encoder`, `MaskedLM`, `Classifier` or `TokenClassifier`, as the config's `architectures` has it.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if the architecture is none of ours, if the weights are a pickle or no whole file, or if a tensor
            is missing, not known or of the wrong shape.
    """
    checkpoint = Checkpoint(directory)
    architecture = _module(checkpoint.config["model_type"], checkpoint.directory)
    name = (checkpoint.config.get("architectures") or [None])[0]
    if name not in architecture.ARCHITECTURES:
        raise ValueError(
            f"`architectures` in {checkpoint.directory}/config.json must name one of "
            f"{', '.join(architecture.ARCHITECTURES)}. Received: {name!r}"
        )
    model = architecture.build(name, checkpoint, dtype)
    load(model, architecture.rows(model), checkpoint, architecture.unused(name))
    return model


def to_huggingface(model, directory, model_type=None, labels=None):
    """Writes `config.json` and `model.safetensors`, which transformers loads; the inverse of `from_huggingface`.

    Args:
        model: one of those that `from_huggingface` returns, in float32 or mixed precision.
        directory: made if it is not there; other files in it stay, such as those of a tokenizer.
        model_type: "bert", "distilbert" or "roberta". None: the first of them that has such a model.
        labels: names of the classes of a `Classifier` or `TokenClassifier`; None: "LABEL_0" and so on.

    Raises:
        ValueError: if `model_type`, or with None any of them, has no such model.
    """
    config, rows = _described(model, model_type)
    if isinstance(model, (Classifier, TokenClassifier)):
        labels = [f"LABEL_{index}" for index in range(model.num_classes)] if labels is None else list(labels)
        if len(labels) != model.num_classes:
            raise ValueError(f"`labels` must name all {model.num_classes} classes. Received: {labels}")
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
        config["label2id"] = {label: index for index, label in enumerate(labels)}
    elif labels is not None:
        raise ValueError(f"Only models with classes have labels. Received: labels={labels} with a {type(model)}")
    write(directory, {**config, "dtype": "float32"}, dump(model, rows))


def _described(model, model_type):
    refusals = []
    for name in MODEL_TYPES if model_type is None else (model_type,):
        architecture = _module(name, "`model_type`")
        try:
            return {"model_type": name, **architecture.describe(model)}, architecture.rows(model)
        except ValueError as error:
            refusals.append(str(error))
    raise ValueError("\n".join(refusals))


def _module(model_type, where):
    if model_type not in MODEL_TYPES:
        raise ValueError(f"{where} has a model of the type {model_type!r}, which is none of {', '.join(MODEL_TYPES)}.")
    return importlib.import_module(f"keras_transformer.interop.huggingface.{model_type}")
