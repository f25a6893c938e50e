"""WEIGHTS IN AND OUT: models in the formats of other libraries."""

from keras_transformer.interop.huggingface import from_huggingface, to_huggingface

__all__ = ["from_huggingface", "to_huggingface"]
