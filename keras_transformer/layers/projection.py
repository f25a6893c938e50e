"""What the projections to and from heads compute, as products of two matrices."""

import math

from keras import ops


def project(dense, inputs, contracted):
    """What the `EinsumDense` `dense` makes of `inputs`, computed as the product of two matrices.

    Einsum with an axis of heads in the kernel is lowered to products with transposed copies around them; in a
    training step on a CPU that took longer than the products.

    Args:
        contracted: how many last axes of `inputs`, and first axes of the kernel, are summed over.
    """
    if dense.quantization_mode is not None or dense.activity_regularizer is not None:
        return dense(inputs)  # what the layer does besides the product is its own business
    kernel, x = (ops.cast(a, dense.compute_dtype) for a in (dense.kernel, inputs))
    width = math.prod(kernel.shape[:contracted])
    y = ops.matmul(ops.reshape(x, (-1, width)), ops.reshape(kernel, (width, -1)))
    if dense.bias is not None:
        y = y + ops.reshape(ops.cast(dense.bias, y.dtype), (-1,))
    return dense.activation(ops.reshape(y, (*ops.shape(inputs)[:-contracted], *kernel.shape[contracted:])))
