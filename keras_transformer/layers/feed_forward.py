"""Position-wise feed-forward networks: the Transformer's (Vaswani et al. 2017, equation 2) and the gated ones."""

import keras

from keras_transformer.layers.arguments import check_booleans, check_positive_integers, check_rank, check_rates
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.initializers import clone_initializer
from keras_transformer.layers.projection import project
from keras_transformer.layers.quantized import QuantizableLayer
from keras_transformer.layers.rematerialization import Rematerialized, as_a_whole


@keras.saving.register_keras_serializable(package="keras_transformer")
class FeedForward(Rematerialized, QuantizableLayer):
    """`FFN(x) = activation(x W1 + b1) W2 + b2` at each position (Vaswani et al. 2017, equation 2).

    Args:
        intermediate_dim: the width `F` between the two products.
        activation: the paper's is "relu".
        dropout: rate between the two products. The paper has none there; PyTorch's layers have.
        use_bias: False, as in T5, leaves out `b1` and `b2`.

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
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integers(intermediate_dim=intermediate_dim)
        check_rates(dropout=dropout)
        check_booleans(use_bias=use_bias)
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.supports_masking = True

    @as_a_whole
    def build(self, inputs_shape):
        check_rank("inputs", inputs_shape, 2, "(..., D)")
        self._intermediate_dense = self._dense(inputs_shape, self.intermediate_dim, "intermediate_dense")
        self._output_dense = self._dense((*inputs_shape[:-1], self.intermediate_dim), inputs_shape[-1], "output_dense")
        self._dropout = Dropout(self.dropout, dtype=self.dtype_policy, name="dropout")

    def _dense(self, inputs_shape, units, name):
        dense = keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            bias_initializer=clone_initializer(self.bias_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(inputs_shape)
        return dense

    def call(self, inputs, training=None):
        x = self._intermediate(inputs)
        x = self._dropout(x, training=training)
        return project(self._output_dense, x)

    def _intermediate(self, inputs):
        return project(self._intermediate_dense, inputs, self.activation)

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_transformer")
class GatedFeedForward(FeedForward):
    """`(activation(x W + b) * (x V + c)) W2 + b2` (Shazeer 2020, "GLU Variants", equations 5 and 6).

    The activation gives it its name: "sigmoid" GLU, "gelu" GEGLU, "silu" SwiGLU, "relu" ReGLU, None the bilinear
    layer; `gelu_tanh` is T5 v1.1's.

    Differs from the paper: it has biases unless `use_bias=False`.

    Args:
        intermediate_dim: the width `F` of both factors. With two thirds of a `FeedForward`'s it has as many weights.
        activation: of the gate.
        dropout, use_bias: as in `FeedForward`.

    Call arguments:
        inputs: `(..., D)`.

    Returns:
        `(..., D)`. The weights are those of `gate_dense` (`W`), `intermediate_dense` (`V`) and `output_dense`.
    """

    def __init__(self, intermediate_dim, activation="silu", **kwargs):
        super().__init__(intermediate_dim, activation=activation, **kwargs)

    @as_a_whole
    def build(self, inputs_shape):
        self._gate_dense = self._dense(inputs_shape, self.intermediate_dim, "gate_dense")
        super().build(inputs_shape)

    def _intermediate(self, inputs):
        gate = project(self._gate_dense, inputs, self.activation)
        return gate * project(self._intermediate_dense, inputs)
