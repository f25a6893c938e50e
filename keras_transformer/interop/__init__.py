"""WEIGHTS IN AND OUT: models in the formats of other libraries."""

from keras_transformer.interop.ctranslate2 import to_ctranslate2

__all__ = ["to_ctranslate2"]
