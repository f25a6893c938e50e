"""Model sizes as data: what a preset changes in the arguments of `Transformer`."""

PRESETS = {
    # Wu et al. 2021, "Good for Misconceived Reasons": the text-only model for Multi30k.
    "tiny": {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 256, "dropout": 0.3},
    # Vaswani et al. 2017, table 3, row "base": the defaults of `Transformer`.
    "base": {},
    # Vaswani et al. 2017, table 3, row "big".
    "big": {"num_heads": 16, "hidden_dim": 1024, "intermediate_dim": 4096, "dropout": 0.3},
}


def preset_config(name):
    """The arguments of the preset `name`."""
    if name not in PRESETS:
        raise ValueError(f"There is no preset named {name!r}. Use one of: {', '.join(PRESETS)}.")
    return PRESETS[name]
