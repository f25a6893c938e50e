"""Layer normalisation (Ba et al. 2016, equation 4) with a gradient in fewer passes over memory."""

import keras
from keras import ops


def layer_norm(x, gamma, beta, epsilon):
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, mean and variance over the last axis.

    The gradient is written out: with `n` the normalised `x` and `g = gamma * dy`,
    `dx = (g - mean(g) - n mean(g n)) / sqrt(variance + epsilon)`, and all sums are products with a matrix. Sums of
    products are what XLA on a CPU is slowest at.

    Args:
        x: `(B, T, D)`, float32 or wider.
        gamma, beta: `(D,)`, of the dtype of `x`.

    Returns:
        `(B, T, D)`.
    """

    @ops.custom_gradient
    def normalize(x, gamma, beta):
        mean = ops.mean(x, axis=-1, keepdims=True)
        centered = x - mean
        variance = ops.mean(centered * centered, axis=-1, keepdims=True)
        inverse = ops.rsqrt(variance + epsilon)

        def gradient(*args, upstream=None):
            dy = args[0] if upstream is None else upstream
            normalized = (x - mean) * inverse
            product = dy * normalized
            batch, length, width = ops.shape(x)
            weights = ops.broadcast_to(ops.reshape(gamma, (1, width, 1)) / width, (batch, width, 1))
            dx = inverse * (dy * gamma - ops.matmul(dy, weights) - normalized * ops.matmul(product, weights))
            ones = ops.ones((batch, 1, length), x.dtype)
            return dx, ops.sum(ops.matmul(ones, product), axis=(0, 1)), ops.sum(ops.matmul(ones, dy), axis=(0, 1))

        return centered * inverse * gamma + beta, gradient

    return normalize(x, gamma, beta)


@keras.saving.register_keras_serializable(package="keras_transformer")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization`: the same arguments, weights and values, faster on TensorFlow.

    That is so over the last axis of three, with gain and bias; everything else is Keras's own. PyTorch has a fused
    kernel, which Keras calls.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers.normalization import LayerNormalization
    >>> tuple(LayerNormalization()(np.ones((2, 3, 8))).shape)
    (2, 3, 8)
    """

    def call(self, inputs):
        over_last = len(inputs.shape) == 3 and self.axis in (-1, 2, [-1], [2])
        ours = over_last and self.center and self.scale and not self.rms_scaling
        if not ours or keras.backend.backend() != "tensorflow":
            return super().call(inputs)
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        # A variable as such is no argument that `custom_gradient` takes: a cast reads it.
        gamma, beta = (ops.cast(weight, dtype) for weight in (self.gamma, self.beta))
        return ops.cast(layer_norm(ops.cast(inputs, dtype), gamma, beta, self.epsilon), self.compute_dtype)
