"""Two replicas of `tf.distribute.MirroredStrategy` against one replica on the joined batch, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("replicas")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("replicas.py"), directory],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def trained(directory):
    return lambda case, replicas: np.load(directory / f"{case}-{replicas}.npz")


@pytest.mark.parametrize("case", ["smoothed", "linear", "constant", "crf"])
def test_two_replicas_are_one(trained, case):
    one, two = trained(case, 1), trained(case, 2)
    weights = [name for name in one.files if name.startswith("weight")]
    assert len(weights) > 20
    for name in weights:
        # Sums of float32 in another order, four steps of 0.5.
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6)
    for name in {"cross_entropy", "accuracy"} & set(one.files):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4)


def test_training_changes_the_weights(trained):
    """Else the test above shows nothing."""
    weights = {case: trained(case, 2)["weight-000"] for case in ("smoothed", "constant", "crf", "dropout")}
    start = np.random.default_rng(0).normal(0, 0.3, weights["smoothed"].shape)
    assert all(np.abs(w - start).max() > 1e-3 for w in weights.values())


def test_replicas_train_with_dropout(trained):
    assert all(np.isfinite(trained("dropout", 2)[name]).all() for name in trained("dropout", 2).files)


def test_accumulated_gradients_are_refused(directory):
    refusal = (directory / "refusal.txt").read_text()
    assert "Received: gradient_accumulation_steps=2 with 2 replicas" in refusal
    assert "keras.RematScope" in refusal and "keras.distribution" in refusal
