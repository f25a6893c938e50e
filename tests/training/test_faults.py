"""What goes wrong in a long run: each is told in one line, and what was saved before is there and whole."""

import os
import shutil
import signal
import subprocess

import keras
import numpy as np
import pytest

from keras_transformer.training import BackupAndResume, Checkpoints

STEPS, BATCH = 6, 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB: a file below has about 100 KB, the batches that are drawn ahead among it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() or shutil.which("mount") is None:
        pytest.skip("mounting a file system needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def compiled():
    keras.utils.set_random_seed(1)
    # 3 x 1,500 weights and as many biases: 24 KB.
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1500)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def fit(model, callbacks, epochs=1, initial_epoch=0):
    x = np.ones((STEPS * BATCH, 3), "float32")
    y = np.ones((STEPS * BATCH, 1500), "float32")
    model.fit(
        x, y, batch_size=BATCH, shuffle=False, epochs=epochs, initial_epoch=initial_epoch, verbose=0,
        callbacks=callbacks,
    )  # fmt: skip
    return [keras.ops.convert_to_numpy(variable) for variable in model.variables]


class FillDisk(keras.callbacks.Callback):
    def __init__(self, folder, epoch):
        super().__init__()
        self.folder, self.epoch = folder, epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            with pytest.raises(OSError, match="No space left"), open(self.folder / "filler", "wb") as file:
                while True:
                    file.write(b"0" * 512)
                    file.flush()


def test_on_a_full_disk_a_run_goes_on_and_can_be_resumed(small_disk, capsys):
    backup = BackupAndResume(small_disk)
    after = fit(compiled(), [backup, FillDisk(small_disk, epoch=2)], epochs=3)
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    full = [line for line in said if "could not be written: No space left on device" in line]
    assert full and full == said  # one line for each file, and no other
    saved = backup.files()
    assert saved and {path.name for path in small_disk.iterdir()} == {path.name for path in saved} | {"filler"}
    (small_disk / "filler").unlink()
    again = BackupAndResume(small_disk)
    resumed = fit(compiled(), [again], epochs=3, initial_epoch=again.initial_epoch)
    for ours, theirs in zip(resumed, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_on_a_full_disk_checkpoints_end_the_run_in_one_line(small_disk):
    checkpoints = Checkpoints(small_disk, keep=5)
    model = compiled()
    with pytest.raises(OSError, match="could not be written: No space left on device. Free some space") as caught:
        fit(model, [checkpoints, FillDisk(small_disk, epoch=1)], epochs=3)
    assert "\n" not in str(caught.value)
    assert [path.name for path in checkpoints.files()] == ["epoch-0001.npz"]
    assert checkpoints.restore(compiled()).epoch == 1


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def interrupts():
    """Python's handling of SIGINT, which a shell's background job has not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_after_an_interrupt_the_same_model_and_another_go_on(tmp_path, interrupts):
    whole = fit(compiled(), [], epochs=2)
    model = compiled()
    with pytest.raises(KeyboardInterrupt):
        fit(model, [BackupAndResume(tmp_path, save_freq=2), Interrupt()], epochs=2)
    for other in (model, compiled()):
        backup = BackupAndResume(tmp_path, save_freq=2, keep=9)
        assert backup.initial_epoch == 0 and backup.files()[0].name == "epoch-0000-step-00000004.npz"
        resumed = fit(other, [backup], epochs=2)
        for ours, theirs in zip(resumed, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for newer in backup.files():
            if newer.name > "epoch-0000-step-00000004.npz":
                newer.unlink()
