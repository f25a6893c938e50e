"""Two processes on loopback, joined by `keras.distribution.initialize`, against one process on the joined batches."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_two_processes_are_one(tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(process, processes):
        command = [sys.executable, SCRIPT, str(process), str(processes), str(port), tmp_path / f"{processes}.npz"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    for run in ([start(0, 2), start(1, 2)], [start(0, 1)]):
        for process in run:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
    one, two = np.load(tmp_path / "1.npz"), np.load(tmp_path / "2.npz")
    assert two["devices"] == 2 and one["devices"] == 1
    for name in one.files:
        if name != "devices":
            # Sums of float32 in another order, four steps of 0.5.
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6)
