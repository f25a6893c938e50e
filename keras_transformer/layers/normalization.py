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
    """`keras.layers.LayerNormalization`: the same arguments, weights and values.

    On TensorFlow and over the last axis of three it is faster: there Keras's own makes passes over arrays of the
    input's size where the rows' statistics would do. PyTorch has a fused kernel, which Keras calls.
    """

    def call(self, inputs):
        axis = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        written_out = (
            self.center and self.scale and not self.rms_scaling and len(inputs.shape) == 3 and axis[0] in (-1, 2)
        )
        if keras.backend.backend() != "tensorflow" or not written_out or len(axis) != 1:
            return super().call(inputs)
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        # A variable as such is not an argument that `custom_gradient` takes.
        gamma, beta = (ops.reshape(ops.cast(weight, dtype), (-1,)) for weight in (self.gamma, self.beta))
        return ops.cast(layer_norm(ops.cast(inputs, dtype), gamma, beta, self.epsilon), self.compute_dtype)
