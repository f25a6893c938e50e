"""A run killed at any step and started again logs the losses of one that was not, bit for bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_transformer.training import BackupAndResume

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
STEPS, BATCH = 5, 2

RUN = """
import json, os, signal, sys, threading
import keras, numpy as np
from keras_transformer.training import BackupAndResume

def run(folder, kill, kind):
    keras.utils.set_random_seed(1)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        tf.config.experimental.enable_op_determinism()
    if kind == "half":
        keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7, "tanh"), keras.layers.Dropout(0.4),
                              keras.layers.Dense(1)])
    adam = keras.optimizers.Adam(0.01, use_ema=kind == "ema", ema_momentum=0.5,
                                 gradient_accumulation_steps=2 if kind == "accumulation" else None)
    if kind == "half":  # a scale that is too large at first, and grows again after three steps without an overflow
        adam = keras.optimizers.LossScaleOptimizer(adam, initial_scale=2.0**18, dynamic_growth_steps=3)
    model.compile(adam, "mse", metrics=["mae"])
    backup = BackupAndResume(f"{folder}/run", save_freq=2)
    x = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
    y = np.random.default_rng(1).normal(size=(10, 1)).astype("float32")
    seen = [0]

    class Log(keras.callbacks.Callback):
        def write(self, *what):
            with open(f"{folder}/log", "a") as file:
                print(json.dumps(what), file=file)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            self.write(self.epoch, batch, logs)
            seen[0] += 1
            if kill and seen[0] == kill[0]:
                threading.Timer(kill[1], os.kill, (os.getpid(), signal.SIGKILL)).start()

        def on_epoch_end(self, epoch, logs=None):
            self.write(epoch, "end", logs)

    data = {"x": x, "y": y, "batch_size": 2, "shuffle": kind == "shuffled"}
    if kind == "reshuffled":
        import tensorflow as tf
        data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).shuffle(7, seed=3).batch(2).prefetch(2)}
    history = model.fit(**data, epochs=3, initial_epoch=backup.initial_epoch, verbose=0,
                        validation_data=(x, y), callbacks=[backup, Log()])
    state = [keras.ops.convert_to_numpy(v).tolist() for v in (*model.variables, *model.optimizer.variables)]
    print(json.dumps([history.epoch, history.history, state]), flush=True)

for folder, kill, kind in json.loads(sys.argv[1]):  # each in a process of its own, which only shares the imports
    child = os.fork()
    if not child:
        run(folder, kill, kind)
        os._exit(0)
    print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def logged(folder):
    """What was logged at each place, and that nothing else was logged there when the place was passed again."""
    seen: dict = {}
    for line in (folder / "log").read_text().splitlines():
        epoch, step, logs = json.loads(line)
        assert seen.setdefault((epoch, step), logs) == logs
    return seen


def assert_resumes(tmp_path, kind, kills):
    """Kills come some seconds after the end of a step, counted in each run anew."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    jobs = [(str(whole), None, kind), *((str(killed), kill, kind) for kill in (*kills, None))]
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(jobs)], capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    exits = [line for line in lines if line.startswith("exit")]
    # A kill may come when the run is over, or finds it over.
    assert exits[0] == exits[-1] == "exit 0" and set(exits) <= {"exit 0", "exit -9"}, done.stderr[-3000:]
    assert exits.count("exit -9") > len(kills) // 2
    assert any("Going on in epoch" in line for line in lines)
    assert not any("another batch than" in line for line in lines)
    ends = [line for line in lines if line.startswith("[[")]
    assert len(ends) >= 2 and set(ends) == {ends[0]}
    assert logged(killed) == logged(whole) and len(logged(whole)) == 3 * 6


def random_kills(seed, count):
    draw = random.Random(seed)
    return [(draw.randrange(1, 5), draw.uniform(0, 0.02)) for _ in range(count)]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's iterators")


@needs_fork
def test_killed_a_run_goes_on_bit_for_bit(tmp_path):
    assert_resumes(tmp_path, "ema", [(random.Random(0).randrange(4, 12), 0.0)])


@needs_fork
@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(tmp_path):
    assert_resumes(tmp_path, "plain", random_kills("plain", 20))


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half", "ema", "accumulation", "shuffled"])
def test_killed_five_times_at_random_moments(tmp_path, kind):
    assert_resumes(tmp_path, kind, random_kills(kind, 5))


@needs_fork
@on_tensorflow
@pytest.mark.slow
def test_a_shuffle_that_reshuffles_is_resumed(tmp_path):
    assert_resumes(tmp_path, "reshuffled", random_kills("reshuffled", 5))


def fit(directory, epochs=1, optimizer="sgd", x=None, callbacks=()):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", run_eagerly=True)
    backup = BackupAndResume(directory, save_freq=2)
    x = np.ones((STEPS * BATCH, 3), "float32") if x is None else x
    model.fit(
        x, x[:, :1], batch_size=BATCH, shuffle=False, epochs=epochs, initial_epoch=backup.initial_epoch, verbose=0,
        callbacks=[backup, *callbacks],
    )  # fmt: skip
    return backup


def test_the_newest_are_kept(tmp_path):
    backup = fit(tmp_path, epochs=2)
    assert [path.name for path in backup.files()] == ["epoch-0002-step-00000000.npz", "epoch-0001-step-00000004.npz"]


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_file_cut_short_is_passed_over(tmp_path, capsys, length):
    newest = fit(tmp_path, epochs=2).files()[0]
    newest.write_bytes(newest.read_bytes()[:length])
    assert BackupAndResume(tmp_path).initial_epoch == 1
    assert "epoch-0002-step-00000000.npz cannot be read" in capsys.readouterr().out


def test_nan_in_the_data_leaves_the_file_before_it(tmp_path, capsys):
    x = np.ones((STEPS * BATCH, 3), "float32")
    x[5] = np.nan
    backup = fit(tmp_path, x=x)
    assert [path.name for path in backup.files()] == ["epoch-0000-step-00000002.npz"]
    assert capsys.readouterr().out.count("the weights are no numbers any more") == 2


def test_a_full_disk_is_one_line_and_no_file(tmp_path, capsys):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        backup = fit(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().out.strip().splitlines()
    assert backup.files() == [] and list(tmp_path.iterdir()) == []
    assert len([line for line in said if "could not be written: File too large" in line]) == 3


@on_tensorflow
def test_an_order_that_starts_again_is_told(tmp_path, capsys):
    def batches():
        # As a `shuffle` of which TensorFlow cannot save the state: this process knows nothing of the one before.
        rows = np.random.default_rng(0)
        data = tf.data.Dataset.from_generator(
            lambda: iter(rows.normal(size=(3, BATCH, 3)).astype("float32")),
            output_signature=tf.TensorSpec((BATCH, 3), "float32"),
        )
        return data.map(lambda x: (x, x[:, :1])).apply(tf.data.experimental.assert_cardinality(3))

    def run(epochs):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        backup = BackupAndResume(tmp_path)
        model.fit(
            batches(), epochs=epochs, initial_epoch=backup.initial_epoch, shuffle=False, verbose=0, callbacks=[backup]
        )
        return capsys.readouterr().out

    tf = pytest.importorskip("tensorflow")
    assert run(epochs=3) == ""
    assert "Epoch 4 begins with another batch than in a run that was not stopped" in run(epochs=5)


def test_another_optimizer_is_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError, match="of another model or optimizer: it holds 4 arrays, this run 8"):
        fit(tmp_path, epochs=2, optimizer="adam")


def test_fit_must_begin_where_the_run_is(tmp_path):
    fit(tmp_path)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="has come to epoch 1, and `fit` begins with 0"):
        model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0, callbacks=[BackupAndResume(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"save_freq": 0}, "Received: save_freq=0"), ({"keep": 0}, "Received: keep=0")],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        BackupAndResume(tmp_path, **arguments)


def test_there_is_one_loss_scale(tmp_path):
    def optimizer():  # a `LossScaleOptimizer` that is built twice has two
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), dynamic_growth_steps=2)

    fit(tmp_path, optimizer=optimizer())
    backup = fit(tmp_path, epochs=2, optimizer=optimizer())
    assert backup.initial_epoch == 2
    scaled = backup.model.optimizer
    names = [variable.name for variable in scaled.variables]
    assert names.count("dynamic_scale") == 1
    assert float(scaled.dynamic_scale) == 2.0 ** (15 + 2 * STEPS // 2)
