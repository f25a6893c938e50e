"""The residual connection around each sublayer (Vaswani et al. 2017, section 3.1), written once."""


def residual(x, sublayer, normalization, dropout, normalize_first, training=None):
    """`LayerNorm(x + Dropout(Sublayer(x)))`, or with `normalize_first` `x + Dropout(Sublayer(LayerNorm(x)))`.

    Args:
        x: `(B, T, D)`.
        sublayer: a function of a tensor that returns a tensor, or a tuple of it and whatever else it gives.
        normalization, dropout: layers.

    Returns:
        A tuple: `(B, T, D)` first, then what else `sublayer` returned.
    """
    outputs = sublayer(normalization(x) if normalize_first else x)
    y, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    y = x + dropout(y, training=training)
    return (y if normalize_first else normalization(y), *others)
