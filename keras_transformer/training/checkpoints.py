"""Checkpoints that are whole or not there: to resume from, and to average."""

import contextlib
import os
import re
import shutil
import uuid
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

_EPOCH_FILE = re.compile(r"epoch-\d{4,}\.npz")
_INTERRUPTED = "interrupted.npz"


class Place(NamedTuple):
    """How far a run has come: `epoch` whole epochs, and `step` updates of the next one."""

    epoch: int
    step: int


@contextlib.contextmanager
def complete_or_absent(path):
    """A temporary path beside `path`, which takes its name only when the block ends without an error.

    A full disk or a kill never leaves half a file, or half a directory, under the final name, and what had the name
    before stays until the new one is whole. An `OSError` of the block is raised again with the path and what to do.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = uuid.uuid4().hex[:8]
    temporary, old = (path.with_name(f".{unique}-{kind}{path.name}") for kind in ("", "old-"))
    try:
        yield temporary
        if path.is_dir():  # a rename takes the place of a file, but not of a directory that holds something
            os.replace(path, old)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} could not be written: {reason}. Free some space, or choose another path.") from error
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for leftover in (temporary, old):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


class Checkpoints(keras.callbacks.Callback):
    """Keeps the last `keep` epochs of a run in a directory, each as one `.npz` with all it takes to go on.

    A file holds the weights, the optimizer's state, the random states of dropout and the `Place` in the run.

    Args:
        directory: where the files are: `epoch-0001.npz`, ..., and `interrupted.npz` after `save_place`.
        keep: how many epochs to keep.
    """

    def __init__(self, directory, keep=10):
        super().__init__()
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
        self.directory = Path(directory)
        self.keep = keep
        self._running = self._epoch = 0
        self._resumed_step = 0
        self._updates_before_epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._running = self._epoch = epoch
        self._updates_before_epoch = int(self.model.optimizer.iterations) - self._resumed_step
        self._resumed_step = 0

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == (self.params or {}).get("steps"):
            self._count_epoch()

    def on_test_begin(self, logs=None):  # where the number of steps is not known beforehand
        self._count_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self._count_epoch()
        self._save_epoch()

    def save_place(self):
        """Saves the run wherever it is, as after Ctrl-C, and returns its `Place`.

        After an epoch's last update, in validation say, the epoch is whole and is saved as such.
        """
        # The optimizer knows how many updates were applied, whether or not Keras came to count the last one.
        place = Place(self._epoch, int(self.model.optimizer.iterations) - self._updates_before_epoch)
        if place.epoch and not place.step:
            self._save_epoch()
        else:
            self._save(self.directory / _INTERRUPTED, place)
        return place

    def files(self):
        """All that a run can go on from, in the order in which `restore` tries them."""
        interrupted = self.directory / _INTERRUPTED
        return [interrupted] * interrupted.exists() + self.epochs()[::-1]

    def epochs(self):
        """The files of whole epochs, oldest first."""
        found = [path for path in self.directory.glob("epoch-*.npz") if _EPOCH_FILE.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.stem.removeprefix("epoch-")))

    def restore(self, model):
        """Puts `model`, built and compiled, into the state of the newest readable file.

        Returns:
            Its `Place`; `Place(0, 0)`, with `model` untouched, if there is no file. A file that was cut short is
            passed over for the one before it.
        """
        for leftover in self.directory.glob(f".{'[0-9a-f]' * 8}-*.npz"):  # of a run that was killed while it saved
            leftover.unlink()
        for path in self.files():
            try:
                # Opened here, since NumPy does not close a file that it finds to be no archive.
                with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                    arrays = [file[f"{index:05d}"] for index in range(len(file.files) - 1)]
                    place = Place(*(int(x) for x in file["place"]))
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                print(f"{path} cannot be read ({error}): taking the one before it.")
                continue
            _assign(state_variables(model), arrays, path)
            self._epoch, self._resumed_step = place
            self._running = self._epoch
            self._updates_before_epoch = int(model.optimizer.iterations) - place.step
            return place
        return Place(0, 0)

    def average(self, model, last=None):
        """Sets the trainable weights of `model` to their mean over the last `last` epochs (None: all kept).

        Vaswani et al. 2017, section 6.1, average the last 5 checkpoints of base and the last 20 of big.

        Returns:
            How many epochs were averaged.
        """
        paths = self.epochs()[-(last or self.keep) :]
        if not paths:
            raise ValueError(f"There is no epoch to average in {self.directory}. Train for one first.")
        count = len(model.trainable_variables)
        sums = [np.zeros(v.shape, "float64") for v in model.trainable_variables]
        for path in paths:
            with np.load(path, allow_pickle=False) as file:
                for index in range(count):
                    sums[index] += file[f"{index:05d}"]
        _assign(model.trainable_variables, [total / len(paths) for total in sums], paths[-1])
        return len(paths)

    def _count_epoch(self):
        """The epoch has made its last update."""
        self._epoch = self._running + 1
        self._updates_before_epoch = int(self.model.optimizer.iterations)

    def _save_epoch(self):
        self._save(self.directory / f"epoch-{self._epoch:04d}.npz", Place(self._epoch, 0))
        (self.directory / _INTERRUPTED).unlink(missing_ok=True)
        for path in self.epochs()[: -self.keep]:
            path.unlink()

    def _save(self, path, place):
        arrays = {
            f"{index:05d}": keras.ops.convert_to_numpy(variable)
            for index, variable in enumerate(state_variables(self.model))
        }
        with complete_or_absent(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, place=np.array(place), **arrays)
            file.flush()
            os.fsync(file.fileno())


def state_variables(model):
    """Trainable weights first, then the rest of the model's state (dropout's seeds too), then the optimizer's."""
    if not model.optimizer.built:  # built twice, a `LossScaleOptimizer` has a second loss scale
        model.optimizer.build(model.trainable_variables)
    return [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]


def _assign(variables, arrays, path):
    shapes = [tuple(v.shape) for v in variables]
    if shapes != [a.shape for a in arrays]:
        raise ValueError(
            f"{path} is of another model or optimizer: it holds {len(arrays)} arrays, this run {len(variables)}, "
            "or their shapes differ. Give the arguments of the run that wrote it, or another directory."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
