"""STRINGS -> STRINGS: tokenizer and model together, and their SavedModel."""

from keras_transformer.tasks.sentence_encoder import SentenceEncoder
from keras_transformer.tasks.tagger import TaggedWord, Tagger
from keras_transformer.tasks.translator import Translator

__all__ = ["SentenceEncoder", "TaggedWord", "Tagger", "Translator"]
