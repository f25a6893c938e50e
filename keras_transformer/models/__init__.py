"""STATES -> LOGITS: whole models made of the layers."""

from keras_transformer.models.causal_lm import CausalLM
from keras_transformer.models.presets import PRESETS, preset_config
from keras_transformer.models.transformer import Transformer

__all__ = ["PRESETS", "CausalLM", "Transformer", "preset_config"]
