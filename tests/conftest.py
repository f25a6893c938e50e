"""What all tests share: the reference code in reach, and one seed for each test."""

import sys
from pathlib import Path

import keras
import pytest

sys.path.insert(0, str(Path(__file__).parent / "reference"))


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(1706)


def pytest_configure(config):
    # Keras 3.15 saves variables by `np.array(variable)`, whose `__array__` NumPy 2 finds out of date: not ours to mend.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't accept:DeprecationWarning")
