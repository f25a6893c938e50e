"""WEIGHTS IN AND OUT: models in the formats of other libraries."""

from keras_transformer.interop.ctranslate2 import to_ctranslate2
from keras_transformer.interop.huggingface import from_huggingface, to_huggingface

__all__ = ["from_huggingface", "to_ctranslate2", "to_huggingface"]
