"""What the projections to and from heads compute, as products of two matrices."""

import math

from keras import ops


def project(dense, inputs, contracted, activation=None):
    """What the `Dense` or `EinsumDense` `dense` makes of `inputs`, computed as the product of two matrices.

    Einsum with an axis of heads in the kernel is lowered to products with transposed copies around them; in a
    training step on a CPU that took longer than the products. Bias and activation come before the result takes its
    shape: TensorFlow joins the three into one operation, and the gradient of the bias is a sum over one axis.

    Args:
        contracted: how many last axes of `inputs`, and first axes of the kernel, are summed over.
        activation: a function of each element by itself, after that of `dense`.
    """
    if dense.quantization_mode is not None or dense.activity_regularizer is not None:
        y = dense(inputs)  # what the layer does besides the product is its own business
        return y if activation is None else activation(y)
    kernel, x = (ops.cast(a, dense.compute_dtype) for a in (dense.kernel, inputs))
    shape = kernel.shape
    width = math.prod(shape[:contracted])
    kernel = kernel if len(shape) == 2 else ops.reshape(kernel, (width, -1))
    y = ops.matmul(ops.reshape(x, (-1, width)), kernel)
    if dense.bias is not None:
        bias = ops.cast(dense.bias, y.dtype)
        y = y + (bias if len(bias.shape) == 1 else ops.reshape(bias, (-1,)))
    y = dense.activation(y)
    y = y if activation is None else activation(y)
    # TensorFlow has an operation for asking for a shape; called eagerly, that is time for each.
    dims = ops.shape(inputs) if None in inputs.shape else inputs.shape
    return ops.reshape(y, (*dims[:-contracted], *shape[contracted:]))
