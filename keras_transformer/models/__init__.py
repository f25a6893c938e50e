"""STATES -> LOGITS: whole models made of the layers."""

from keras_transformer.models.causal_lm import CausalLM
from keras_transformer.models.classifier import Classifier
from keras_transformer.models.crf_tagger import CRFTagger
from keras_transformer.models.encoder import Encoder
from keras_transformer.models.flops import training_flops
from keras_transformer.models.layouts import layout_map
from keras_transformer.models.masked_lm import MaskedLM
from keras_transformer.models.presets import PRESETS, preset_config
from keras_transformer.models.token_classifier import TokenClassifier
from keras_transformer.models.transformer import Transformer

__all__ = [
    "PRESETS",
    "CRFTagger",
    "CausalLM",
    "Classifier",
    "Encoder",
    "MaskedLM",
    "TokenClassifier",
    "Transformer",
    "layout_map",
    "preset_config",
    "training_flops",
]
