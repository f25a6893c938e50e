"""What the projections to and from heads compute, as products of two matrices."""

import math

from keras import ops


def as_matrix(dense, contracted):
    """The kernel of `dense` as a matrix and its bias as a vector, for `project`; nothing if that is not what it has.

    Taken before a loop and carried through it, they spare the loop's body the change of shape: XLA for CPUs joins it
    to the product with a vector, and then reads the matrix column by column, at a third of the speed.
    """
    if dense.quantization_mode is not None or dense.activity_regularizer is not None:
        return {}
    kernel = ops.cast(dense.kernel, dense.compute_dtype)
    matrix = {"kernel": shaped(kernel, (math.prod(kernel.shape[:contracted]), -1))}
    if dense.bias is not None:
        matrix["bias"] = shaped(ops.cast(dense.bias, dense.compute_dtype), (-1,))
    return matrix


def shaped(x, shape):
    """`x` in `shape`, of which at most one is -1; `x` itself if it is, since each operation called eagerly is time."""
    has_it = len(x.shape) == len(shape) and all(size in (-1, known) for known, size in zip(x.shape, shape))
    return x if has_it else ops.reshape(x, shape)


def project(dense, inputs, contracted, activation=None, matrix=None):
    """What the `Dense` or `EinsumDense` `dense` makes of `inputs`, computed as the product of two matrices.

    Einsum with an axis of heads in the kernel is lowered to products with transposed copies around them; in a
    training step on a CPU that took longer than the products. Bias and activation come before the result takes its
    shape: TensorFlow joins the three into one operation, and the gradient of the bias is a sum over one axis.

    Args:
        contracted: how many last axes of `inputs`, and first axes of the kernel, are summed over.
        activation: a function of each element by itself, after that of `dense`.
        matrix: None, or `as_matrix` of `dense`.
    """
    if dense.quantization_mode is not None or dense.activity_regularizer is not None:
        y = dense(inputs)  # what the layer does besides the product is its own business
        return y if activation is None else activation(y)
    matrix = matrix or as_matrix(dense, contracted)
    shape = dense.kernel.shape
    x = shaped(ops.cast(inputs, dense.compute_dtype), (-1, math.prod(shape[:contracted])))
    y = ops.matmul(x, matrix["kernel"])
    if "bias" in matrix:
        y = y + ops.cast(matrix["bias"], y.dtype)
    y = dense.activation(y)
    y = y if activation is None else activation(y)
    # TensorFlow has an operation for asking for a shape; called eagerly, that is time for each.
    dims = ops.shape(inputs) if None in inputs.shape else inputs.shape
    return shaped(y, (*dims[:-contracted], *shape[contracted:]))
