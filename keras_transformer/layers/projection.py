"""What the projections to and from heads compute, as products of two matrices."""

import math

import keras
from keras import ops

from keras_transformer.layers.carried_kernels import product_of


def contracted_axes(dense):
    """How many first axes of the kernel of the `Dense` or `EinsumDense` `dense` are summed over."""
    if isinstance(dense, keras.layers.EinsumDense):
        terms, result = dense.equation.split("->")
        return len(set(terms.split(",")[1]) - set(result))
    return 1


def is_product(dense):
    """Whether what `dense` does is a product, a bias and an activation, and nothing besides."""
    return dense.quantization_mode is None and dense.activity_regularizer is None


def kernel_matrix(dense):
    """The kernel of `dense` as a matrix `(K, N)`, in the dtype it computes in."""
    kernel = ops.cast(dense.kernel, dense.compute_dtype)
    return shaped(kernel, (math.prod(kernel.shape[: contracted_axes(dense)]), -1))


def shaped(x, shape):
    """`x` in `shape`, of which at most one is -1; `x` itself if it is, since each operation called eagerly is time."""
    has_it = len(x.shape) == len(shape) and all(size in (-1, known) for known, size in zip(x.shape, shape))
    return x if has_it else ops.reshape(x, shape)


def project(dense, inputs, activation=None):
    """What the `Dense` or `EinsumDense` `dense` makes of `inputs`, computed as the product of two matrices.

    Einsum with an axis of heads in the kernel is lowered to products with transposed copies around them; in a
    training step on a CPU that took longer than the products. Bias and activation come before the result takes its
    shape: TensorFlow joins the three into one operation, and the gradient of the bias is a sum over one axis.

    Args:
        activation: a function of each element by itself, after that of `dense`.
    """
    if not is_product(dense):
        y = dense(inputs)  # what the layer does besides the product is its own business
        return y if activation is None else activation(y)
    contracted, shape = contracted_axes(dense), dense.kernel.shape
    x = shaped(ops.cast(inputs, dense.compute_dtype), (-1, math.prod(shape[:contracted])))
    product = product_of(dense)
    y = ops.matmul(x, kernel_matrix(dense)) if product is None else product(x)
    if dense.bias is not None:
        y = y + shaped(ops.cast(dense.bias, y.dtype), (-1,))
    y = dense.activation(y)
    y = y if activation is None else activation(y)
    # TensorFlow has an operation for asking for a shape; called eagerly, that is time for each.
    dims = ops.shape(inputs) if None in inputs.shape else inputs.shape
    return shaped(y, (*dims[:-contracted], *shape[contracted:]))
