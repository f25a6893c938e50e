"""Parts: objects that are handed to a layer as an argument and are serialised with it."""

import keras

POSITION_METHODS = ("add", "rotate", "scores")
"""What a position part may do: add to the inputs, rotate queries and keys, add to the scores."""


def as_part(value, argument, kind, example):
    """`value`, or what it is the Keras config of; None stays None.

    Raises:
        ValueError: if it is not of the class `kind`.
    """
    part = keras.saving.deserialize_keras_object(value) if isinstance(value, dict) else value
    if part is not None and not isinstance(part, kind):
        raise ValueError(
            f"`{argument}` must be an object of the class {_name(kind)}, or the Keras config of one. "
            f"Received: {argument}={value!r}, of the type {_name(type(part))}. Hand in for example {example}."
        )
    return part


def as_position_part(value):
    """`value`, a layer that tells positions apart, or what it is the Keras config of; None stays None."""
    part = as_part(value, "position", keras.layers.Layer, "RotaryEmbedding()")
    if part is not None and not any(hasattr(part, method) for method in POSITION_METHODS):
        raise ValueError(
            f"`position` must have one of the methods {', '.join(POSITION_METHODS)}. Received: position={value!r}. "
            "Hand in for example RotaryEmbedding()."
        )
    return part


def _name(kind):
    """With the library's name before it: Keras has a `MultiHeadAttention` too."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def clone(part, **changes):
    """A part of the same config but for `changes`, without weights: one pattern serves many sublayers."""
    return type(part).from_config({**part.get_config(), **changes})


def shared_config(part):
    """The Keras config of a part that several layers may hold, so that after `model.save` and load they still do.

    While a model is saved, Keras gives an object that it meets again the id by which loading finds it once made. The
    first config gets it too late: the layer's `get_config` was copied into the model's by then. Hence twice.

    The shape that the part was built for is left out: the layer that holds it builds it, and its own config must not
    change when it is built.
    """
    keras.saving.serialize_keras_object(part)
    config = keras.saving.serialize_keras_object(part)
    return config and {key: value for key, value in config.items() if key != "build_config"}
