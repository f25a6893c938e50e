"""What all tests share: the reference code in reach, and one seed for each test."""

import gc
import os
import random
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes fill the cores: more threads in each would only take turns.
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

import keras
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "reference"))


keras.utils.set_random_seed(1706)


@pytest.fixture(autouse=True)
def seed():
    # What a layer draws its own seed from. `set_random_seed` would also forget all kernels that TensorFlow has.
    random.seed(1706)
    np.random.seed(1706)


def pytest_configure(config):
    # What TensorFlow and Keras have imported by now lives to the end, and is a lot to look through at each collection.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    # Keras 3.15 saves variables by `np.array(variable)`, whose `__array__` NumPy 2 finds out of date: not ours to mend.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't accept:DeprecationWarning")
