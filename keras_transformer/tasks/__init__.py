"""STRINGS -> STRINGS: tokenizer, model and search together, and their SavedModel."""

from keras_transformer.tasks.sentence_encoder import SentenceEncoder
from keras_transformer.tasks.translator import Translator

__all__ = ["SentenceEncoder", "Translator"]
