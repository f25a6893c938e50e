"""Parts: objects that are handed to a layer as an argument and are serialised with it."""

import keras


def as_part(value, argument, kind, example):
    """`value`, or what it is the Keras config of; None stays None.

    Raises:
        ValueError: if it is not of the class `kind`.
    """
    part = keras.saving.deserialize_keras_object(value) if isinstance(value, dict) else value
    if part is not None and not isinstance(part, kind):
        raise ValueError(
            f"`{argument}` must be an object of the class {kind.__name__}, or the Keras config of one. "
            f"Received: {argument}={value!r}, of the type {type(part).__name__}. Hand in for example {example}."
        )
    return part


def clone(part, **changes):
    """A part of the same config but for `changes`, without weights: one pattern serves many sublayers."""
    return type(part).from_config({**part.get_config(), **changes})
