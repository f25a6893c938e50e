"""What tasks do alike when they are written as a SavedModel."""

import gc
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_transformer.layers.quantized import quantizations
from keras_transformer.training import complete_or_absent

DTYPES = ("float32", "bfloat16", "float16")


def check_new(path, overwrite):
    """`path` as a `Path`, refused if it exists and is not to be replaced."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another path, or pass overwrite=True.")
    return path


def save(graph, variables, path, overwrite=False, **signatures):
    """Writes a SavedModel whose `serving_default` is `graph`, with the values of `variables`.

    Args:
        graph: a `tf.function` with an input signature.
        variables: the Keras variables that it may read; those that it does are saved.
        path: a directory that does not exist; it is there whole or not at all.
        overwrite: whether to replace a directory that exists.
        **signatures: further signatures by name, `tf.function`s of the same variables.
    """
    path = check_new(path, overwrite)
    served = tf.Module()
    # A `tf.function` that is saved itself would be traced a second time.
    concrete = {id(function): function.get_concrete_function() for function in (graph, *signatures.values())}
    signatures = {name: concrete[id(function)] for name, function in {"serving_default": graph, **signatures}.items()}
    read = {id(x) for function in concrete.values() for x in function.captured_inputs}
    served.tracked = [variable.value for variable in variables if id(variable.value.handle) in read]
    served.graphs = list(concrete.values())
    with complete_or_absent(path) as temporary:
        try:
            tf.saved_model.save(
                served,
                str(temporary),
                signatures=signatures,
                options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
            )
            _forget_custom_gradients(temporary / "saved_model.pb")
        except tf.errors.OpError as error:  # a full disk, which is no `OSError` to TensorFlow
            raise OSError(error.message.rpartition("}} ")[2]) from error


def _forget_custom_gradients(path):
    """Takes the names of custom gradients out of the graphs: loading warns of each function that has one.

    What is served takes no gradients, and the functions themselves were not saved.
    """
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta_graph in saved.meta_graphs:
        for function in meta_graph.graph_def.library.function:
            for node in function.node_def:
                node.attr.pop("_gradient_op_type", None)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def in_dtype(model, dtype):
    """`model` itself, or a copy with its weights if any part of it computes in another dtype."""
    config = keras.saving.serialize_keras_object(model)
    changed = _in_dtype(config, dtype)
    if changed == config:
        return model
    copy = keras.saving.deserialize_keras_object(changed)
    copy.set_weights(model.get_weights())
    return copy


def _in_dtype(config, dtype):
    if isinstance(config, dict):
        return {
            key: dtype if key == "dtype" and _policy(value) not in (None, dtype) else _in_dtype(value, dtype)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_in_dtype(value, dtype) for value in config)
    return config


def _policy(value):
    """The name of a policy of floats, as it stands in a config; None if it is none."""
    name = value.get("config", {}).get("name") if isinstance(value, dict) else value
    return name if str(name).endswith(("float16", "float32")) else None


def to_be_exported(model, dtype, quantize):
    """`model` as its SavedModel is to hold it; see `Translator.export`."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}. Received: dtype={dtype!r}")
    if quantize not in (None, "int8"):
        raise ValueError(f'`quantize` must be None or "int8". Received: quantize={quantize!r}')
    if quantize and dtype != "float32":
        raise ValueError(
            "Weights in 8 bits are scaled in float32: pass either `dtype` or `quantize`. "
            f"Received: dtype={dtype!r}, quantize={quantize!r}"
        )
    if (quantize or dtype != "float32") and quantizations(model):
        raise ValueError(
            "The model has its weights in 8 bits already and is exported with them: leave out `dtype` and `quantize`. "
            f"Received: dtype={dtype!r}, quantize={quantize!r}"
        )
    if not quantize:
        return in_dtype(model, dtype)
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    kinds = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.ReversibleEmbedding)
    gc.freeze()  # Keras collects garbage for each layer that it quantizes, and would look through all that there is
    try:
        copy.quantize(quantize, filters=lambda layer: isinstance(layer, kinds))
    finally:
        gc.unfreeze()
    return copy
