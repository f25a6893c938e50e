"""WEIGHTS IN AND OUT: models and tokenizers in the formats of other libraries."""

from keras_transformer.interop.ctranslate2 import to_ctranslate2
from keras_transformer.interop.huggingface import from_huggingface, to_huggingface
from keras_transformer.interop.huggingface_tokenizer import tokenizer_from_huggingface

__all__ = ["from_huggingface", "to_ctranslate2", "to_huggingface", "tokenizer_from_huggingface"]
