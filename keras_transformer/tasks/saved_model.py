"""What tasks do alike when they are written as a SavedModel."""

from pathlib import Path

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
    """`model`, or a copy of it in float32 if it, or the encoder in it, computes in half precision."""
    parts = [model, *([model.encoder] if hasattr(model, "encoder") else [])]
    if all(p.dtype_policy.compute_dtype == p.dtype_policy.variable_dtype == "float32" for p in parts):
        return model
    config = {**model.get_config(), "dtype": "float32"}
    if len(parts) > 1:
        config["encoder"] = in_float32(model.encoder)
    copy = type(model).from_config(config)
    copy.set_weights(model.get_weights())
    return copy
