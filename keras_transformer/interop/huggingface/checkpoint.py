"""A directory with a `config.json` and tensors in safetensors, in one file or in shards with an index."""

import importlib
import json
from pathlib import Path

from keras_transformer.training import complete_or_absent

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def _safetensors(module):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "Reading and writing safetensors needs the package `safetensors`: "
            'pip install "keras-transformer-layers[interop]".'
        ) from error


class Config(dict):
    """What `config.json` says. An entry that is asked for and not there is an error that names it."""

    def __missing__(self, name):
        raise ValueError(f"{CONFIG} must have an entry `{name}`. Received: entries {sorted(self)}")


class Checkpoint:
    """The tensors of a directory. A tensor is read when it is asked for; nothing in the files can run code."""

    def __init__(self, directory):
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise FileNotFoundError(
                f"`directory` must be a directory with {CONFIG} and {WEIGHTS}. Received: {self.directory}, which is "
                f"{'a file' if self.directory.exists() else 'not there'}. Models are not downloaded: fetch it first."
            )
        self.config = Config(_read_json(self.directory / CONFIG))
        self._files = {}
        for path in self._paths():
            opened = self._open(path)
            self._files.update({_modern(key): (opened, key) for key in opened.keys()})

    def _paths(self):
        index = self.directory / INDEX
        if index.exists():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
            missing = [name for name in shards if Path(name).name != name or not (self.directory / name).exists()]
            if missing or not shards:
                raise FileNotFoundError(f"{index} names files that are not there: {missing}. Fetch all of the model.")
            return [self.directory / name for name in shards]
        if (self.directory / WEIGHTS).exists():
            return [self.directory / WEIGHTS]
        pickles = sorted(path.name for pattern in PICKLES for path in self.directory.glob(pattern))
        if pickles:
            raise ValueError(
                f"{self.directory} has its weights as {', '.join(pickles)}, a pickle, which runs code when it is read. "
                f"It was not opened. Save the model with safetensors: save_pretrained writes {WEIGHTS}."
            )
        raise FileNotFoundError(f"{self.directory} has neither {WEIGHTS} nor {INDEX}.")

    def _open(self, path):
        package = _safetensors("safetensors")
        try:
            return package.safe_open(path, framework="numpy")
        except package.SafetensorError as error:
            raise ValueError(
                f"{path} is no whole safetensors file ({error}). It has {path.stat().st_size} bytes: fetch it again."
            ) from error

    def keys(self):
        return self._files.keys()

    def __contains__(self, key):
        return key in self._files

    def shape(self, key):
        if key not in self._files:
            raise ValueError(f"{self.directory} must have a tensor {key!r}. Received: {_few(self.keys())}")
        file, name = self._files[key]
        return tuple(file.get_slice(name).get_shape())

    def __getitem__(self, key):
        file, name = self._files[key]
        return file.get_tensor(name)


def write(directory, config, tensors):
    """Writes `config.json` and `model.safetensors`, each wholly or not at all; other files there stay."""
    package = _safetensors("safetensors.numpy")
    directory = Path(directory)
    with complete_or_absent(directory / WEIGHTS) as temporary:
        package.save_file(tensors, temporary, metadata={"format": "pt"})  # transformers refuses a file without it
    with complete_or_absent(directory / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path.parent} has no {path.name}, which says what model it is.") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}). Fetch it again.") from error


def _modern(key):
    """BERT's first checkpoints have TensorFlow's names for the gain and the bias of a norm."""
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _few(keys, most=5):
    keys = sorted(keys)
    return ", ".join(map(repr, keys[:most])) + (f" and {len(keys) - most} more" if len(keys) > most else "")
