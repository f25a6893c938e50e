"""What tasks do alike when they are written as a SavedModel."""

from pathlib import Path

import keras
import tensorflow as tf

from keras_transformer.training import complete_or_absent


def save(graph, variables, path, overwrite=False):
    """Writes a SavedModel whose `serving_default` is `graph`, with the values of `variables`.

    Args:
        graph: a `tf.function` with an input signature.
        variables: all the Keras variables that it reads.
        path: a directory that does not exist; it is there whole or not at all.
        overwrite: whether to replace a directory that exists.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another path, or pass overwrite=True.")
    served = tf.Module()
    served.tracked = [variable.value for variable in variables]
    served.graph = graph
    with complete_or_absent(path) as temporary:
        try:
            tf.saved_model.save(served, str(temporary), signatures={"serving_default": graph})
        except tf.errors.OpError as error:  # a full disk, which is no `OSError` to TensorFlow
            raise OSError(error.message.rpartition("}} ")[2]) from error


def in_float32(model):
    """`model` itself, or a copy in float32 with its weights if any part of it computes in half precision."""
    config = keras.saving.serialize_keras_object(model)
    changed = _in_float32(config)
    if changed == config:
        return model
    copy = keras.saving.deserialize_keras_object(changed)
    copy.set_weights(model.get_weights())
    return copy


def _in_float32(config):
    if isinstance(config, dict):
        return {
            key: "float32" if key == "dtype" and _is_half(value) else _in_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(value) for value in config)
    return config


def _is_half(policy):
    name = policy.get("config", {}).get("name", "") if isinstance(policy, dict) else str(policy)
    return name.endswith("float16")
