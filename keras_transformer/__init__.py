"""Transformer layers, models, training and decoding for Keras 3.

Importing registers every layer, model and training object with Keras, and does nothing else. The stages that need
more than TensorFlow and Keras (`text`, `tasks`, `interop`, `visualization`) are loaded when they are first used.
"""

import importlib

from keras_transformer import generation, layers, models, training
from keras_transformer.version import __version__

_LAZY = ("interop", "tasks", "text", "visualization")

__all__ = ["__version__", "generation", "interop", "layers", "models", "tasks", "text", "training", "visualization"]


def __getattr__(name):
    if name in _LAZY:
        return importlib.import_module(f"keras_transformer.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
