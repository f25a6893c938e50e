"""Position-wise feed-forward network (Vaswani et al. 2017, equation 2)."""

import keras

from keras_transformer.layers.attention import project
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.initializers import clone_initializer


@keras.saving.register_keras_serializable(package="keras_transformer")
class FeedForward(keras.layers.Layer):
    """`FFN(x) = activation(x W1 + b1) W2 + b2` at each position (Vaswani et al. 2017, equation 2).

    Args:
        intermediate_dim: the width `F` between the two products.
        activation: the paper's is "relu".
        dropout: rate between the two products. The paper has none there; PyTorch's layers have.

    Call arguments:
        inputs: `(..., D)`.

    Returns:
        `(..., D)`.
    """

    def __init__(
        self,
        intermediate_dim,
        activation="relu",
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(intermediate_dim, int) or intermediate_dim <= 0:
            raise ValueError(
                f"`intermediate_dim` must be a positive integer. Received: intermediate_dim={intermediate_dim}"
            )
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.supports_masking = True

    def build(self, inputs_shape):
        def dense(units, name, **kwargs):
            return keras.layers.Dense(
                units,
                kernel_initializer=clone_initializer(self.kernel_initializer),
                bias_initializer=clone_initializer(self.bias_initializer),
                dtype=self.dtype_policy,
                name=name,
                **kwargs,
            )

        self._intermediate_dense = dense(self.intermediate_dim, "intermediate_dense", activation=self.activation)
        self._intermediate_dense.build(inputs_shape)
        self._output_dense = dense(inputs_shape[-1], "output_dense")
        self._output_dense.build((*inputs_shape[:-1], self.intermediate_dim))
        self._dropout = Dropout(self.dropout, dtype=self.dtype_policy, name="dropout")

    def call(self, inputs, training=None):
        x = project(self._intermediate_dense, inputs, 1)
        x = self._dropout(x, training=training)
        return project(self._output_dense, x, 1)

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }
