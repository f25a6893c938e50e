"""Initial values of kernels that carry a heads axis."""

import math

import keras


def clone_initializer(initializer):
    """A fresh copy: one initializer object used twice would give two kernels the same values."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    return initializer.__class__.from_config(initializer.get_config())


@keras.saving.register_keras_serializable(package="keras_transformer")
class ProjectionGlorotUniform(keras.initializers.RandomUniform):
    """Glorot's uniform for projections to and from heads, seen as the matrices they are.

    Keras's own "glorot_uniform" reads a kernel `(D, H, K)` as a convolution of window `D`, which makes attention's
    kernels up to `sqrt(H)` times and more too small. Here `(D, H, K)` counts as `D x HK` and `(H, K, D)` as
    `HK x D`, told apart by which of the two is nearer to a square. The limit is `sqrt(6 / (fan_in + fan_out))`
    (Glorot and Bengio 2010, equation 16).
    """

    def __init__(self, seed=None):
        super().__init__(seed=seed)

    def __call__(self, shape, dtype=None):
        fans = min(math.prod(shape[:cut]) + math.prod(shape[cut:]) for cut in range(1, len(shape)))
        limit = math.sqrt(6.0 / fans)
        return keras.random.uniform(shape, minval=-limit, maxval=limit, seed=self.seed, dtype=dtype)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}
