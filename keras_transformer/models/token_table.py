"""The table of embeddings that is the output's table too."""

import keras


def reversible_embedding(*args, **kwargs):
    """A `keras.layers.ReversibleEmbedding` that `keras.RematScope` leaves alone.

    It keeps nothing that could be computed again, and Keras's rematerialisation takes no `reverse=True` in a graph.
    """
    with keras.RematScope(mode=None):
        return keras.layers.ReversibleEmbedding(*args, **kwargs)
