"""Checkpoints: a run that was cut goes on as if it had not been, and no bad file ends it."""

import keras
import numpy as np
import pytest

from keras_transformer.layers import Dropout
from keras_transformer.training import Checkpoints, Place, complete_or_absent

N, WIDTH, UNITS, BATCH = 21, 5, 7, 3
STEPS = N // BATCH


def compiled(seed, units=UNITS):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(units, activation="tanh"), Dropout(0.5), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return model


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, WIDTH)).astype("float32"), rng.normal(size=(N, 1)).astype("float32")


def train(model, epochs, initial_epoch=0, first_step=0, callbacks=()):
    x, y = (array[first_step * BATCH :] for array in data())
    model.fit(
        x,
        y,
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=list(callbacks),
    )


def state(model):
    variables = [*model.weights, *model.non_trainable_variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in variables]


def assert_same_state(model, other):
    assert len(state(model)) == len(state(other)) > len(model.weights)
    for mine, theirs in zip(state(model), state(other)):
        np.testing.assert_array_equal(mine, theirs)


class StopAfter(keras.callbacks.Callback):
    """Ctrl-C after `step` updates of `epoch`."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at, self.epoch = (epoch, step), None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def uninterrupted():
    model = compiled(seed=1)
    train(model, 3)
    return model


def test_a_run_goes_on_from_a_whole_epoch(tmp_path, uninterrupted):
    train(compiled(seed=1), 2, callbacks=[Checkpoints(tmp_path)])
    model, checkpoints = compiled(seed=2), Checkpoints(tmp_path)
    assert checkpoints.restore(model) == Place(2, 0)
    train(model, 3, initial_epoch=2, callbacks=[checkpoints])
    assert_same_state(model, uninterrupted)


def test_a_run_goes_on_from_the_middle_of_an_epoch_and_again(tmp_path, uninterrupted):
    model, checkpoints = compiled(seed=1), Checkpoints(tmp_path)
    with pytest.raises(KeyboardInterrupt, match=""):
        train(model, 3, callbacks=[checkpoints, StopAfter(1, 2)])
    assert checkpoints.save_place() == Place(1, 2)

    model, checkpoints = compiled(seed=2), Checkpoints(tmp_path)
    assert checkpoints.restore(model) == Place(1, 2)
    with pytest.raises(KeyboardInterrupt, match=""):
        train(model, 2, initial_epoch=1, first_step=2, callbacks=[checkpoints, StopAfter(1, 3)])
    assert checkpoints.save_place() == Place(1, 5)

    model, checkpoints = compiled(seed=3), Checkpoints(tmp_path)
    assert checkpoints.restore(model) == Place(1, 5)
    train(model, 2, initial_epoch=1, first_step=5, callbacks=[checkpoints])
    assert not (tmp_path / "interrupted.npz").exists()
    train(model, 3, initial_epoch=2, callbacks=[checkpoints])
    assert_same_state(model, uninterrupted)
    assert [path.name for path in checkpoints.epochs()] == ["epoch-0001.npz", "epoch-0002.npz", "epoch-0003.npz"]


def test_only_the_last_epochs_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    train(compiled(seed=1), 5, callbacks=[checkpoints])
    assert [path.name for path in checkpoints.epochs()] == ["epoch-0004.npz", "epoch-0005.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0004.npz", "epoch-0005.npz"]


def test_nothing_to_restore_leaves_the_model_alone(tmp_path):
    model = compiled(seed=1)
    before = model.get_weights()
    assert Checkpoints(tmp_path / "none").restore(model) == Place(0, 0)
    for mine, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(mine, theirs)
    assert len(before) == 4


@pytest.mark.parametrize("length", [0, 10, 1000, -1])
def test_a_truncated_file_is_passed_over_for_the_one_before(tmp_path, capsys, length):
    train(compiled(seed=1), 2, callbacks=[Checkpoints(tmp_path)])
    newest = tmp_path / "epoch-0002.npz"
    newest.write_bytes(newest.read_bytes()[:length])
    model, expected = compiled(seed=2), compiled(seed=1)
    assert Checkpoints(tmp_path).restore(model) == Place(1, 0)
    assert "epoch-0002.npz cannot be read" in capsys.readouterr().out
    train(expected, 1)
    assert_same_state(model, expected)


def test_a_file_of_another_model_is_refused(tmp_path):
    train(compiled(seed=1), 1, callbacks=[Checkpoints(tmp_path)])
    other = compiled(seed=1, units=11)
    before = state(other)
    with pytest.raises(ValueError, match="epoch-0001.npz is of another model or optimizer: it holds 1[0-9] arrays"):
        Checkpoints(tmp_path).restore(other)
    for mine, theirs in zip(state(other), before):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("last, first", [(None, 0), (2, 1), (1, 2)])
def test_the_average_is_numpys_mean(tmp_path, last, first):
    model, checkpoints, weights = compiled(seed=1), Checkpoints(tmp_path), []
    for epoch in range(3):
        train(model, epoch + 1, initial_epoch=epoch, callbacks=[checkpoints])
        weights.append(model.get_weights())
    assert checkpoints.average(model, last) == 3 - first
    for mine, *theirs in zip(model.get_weights(), *weights[first:]):
        expected = np.mean([w.astype("float64") for w in theirs], axis=0)
        np.testing.assert_allclose(mine, expected, rtol=1e-7)  # rounded once to float32


def test_there_must_be_something_to_average(tmp_path):
    with pytest.raises(ValueError, match=f"no epoch to average in {tmp_path}"):
        Checkpoints(tmp_path).average(compiled(seed=1))


def test_something_must_be_kept(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be at least 1. Received: keep=0"):
        Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_complete_or_absent(tmp_path, kind):
    path = tmp_path / "new" / "result"

    def write(temporary):
        if kind == "directory":
            temporary.mkdir()
            temporary = temporary / "inner"
        temporary.write_text("half")

    with pytest.raises(OSError, match="disk full"), complete_or_absent(path) as temporary:
        write(temporary)
        raise OSError("disk full")
    assert list(path.parent.iterdir()) == []
    with complete_or_absent(path) as temporary:
        write(temporary)
        assert not path.exists()
    assert list(path.parent.iterdir()) == [path]
    assert (path / "inner" if kind == "directory" else path).read_text() == "half"


def test_an_error_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), complete_or_absent(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
