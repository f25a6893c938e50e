"""The paper's learning rate."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.training import InverseSquareRoot


def equation_3(step, hidden_dim, warmup_steps):
    return hidden_dim**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


@pytest.mark.parametrize("hidden_dim, warmup_steps", [(512, 4000), (17, 13)])
def test_equation_3_of_the_paper(hidden_dim, warmup_steps):
    schedule = InverseSquareRoot.of_paper(hidden_dim, warmup_steps)
    for step in (1, 2, warmup_steps - 1, warmup_steps, warmup_steps + 1, 10 * warmup_steps):
        found = float(ops.convert_to_numpy(schedule(step)))
        np.testing.assert_allclose(found, equation_3(step, hidden_dim, warmup_steps), rtol=1e-6)  # float32
    assert float(schedule(0)) == 0.0


def test_peak_and_start():
    schedule = InverseSquareRoot(0.5, warmup_steps=4, initial_learning_rate=0.1)
    found = [float(schedule(step)) for step in (0, 1, 2, 4, 16, 100)]
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.5, 0.25, 0.1], rtol=1e-6)


def test_an_optimizer_follows_it():
    optimizer = keras.optimizers.SGD(InverseSquareRoot(0.5, warmup_steps=2))
    variable = keras.Variable(np.zeros(3, "float32"))
    for step in range(3):  # the first update is step 0, whose rate is 0
        optimizer.apply([ops.ones(3)], [variable])
        np.testing.assert_allclose(ops.convert_to_numpy(variable), -(0.0, 0.25, 0.75)[step], rtol=1e-6)


def test_config_is_the_constructor():
    schedule = InverseSquareRoot(0.5, 7, 0.1, name="rate")
    clone = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert isinstance(clone, InverseSquareRoot) and clone.get_config() == schedule.get_config()
    assert (clone.peak_learning_rate, clone.warmup_steps, clone.initial_learning_rate) == (0.5, 7, 0.1)


@pytest.mark.parametrize("warmup_steps", [0, -3])
def test_warmup_takes_steps(warmup_steps):
    with pytest.raises(ValueError, match=f"`warmup_steps` must be positive. Received: warmup_steps={warmup_steps}"):
        InverseSquareRoot(0.5, warmup_steps)
