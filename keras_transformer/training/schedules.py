"""Learning rates over steps."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_transformer")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then decay with the inverse square root of the step (Vaswani et al. 2017, equation 3).

    From `initial_learning_rate` at step 0 to `peak_learning_rate` at step `warmup_steps`, then
    `peak_learning_rate * sqrt(warmup_steps / step)`.

    Args:
        peak_learning_rate: the highest value; equation 3 is `InverseSquareRoot.of_paper(hidden_dim, warmup_steps)`.
        warmup_steps: how many updates the warm-up takes.
        initial_learning_rate: the value at step 0.
    """

    def __init__(self, peak_learning_rate, warmup_steps=4000, initial_learning_rate=0.0, name="inverse_square_root"):
        super().__init__()
        if warmup_steps <= 0:
            raise ValueError(f"`warmup_steps` must be positive. Received: warmup_steps={warmup_steps}")
        self.peak_learning_rate = peak_learning_rate
        self.warmup_steps = warmup_steps
        self.initial_learning_rate = initial_learning_rate
        self.name = name

    @classmethod
    def of_paper(cls, hidden_dim, warmup_steps=4000):
        """`hidden_dim^-0.5 min(step^-0.5, step warmup_steps^-1.5)`."""
        return cls((hidden_dim * warmup_steps) ** -0.5, warmup_steps)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = float(self.warmup_steps)
        rising = self.initial_learning_rate + (self.peak_learning_rate - self.initial_learning_rate) * step / warmup
        falling = self.peak_learning_rate * ops.sqrt(warmup / ops.maximum(step, warmup))
        return ops.where(step < warmup, rising, falling)

    def get_config(self):
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "warmup_steps": self.warmup_steps,
            "initial_learning_rate": self.initial_learning_rate,
            "name": self.name,
        }
