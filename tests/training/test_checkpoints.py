"""Checkpoints: a run that was cut goes on as if it had not been, and no bad file ends it."""

import shutil

import keras
import numpy as np
import pytest
from tiers import slow_but

from keras_transformer.layers import Dropout
from keras_transformer.training import Checkpoints, Place, complete_or_absent

pytestmark = pytest.mark.integration

N, WIDTH, UNITS, BATCH = 15, 5, 7, 3


def compiled(seed, units=UNITS):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(units, activation="tanh"), Dropout(0.5)]
    if keras.backend.backend() != "torch":  # where Keras drops by PyTorch's own random state, not by its seed
        layers.append(keras.layers.Dropout(0.3))
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", run_eagerly=True)
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
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


def assert_state(model, expected):
    assert len(state(model)) == len(expected) > len(model.weights)
    for mine, theirs in zip(state(model), expected):
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
            raise KeyboardInterrupt("stop")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of 3 epochs: its directory, its state after each of them, and its weights."""
    directory, model, states, weights = tmp_path_factory.mktemp("run"), compiled(seed=1), [], []

    def remember(epoch, logs):
        states.append(state(model))
        weights.append(model.get_weights())

    train(model, 3, callbacks=[Checkpoints(directory), keras.callbacks.LambdaCallback(on_epoch_end=remember)])
    return directory, states, weights


@pytest.fixture
def run(tmp_path, uninterrupted):
    """A directory of one's own with these files."""
    return shutil.copytree(uninterrupted[0], tmp_path / "run")


def test_a_run_goes_on_from_a_whole_epoch(run, uninterrupted):
    (run / "epoch-0003.npz").unlink()
    model, checkpoints = compiled(seed=2), Checkpoints(run)
    assert checkpoints.restore(model) == Place(2, 0)
    assert_state(model, uninterrupted[1][1])
    train(model, 3, initial_epoch=2, callbacks=[checkpoints])
    assert_state(model, uninterrupted[1][2])


def test_a_run_goes_on_from_the_middle_of_an_epoch_and_again(tmp_path, uninterrupted):
    model, checkpoints = compiled(seed=1), Checkpoints(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        train(model, 3, callbacks=[checkpoints, StopAfter(1, 2)])
    assert checkpoints.save_place() == Place(1, 2)

    model, checkpoints = compiled(seed=2), Checkpoints(tmp_path)
    assert checkpoints.restore(model) == Place(1, 2)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        train(model, 2, initial_epoch=1, first_step=2, callbacks=[checkpoints, StopAfter(1, 1)])
    assert checkpoints.save_place() == Place(1, 3)

    model, checkpoints = compiled(seed=3), Checkpoints(tmp_path)
    assert checkpoints.restore(model) == Place(1, 3)
    train(model, 2, initial_epoch=1, first_step=3, callbacks=[checkpoints])
    assert not (tmp_path / "interrupted.npz").exists()
    train(model, 3, initial_epoch=2, callbacks=[checkpoints])
    assert_state(model, uninterrupted[1][2])
    assert [path.name for path in checkpoints.epochs()] == ["epoch-0001.npz", "epoch-0002.npz", "epoch-0003.npz"]


class StopInValidation(keras.callbacks.Callback):
    """Ctrl-C after an epoch's last update."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.stop)

    def stop(self, *args, **kwargs):
        raise KeyboardInterrupt("stop")


HOOKS = ["on_test_begin", "on_test_batch_end", "on_test_end", "on_epoch_end"]


@pytest.mark.parametrize("hook", slow_but(["on_test_batch_end", "on_epoch_end"], HOOKS))
def test_an_epoch_stopped_in_validation_is_whole(tmp_path, uninterrupted, hook):
    model, checkpoints = compiled(seed=1), Checkpoints(tmp_path)
    x, y = data()
    with pytest.raises(KeyboardInterrupt, match="stop"):
        model.fit(
            x,
            y,
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            validation_data=(x, y),
            callbacks=[checkpoints, StopInValidation(hook)],
        )
    assert checkpoints.save_place() == Place(1, 0)
    assert [path.name for path in checkpoints.files()] == ["epoch-0001.npz"]

    model, checkpoints = compiled(seed=2), Checkpoints(tmp_path)
    assert checkpoints.restore(model) == Place(1, 0)
    assert_state(model, uninterrupted[1][0])
    train(model, 3, initial_epoch=1, callbacks=[checkpoints])
    assert_state(model, uninterrupted[1][2])


def test_an_epoch_stopped_after_its_last_update_is_whole(tmp_path, uninterrupted):
    model, checkpoints = compiled(seed=1), Checkpoints(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        train(model, 3, callbacks=[checkpoints, StopAfter(1, N // BATCH)])
    assert checkpoints.save_place() == Place(2, 0)
    assert [path.name for path in checkpoints.files()] == ["epoch-0002.npz", "epoch-0001.npz"]
    assert_state(model, uninterrupted[1][1])


def test_what_a_kill_left_half_saved_is_removed(run):
    (run / ".0123abcd-epoch-0004.npz").write_bytes(b"half")
    assert Checkpoints(run).restore(compiled(seed=2)) == Place(3, 0)
    assert sorted(path.name for path in run.iterdir()) == ["epoch-0001.npz", "epoch-0002.npz", "epoch-0003.npz"]


def test_only_the_last_epochs_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    train(compiled(seed=1), 3, callbacks=[checkpoints])
    assert [path.name for path in checkpoints.epochs()] == ["epoch-0002.npz", "epoch-0003.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0002.npz", "epoch-0003.npz"]


def test_nothing_to_restore_leaves_the_model_alone(tmp_path):
    model = compiled(seed=1)
    before = model.get_weights()
    assert Checkpoints(tmp_path / "none").restore(model) == Place(0, 0)
    for mine, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(mine, theirs)
    assert len(before) == 4


@pytest.mark.parametrize("length", [0, 10, 1000, -1])
def test_a_truncated_file_is_passed_over_for_the_one_before(run, uninterrupted, capsys, length):
    newest = run / "epoch-0003.npz"
    newest.write_bytes(newest.read_bytes()[:length])
    model = compiled(seed=2)
    assert Checkpoints(run).restore(model) == Place(2, 0)
    assert "epoch-0003.npz cannot be read" in capsys.readouterr().out
    assert_state(model, uninterrupted[1][1])


def test_a_file_of_another_model_is_refused(run):
    other = compiled(seed=1, units=11)
    other.optimizer.build(other.trainable_variables)
    before = state(other)
    with pytest.raises(ValueError, match="epoch-0003.npz is of another model or optimizer: it holds 1[0-9] arrays"):
        Checkpoints(run).restore(other)
    assert_state(other, before)


@pytest.mark.parametrize("last, first", [(None, 0), (2, 1), (1, 2)])
def test_the_average_is_numpys_mean(run, uninterrupted, last, first):
    model = compiled(seed=2)
    assert Checkpoints(run).average(model, last) == 3 - first
    for mine, *theirs in zip(model.get_weights(), *uninterrupted[2][first:]):
        expected = np.mean([w.astype("float64") for w in theirs], axis=0)
        np.testing.assert_allclose(mine, expected, rtol=1e-7)  # rounded once to float32
    assert len(model.get_weights()) == 4


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
    with complete_or_absent(path) as temporary:  # takes the place of the first
        write(temporary)
    assert list(path.parent.iterdir()) == [path]
    assert (path / "inner" if kind == "directory" else path).read_text() == "half"


def test_an_error_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    message = "result could not be written: No space left on device. Free some space"
    with pytest.raises(OSError, match=message), complete_or_absent(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
