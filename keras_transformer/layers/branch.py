"""What may be done to a sublayer's output on its way into the residual stream, besides dropout."""

import keras
from keras import ops

from keras_transformer.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="keras_transformer")
class StochasticDepth(Dropout):
    """Drops a sublayer for whole examples (Huang et al. 2016, equation 2), which makes the depth random in training.

    While training, each example is set to zero with probability `rate`, else divided by `1 - rate`.

    Differs from the paper: it scales in inference instead (equation 5), which then is not free; and it drops a
    layer for a whole batch.

    Args:
        rate: the probability of being dropped, at least 0 and below 1.
        seed: of the draws; None: a new one.

    Call arguments:
        inputs: `(B, ...)`.

    Returns:
        `(B, ...)`; outside training `inputs` itself.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import StochasticDepth
    >>> y = np.asarray(StochasticDepth(0.5, seed=1)(np.ones((100, 3, 5)), training=True))
    >>> sorted({float(x) for x in y.min(axis=(1, 2))} | {float(x) for x in y.max(axis=(1, 2))})
    [0.0, 2.0]
    """

    def __init__(self, rate, seed=None, **kwargs):
        if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise ValueError(f"`rate` must be a probability of at least 0 and below 1. Received: rate={rate}")
        super().__init__(rate, seed=seed, **kwargs)

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        examples = (ops.shape(inputs)[0], *(1 for _ in inputs.shape[1:]))
        return inputs * super().call(ops.ones(examples, inputs.dtype), training=True)


@keras.saving.register_keras_serializable(package="keras_transformer")
class LayerScale(keras.layers.Layer):
    """`gamma * x`, with a learned number for each channel that starts near zero (Touvron et al. 2021, section 2).

    Args:
        initial_value: of `gamma`. The paper's is 0.1 up to a depth of 18, then 1e-5, and 1e-6 beyond 24.

    Call arguments:
        inputs: `(..., D)`.

    Returns:
        `(..., D)`.
    """

    def __init__(self, initial_value=1e-5, **kwargs):
        if not isinstance(initial_value, (int, float)):
            raise ValueError(f"`initial_value` must be a number. Received: initial_value={initial_value!r}")
        super().__init__(**kwargs)
        self.initial_value = initial_value
        self.supports_masking = True

    def build(self, inputs_shape):
        self.gamma = self.add_weight(
            name="gamma", shape=inputs_shape[-1:], initializer=keras.initializers.Constant(self.initial_value)
        )

    def call(self, inputs):
        return inputs * self.gamma

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {**super().get_config(), "initial_value": self.initial_value}
