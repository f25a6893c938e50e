"""A graph and its variables as a SavedModel that is whole or not there."""

from pathlib import Path

import tensorflow as tf

from keras_transformer.training import complete_or_absent


def write_saved_model(path, graph, variables, overwrite=False):
    """Writes `graph` as the `serving_default` of a SavedModel.

    Args:
        path: a directory that does not exist; it is there whole or not at all.
        graph: a `tf.function` with an input signature.
        variables: TensorFlow's variables that it reads.
        overwrite: whether to replace a directory that exists.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another path, or pass overwrite=True.")
    served = tf.Module()
    served.variables_of_graph = list(variables)
    served.graph = graph
    with complete_or_absent(path) as temporary:
        try:
            tf.saved_model.save(served, str(temporary), signatures={"serving_default": graph})
        except tf.errors.OpError as error:  # a full disk, which is no `OSError` to TensorFlow
            raise OSError(error.message.rpartition("}} ")[2]) from error
