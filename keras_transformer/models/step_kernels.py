"""The kernels that each step of a model's search multiplies by, on their way through its loop."""

import keras
from keras import ops

from keras_transformer.layers.carried_kernels import as_a_whole, in_halves_or_rows, multiplying, product_of
from keras_transformer.layers.projection import is_product, kernel_matrix
from keras_transformer.models.vocabulary_end import output_table_of


class StepKernels:
    """Kernels `(N, K)` of `layers`: made before a loop, carried through it, used in its body.

    Args:
        layers: `Dense`, `EinsumDense` and `ReversibleEmbedding` layers; those that are quantized are left alone.
        jit_compile: whether XLA compiles the loop.
        stored: variables that hold the kernels, of `stored`; None: they are taken from the layers each time, so they
            are right for weights that change between searches.
    """

    def __init__(self, layers=(), jit_compile=False, stored=None):
        # To lay kernels out pays where XLA is, or where it is done already.
        pays = jit_compile or keras.backend.backend() == "jax"
        self._layers = [layer for layer in layers if has_kernel(layer)] if pays or stored is not None else []
        self._stored = stored
        self._product = in_halves_or_rows if pays else as_a_whole

    def start(self):
        """The kernels, to be carried."""
        if self._stored is None:
            return tuple(laid_out(layer) for layer in self._layers)
        return tuple(ops.cast(v, layer.compute_dtype) for v, layer in zip(self._stored, self._layers, strict=True))

    def carried(self, kernels):
        """A context in which the layers multiply by `kernels`."""
        return multiplying(self._layers, kernels, self._product)


def stored(layers):
    """Variables with the kernels of `layers` for `StepKernels`, to be saved in the place of these."""
    return [as_variable(layer) for layer in layers if has_kernel(layer)]


def as_variable(layer):
    table = layer.embeddings if isinstance(layer, keras.layers.ReversibleEmbedding) and layer.tie_weights else None
    if isinstance(table, keras.Variable):  # with LoRA it is a sum
        return table
    kernel = laid_out(layer)
    return keras.Variable(kernel, trainable=False, dtype=kernel.dtype, name=f"{layer.name}_laid_out")


def has_kernel(layer):
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        return layer.quantization_mode is None
    return is_product(layer)


def laid_out(layer):
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        return ops.cast(output_table_of(layer), layer.compute_dtype)
    return ops.transpose(kernel_matrix(layer))


def logits_of(embedding, hidden):
    """Logits `(..., V)` of states `(..., D)` by the table of a `ReversibleEmbedding`."""
    product = product_of(embedding)
    if product is None:
        return embedding(hidden, reverse=True)
    shape = ops.shape(hidden)
    rows = ops.reshape(ops.cast(hidden, embedding.compute_dtype), (-1, shape[-1]))
    return ops.reshape(product(rows), (*shape[:-1], embedding.input_dim))
