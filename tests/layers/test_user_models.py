"""Layers among others in the models that users write: trained, saved, exported, and loaded without this library."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_transformer.layers import (
    AlibiBias,
    DecoderBlock,
    EncoderBlock,
    GatedFeedForward,
    MultiHeadAttention,
    PositionalEncoding,
    PositionEmbedding,
    PreNorm,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's"),
]

PAGE = Path(__file__).parents[2] / "docs" / "own-models.md"
SIZES = [(1, 31), (5, 100), (3, 7)]  # of batches and lengths; models are trained on others
# Of the last process: a library that cannot be imported, neither from here nor from where it is installed.
WITHOUT_THE_LIBRARY = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "keras_transformer":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
try:
    import keras_transformer
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the library is there")
"""


def blocks_of(page):
    """The Python of a page of the documentation, block by block."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def waveforms(batch, length):
    """All but the first are shorter, and padded with zeros."""
    x = np.random.default_rng((batch, length)).normal(size=(batch, length, 3)).astype("float32")
    x[1:, 2 * length // 3 :] = 0
    return x


def in_a_fresh_process(code, directory):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_LIBRARY + code],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def assert_same_without_the_library(expected, path, tolerance, before=""):
    """What `tf.saved_model.load` and `TFSMLayer` return of the SavedModel at `path`, for each of `SIZES`."""
    directory = path.parent
    np.savez(directory / "inputs.npz", **{str(size): waveforms(*size) for size in SIZES})
    code = f"""
import keras, numpy as np, tensorflow as tf
{before}
inputs = np.load("inputs.npz")
loaded = tf.saved_model.load("{path.name}")
for name, function in (
    ("saved_model", loaded.serve),
    ("layer", keras.layers.TFSMLayer("{path.name}", call_endpoint="serve")),
):
    np.savez(name + ".npz", **{{size: np.asarray(function(x)) for size, x in inputs.items()}})
assert not [name for name in sys.modules if name.startswith("keras_transformer")]
"""
    in_a_fresh_process(code, directory)
    for name in ("saved_model", "layer"):
        with np.load(directory / f"{name}.npz") as found:
            for size in SIZES:
                np.testing.assert_allclose(found[str(size)], expected(waveforms(*size)), atol=tolerance)


# ---- the page


def test_the_page_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *here, fresh, as_a_layer = blocks_of(PAGE)
    names: dict = {}
    for block in here:
        exec(block, names)
    model, loaded, losses = names["model"], names["loaded"], names["history"]["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    x = waveforms(3, 41)
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(model(x)))
    there = f"{fresh}assert probability.shape == (5, 300, 1)\n{as_a_layer}assert probability.shape == (2, 77, 1)\n"
    assert_same_without_the_library(lambda x: np.asarray(model(x)), tmp_path / "picker", 1e-6, there)


# ---- models of each kind


def layers_before_attention():
    return [
        keras.layers.Conv1D(16, 7, padding="same", activation="relu"),
        keras.layers.Bidirectional(keras.layers.LSTM(8, return_sequences=True)),
    ]


def probability():
    return keras.layers.Dense(1, activation="sigmoid", dtype="float32")


def functional():
    """Attention to a downsampled copy of itself, so that queries and keys differ in number."""
    x = waveform = keras.Input((None, 3))
    for layer in layers_before_attention():
        x = layer(x)
    x = PositionalEncoding()(x)
    coarse = keras.layers.AveragePooling1D(4, padding="same")(x)
    x = keras.layers.LayerNormalization()(x + MultiHeadAttention(2, 8, use_gate=True, dropout=0.1)(x, coarse))
    return keras.Model(waveform, probability()(EncoderBlock(32, 2, dropout=0.1)(x)))


def sequential():
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            *layers_before_attention(),
            EncoderBlock(32, 2, position=PositionEmbedding(128), residual=PreNorm(), dropout=0.1),
            EncoderBlock(32, 2, feed_forward=GatedFeedForward(21), normalization=keras.layers.RMSNormalization()),
            probability(),
        ]
    )


@keras.saving.register_keras_serializable(package="user")
class Picker(keras.Model):
    def __init__(self, window, **kwargs):
        super().__init__(**kwargs)
        self.window = window
        self.before = layers_before_attention()
        self.attention = MultiHeadAttention(
            4, 4, num_key_value_heads=2, sliding_window=window, position=AlibiBias(), dropout=0.1
        )
        self.norm = keras.layers.LayerNormalization()
        self.probability = probability()

    def call(self, waveform, training=None):
        x = waveform
        for layer in self.before:
            x = layer(x, training=training)
        x = self.norm(x + self.attention(x, x, training=training))
        return self.probability(x)

    def get_config(self):
        return {**super().get_config(), "window": self.window}


def subclassed():
    return Picker(window=9)


def masked():
    """A mask that Keras carries from `Masking` through both blocks: to keys, and to those of the encoder."""
    waveform = keras.Input((None, 3))
    x = keras.layers.Dense(16)(keras.layers.Masking()(waveform))
    memory = EncoderBlock(32, 2, dropout=0.1, position=AlibiBias())(x)
    x = DecoderBlock(32, 2, dropout=0.1, normalize_first=True)(x, memory, use_causal_mask=False)
    return keras.Model(waveform, probability()(x))


MODELS = [
    pytest.param((functional, "mixed_bfloat16"), marks=pytest.mark.slow),
    (masked, "mixed_float16"),
    pytest.param((masked, "float32"), marks=pytest.mark.slow),
    pytest.param((functional, "mixed_float16"), marks=pytest.mark.slow),
    pytest.param((subclassed, "mixed_float16"), marks=pytest.mark.slow),
    pytest.param((subclassed, "float32"), marks=pytest.mark.slow),
    pytest.param((functional, "float32"), marks=pytest.mark.slow),
    pytest.param((subclassed, "mixed_bfloat16"), marks=pytest.mark.slow),
    pytest.param((sequential, "float32"), marks=pytest.mark.slow),
    pytest.param((sequential, "mixed_bfloat16"), marks=pytest.mark.slow),
]


@contextlib.contextmanager
def global_policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module", params=MODELS, ids=lambda param: f"{param[0].__name__}, {param[1]}")
def trained(request, tmp_path_factory):
    """The model after an epoch or more, the losses, and where it is saved and exported."""
    make, policy = request.param
    keras.utils.set_random_seed(1706)
    with global_policy(policy):
        model = make()
    rng = np.random.default_rng(0)
    is_event = np.arange(48) >= rng.integers(8, 40, (16, 1))
    x = (rng.normal(size=(16, 48, 3)) * np.where(is_event, 3, 1)[..., None]).astype("float32")
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", jit_compile=False)
    losses = model.fit(x, is_event[..., None].astype("float32"), batch_size=8, epochs=5, verbose=0).history["loss"]
    path = tmp_path_factory.mktemp("model")
    model.save(path / "model.keras")
    signature = [keras.InputSpec(shape=(None, None, 3), dtype="float32")] if make is subclassed else None
    model.export(path / "exported", input_signature=signature, verbose=False)
    return model, policy, losses, path


def test_it_learns(trained):
    model, policy, losses, _ = trained
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]
    ours = [layer for layer in model.layers if type(layer).__module__.startswith("keras_transformer")]
    assert ours and {layer.dtype_policy.name for layer in ours} == {policy}


def test_its_keras_file_predicts_the_same(trained):
    model, policy, _, path = trained
    with global_policy(policy):  # which a subclassed model that makes its layers in `__init__` gives to them
        loaded = keras.models.load_model(path / "model.keras")
    for size in SIZES:
        np.testing.assert_array_equal(np.asarray(loaded(waveforms(*size))), np.asarray(model(waveforms(*size))))


def tolerance(policy):
    # TensorFlow rounds to half precision at other places in a graph than in eager execution.
    return {"float32": 1e-6, "mixed_float16": 3e-3, "mixed_bfloat16": 0.02}[policy]


def test_its_saved_model_has_free_batch_and_length(trained):
    import tensorflow as tf

    model, policy, _, path = trained
    loaded = tf.saved_model.load(path / "exported")
    for size in SIZES:
        expected = np.asarray(model(waveforms(*size)))
        np.testing.assert_allclose(np.asarray(loaded.serve(waveforms(*size))), expected, atol=tolerance(policy))
        assert expected.shape == (*size, 1)


@pytest.mark.parametrize("trained", [(masked, "mixed_float16")], ids=["masked"], indirect=True)
def test_a_mask_lives_on_in_a_saved_model(trained):
    import tensorflow as tf

    _, policy, _, path = trained
    loaded, x = tf.saved_model.load(path / "exported"), waveforms(5, 31)
    expected = np.asarray(loaded.serve(x))
    padded = np.asarray(loaded.serve(np.pad(x, [(0, 0), (0, 9), (0, 0)])))[:, :31]
    np.testing.assert_allclose(padded, expected, atol=tolerance(policy))
    other = np.asarray(loaded.serve(np.where(x == 0, 0.1, x)))  # what is no padding counts
    assert np.abs(other - expected)[1:, :20].max() > 10 * tolerance(policy)


@pytest.mark.slow
def test_its_saved_model_needs_no_library(trained):
    model, policy, _, path = trained
    assert_same_without_the_library(lambda x: np.asarray(model(x)), path / "exported", tolerance(policy))
