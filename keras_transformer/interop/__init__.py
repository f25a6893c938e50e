"""WEIGHTS IN AND OUT: models and tokenizers in the formats of other libraries."""

from keras_transformer.interop.huggingface_tokenizer import tokenizer_from_huggingface

__all__ = ["tokenizer_from_huggingface"]
