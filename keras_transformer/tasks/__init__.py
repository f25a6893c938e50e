"""STRINGS -> STRINGS: tokenizer, model and search together, and their SavedModel."""

from keras_transformer.tasks.translator import Translator

__all__ = ["Translator"]
