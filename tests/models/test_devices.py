"""`keras.distribution` on JAX with eight host devices, against one, in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_transformer.models import layout_map

MODELS = ["transformer", "transformer_linear", "causal_lm", "masked_lm", "crf_tagger", "classifier"]
HEADS, FEED_FORWARD, VOCABULARY = 4, 12, 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    directory = tmp_path_factory.mktemp("devices")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("eight_devices.py"), directory],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return lambda model, way: (
        np.load(directory / f"{model}-{way}.npz"),
        json.loads((directory / f"{model}-{way}.json").read_text()),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, way",
    [("transformer_linear", "data"), ("transformer_linear", "model"), ("causal_lm", "model"), ("masked_lm", "model")],
)
def test_several_devices_are_one(trained, model, way):
    (one, _), (several, _) = trained(model, "one"), trained(model, way)
    assert len(one.files) > 15
    for name in one.files:
        # Sums of float32 in another order, four steps of 0.5.
        np.testing.assert_allclose(several[name], one[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_heads_feed_forward_and_vocabulary_are_split(trained, model):
    _, parts = trained(model, "model")
    split = {path: part for path, shape, part in parts if shape != part}
    for path, shape, part in parts:
        expected = [n // 4 if n in (HEADS, FEED_FORWARD, VOCABULARY) else n for n in shape]
        assert part == expected, path
    assert any("momentum" in path for path in split)  # as are the optimizer's averages


def test_the_axis_must_be_one_of_the_mesh():
    mesh = keras.distribution.DeviceMesh((1,), ("batch",), devices=["cpu:0"])
    with pytest.raises(ValueError, match=r"model_axis='model', a mesh of the axes \['batch'\]"):
        layout_map(mesh)
