"""Directories of Hugging Face transformers, `config.json` and safetensors, as our models and back.

checkpoint    the files
table         which tensor is which weight of ours, in which layout: read in both directions
activations   the names of activations
bert_blocks   what BERT and RoBERTa have in common
bert, ...     one file for each architecture (`model_type`)
conversion    from a directory to a model and back
"""

from keras_transformer.interop.huggingface.conversion import from_huggingface, to_huggingface

__all__ = ["from_huggingface", "to_huggingface"]
