"""The names that `config.json` has for activations."""

import keras

from keras_transformer.layers import gelu_tanh

ACTIVATIONS = {  # in writing, the first name of a function counts
    "gelu": keras.activations.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
    "swish": keras.activations.silu,
    "tanh": keras.activations.tanh,
}


def activation(name):
    """The function that they call `name`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"There is no activation for {name!r} of config.json. Use one of: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def activation_name(function):
    """What they call `function`."""
    for name, known in ACTIVATIONS.items():
        if known is function:
            return name
    raise ValueError(f"The other format has no name for the activation {function!r}. It has: {', '.join(ACTIVATIONS)}.")
