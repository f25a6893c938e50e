"""Model sizes as data: what a preset changes in the arguments of its model."""

from keras_transformer.layers import gelu_tanh

PRESETS = {
    # Wu et al. 2021, "Good for Misconceived Reasons": the text-only model for Multi30k.
    "tiny": {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 256, "dropout": 0.3},
    # Vaswani et al. 2017, table 3, row "base": the defaults of `Transformer`.
    "base": {},
    # Vaswani et al. 2017, table 3, row "big".
    "big": {"num_heads": 16, "hidden_dim": 1024, "intermediate_dim": 4096, "dropout": 0.3},
}


# Radford et al. 2019, table 2, has layers and widths; heads, activation and end token are those of the released models.
# Of all these `intermediate_dim` is four times `hidden_dim`, and positions are a table of `sequence_length` rows.
_GPT2 = {
    "vocabulary_size": 50257,
    "start_token_id": 50256,
    "end_token_id": 50256,
    "activation": gelu_tanh,
}

CAUSAL_PRESETS = {
    # README of karpathy/nanoGPT, "I only have a macbook": characters, on a CPU.
    "nanogpt_cpu": {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "dropout": 0.0, "sequence_length": 64},
    # Its config/train_shakespeare_char.py: characters, on a GPU.
    "nanogpt": {"num_layers": 6, "num_heads": 6, "hidden_dim": 384, "dropout": 0.2, "sequence_length": 256},
    "gpt2": {**_GPT2, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "sequence_length": 1024},
    "gpt2_medium": {**_GPT2, "num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "sequence_length": 1024},
    "gpt2_large": {**_GPT2, "num_layers": 36, "num_heads": 20, "hidden_dim": 1280, "sequence_length": 1024},
    "gpt2_xl": {**_GPT2, "num_layers": 48, "num_heads": 25, "hidden_dim": 1600, "sequence_length": 1024},
}


def preset_config(name, presets=None):
    """The arguments of the preset `name` of `Transformer`, or of other `presets`."""
    presets = PRESETS if presets is None else presets
    if name not in presets:
        raise ValueError(f"There is no preset named {name!r}. Use one of: {', '.join(presets)}.")
    return presets[name]
