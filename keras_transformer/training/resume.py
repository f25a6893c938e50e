"""A run of `fit` that is killed and started again goes on as if it had not been killed."""

import json
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer.training.checkpoints import Place, complete_or_absent, state_variables
from keras_transformer.training.random_state import random_state, set_random_state
from keras_transformer.training.skipped_updates import updates_of
from keras_transformer.training.train_function import Around, Drawing, take_away_leftovers

_FILE = re.compile(r"epoch-\d{4,}-step-\d{8}\.npz")


class BackupAndResume(keras.callbacks.Callback):
    """In the place of `keras.callbacks.BackupAndRestore`: a run goes on at the very step, not at the epoch.

    Run the same command again after a kill at any moment, and the losses, the metrics of the epoch, the weights and the
    optimizer's state (loss scale, averages and accumulated gradients too) are those of a run that was never killed:
    bit for bit on one machine with `tf.config.experimental.enable_op_determinism()`. `fit` and a dataset whose order
    changes with the epoch are told where to begin:

        backup = BackupAndResume("run", save_freq=500)
        batches = text.batch_by_tokens(..., seed=1, initial_epoch=backup.initial_epoch)
        model.fit(batches, epochs=20, initial_epoch=backup.initial_epoch, callbacks=[backup])

    The steps of the interrupted epoch that are done are not computed again, and callbacks get the logs that they got
    before. On TensorFlow the iterator over the data is saved where TensorFlow can do that, as with a `shuffle` that
    reshuffles each iteration (with all that is in the buffer of `shuffle`). Elsewhere the place in the data is a count:
    the batches of those steps are drawn and dropped, and their order must be a function of the epoch, or of the
    random states of Python, NumPy and PyTorch, as that of arrays is. A dataset of which that is not true is reported
    in one line, as far as its first batches tell.

    Give it first among the callbacks. What a callback knows itself (`EarlyStopping`, `ReduceLROnPlateau`) is not saved.
    A run that is stopped inside an epoch by `stop_training` goes on from the last file.

    A file has its name only when it is whole. One that cannot be read is passed over for the one before, in one line;
    one that cannot be written is reported in one line, and training goes on. Weights that are no numbers are not saved.

    Args:
        directory: where the files are.
        save_freq: "epoch", or after how many steps of an epoch to save as well as at its end.
        keep: how many files to keep, the newest.
    """

    def __init__(self, directory, save_freq="epoch", keep=2):
        super().__init__()
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(f'`save_freq` must be "epoch" or a positive integer. Received: save_freq={save_freq!r}')
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
        self.directory = Path(directory)
        self.save_freq = save_freq
        self.keep = keep
        self._found: Any = None  # the place, arrays and notes of the file to go on from, until that place is passed
        self._replaying: Any = None
        self._history: list = []
        self._records: list = []
        self._replayed = 0
        self._first_batches: dict = {}  # a checksum of the first batch of each epoch, where it was seen

    @property
    def initial_epoch(self):
        """The epoch to begin with: 0, or that of the newest file that can be read."""
        self._find()
        return self._found[0].epoch if self._found else 0

    def files(self):
        """Newest first."""
        found = [path for path in self.directory.glob("epoch-*.npz") if _FILE.fullmatch(path.name)]
        return sorted(found, key=_place_of, reverse=True)

    def on_train_begin(self, logs=None):
        for leftover in self.directory.glob(f".{'[0-9a-f]' * 8}-*.npz"):  # of a run that was killed while it saved
            leftover.unlink()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._find()
        self._history, self._records, self._replayed = [], [], 0
        if self._found:
            self._restore_model()
        take_away_leftovers(self.model, _Replaying)
        self._replaying = _Replaying(self.model, self)
        self._replaying.put()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._step, self._records, self._replayed = epoch, 0, [], 0
        if self._found:
            place, _, notes = self._found
            if epoch != place.epoch:
                raise ValueError(
                    f"The run in {self.directory} has come to epoch {place.epoch}, and `fit` begins with {epoch}. "
                    "Pass initial_epoch=backup.initial_epoch to `fit`, or give another directory."
                )
            self._records, self._replayed = notes["logs"], place.step
            self._history = notes["history"]
            self._first_batches = {int(epoch): checksum for epoch, checksum in notes.get("first_batches", {}).items()}
            self._fill_history()
            set_random_state(notes["random_of_epoch"])
            self._random_of_epoch = notes["random_of_epoch"]
            self._replaying.updates_before_epoch = notes["updates_before_epoch"]
            if self._can_set_metrics():
                self._set_metrics()
        else:
            self._random_of_epoch = random_state()
            self._replaying.updates_before_epoch = updates_of(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        # TensorFlow's iterator is at hand in the train function only, JAX's state outside of it only.
        if keras.backend.backend() != "tensorflow":
            self._save_if_due()

    def on_train_batch_end(self, batch, logs=None):
        self._step = batch + 1
        if self._step > self._replayed:
            self._records.append({name: value for name, value in (logs or {}).items() if np.isscalar(value)})

    def on_epoch_end(self, epoch, logs=None):
        self._history.append([epoch, {name: float(value) for name, value in (logs or {}).items()}])
        self._found = None
        last = self.model.stop_training or epoch + 1 == self.params["epochs"]
        whole = self._step == self.params["steps"] or not self.model.stop_training
        if last and whole:
            # Any other epoch is saved when the next begins: by then callbacks have put swapped weights back.
            self._epoch, self._step, self._records, self._replayed = epoch + 1, 0, [], 0
            self._random_of_epoch = random_state()
            self._save(Place(epoch + 1, 0))

    def on_train_end(self, logs=None):
        self._replaying.take_away()

    def _save_if_due(self, iterator=None):
        if self._step >= self._replayed and self._is_due():
            self._save(Place(self._epoch, self._step), iterator)

    def _is_due(self):
        if self._step == 0:
            return bool(self._history) and not self._found
        if self._step == self._replayed:  # the very state that was read
            return False
        return self.save_freq != "epoch" and self._step % self.save_freq == 0

    def _find(self):
        if self._found:
            return
        for path in self.files():
            try:
                # Opened here, since NumPy does not close a file that it finds to be no archive.
                with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                    notes = json.loads(file["notes"].item())
                    arrays = {name: file[name] for name in file.files if name != "notes"}
                self._found = _place_of(path), arrays, notes
                return
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                print(f"{path} cannot be read ({error}): taking the one before it.")

    def _restore_model(self):
        place, arrays, _ = self._found
        if not self.model.built:
            raise ValueError("The model must be built before `fit` can resume. Call it on a batch first.")
        variables = state_variables(self.model)
        saved = [arrays[f"{index:05d}"] for index in range(sum(name.isdigit() for name in arrays))]
        if [tuple(v.shape) for v in variables] != [a.shape for a in saved]:
            raise ValueError(
                f"{self.directory} is of another model or optimizer: it holds {len(saved)} arrays, this run "
                f"{len(variables)}, or their shapes differ. Give the arguments of the run that wrote it, or another "
                "directory."
            )
        for variable, array in zip(variables, saved, strict=True):
            variable.assign(array)
        print(f"Going on in epoch {place.epoch + 1} after {place.step} steps.")

    def _can_set_metrics(self):
        return len(self.model.metrics_variables) == self._count_metrics()

    def _count_metrics(self):
        return sum(name.startswith("metric-") for name in self._found[1])

    def _set_metrics(self):
        for index, variable in enumerate(self.model.metrics_variables):
            variable.assign(self._found[1][f"metric-{index:05d}"])

    def _fill_history(self):
        history = self.model.history
        history.epoch[:] = [epoch for epoch, _ in self._history]
        history.history.clear()
        for _, logs in self._history:
            for name, value in logs.items():
                history.history.setdefault(name, []).append(value)

    def _resumed(self):
        """The last step that is not computed again has been passed."""
        set_random_state(self._found[2]["random"])
        self._found = None

    def _save(self, place, iterator=None):
        arrays = {f"{i:05d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(state_variables(self.model))}
        path = self.directory / f"epoch-{place.epoch:04d}-step-{place.step:08d}.npz"
        weights = len(self.model.trainable_variables)
        if not all(np.isfinite(arrays[f"{i:05d}"].astype("float32")).all() for i in range(weights)):
            print(f"{path} is not written: the weights are no numbers any more. The one before it stays.")
            return
        for index, variable in enumerate(self.model.metrics_variables):
            arrays[f"metric-{index:05d}"] = keras.ops.convert_to_numpy(variable)
        # Where the next epoch has not begun, it will begin with the updates of now.
        updates = self._replaying.updates_before_epoch if place.step else updates_of(self.model)
        if iterator is not None:
            arrays |= {f"data-{name}": array for name, array in _iterator_state(iterator).items()}
        notes = {
            "first_batches": self._first_batches,
            "history": self._history,
            "logs": self._records,
            "random": random_state(),
            "random_of_epoch": self._random_of_epoch,
            "updates_before_epoch": updates,
        }
        try:
            with complete_or_absent(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, notes=np.array(json.dumps(notes)), **arrays)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            print(f"\n{error} Training goes on.")
            return
        for old in self.files()[self.keep :]:
            old.unlink()


class _Replaying(Around):
    """`train_function` that passes over the steps which are done already."""

    def __init__(self, model, backup):
        super().__init__(model)
        self._backup = backup
        self._is_resuming = bool(backup._found)
        self._has_savable_iterator: Any = None
        self.updates_before_epoch = 0
        self._batch: Any = None

    def __call__(self, *state_and_data):
        backup = self._backup
        *state, data = state_and_data
        if backup._found:
            if backup._step < backup._replayed:
                return self._pass_over(state, data)
            self._go_to_place(data, draw=False)
            backup._resumed()
        elif keras.backend.backend() == "tensorflow":
            backup._save_if_due(data)
        if backup._step == 0:
            data = self._look_at_first(data)
        return self.function(*state, data)

    def _pass_over(self, state, data):
        backup = self._backup
        logs = backup._records[backup._step]
        batch = self._go_to_place(data, draw=True)
        if backup._step + self.model.steps_per_execution >= backup._replayed:
            if not state:  # on JAX `fit` carries metrics in its state since the epoch began
                if not backup._can_set_metrics():
                    self.model.test_step(batch)  # TensorFlow builds metrics at their first batch
                backup._set_metrics()
            backup._resumed()
        return (logs, *state) if state else logs

    def _go_to_place(self, data, draw):
        """Puts the iterator where it was, or draws the step's batches. Returns one that the metrics can be built on."""
        backup = self._backup
        place = {name[5:]: array for name, array in backup._found[1].items() if name.startswith("data-")}
        if place and backup._step == 0:
            from keras_transformer.training import tensorflow

            tensorflow.set_iterator_state(data, place)
            if draw:
                batch = next(data)
                tensorflow.set_iterator_state(data, place)
                self._batch = batch
        elif draw and not place:
            batches = _draw(data, self.model.steps_per_execution)
            self._check_first(batches[0])
            self._batch = batches[-1]
        return self._batch if draw else None

    def _look_at_first(self, data):
        """Notes a checksum of the epoch's first batch, unless the iterator itself is saved."""
        if keras.backend.backend() == "tensorflow":
            if self._has_savable_iterator is None:
                self._has_savable_iterator = bool(_iterator_state(data))
            if self._has_savable_iterator:
                return data
        batches, data = Drawing()(data, self.model.steps_per_execution)
        self._check_first(batches[0])
        return data

    def _check_first(self, batch):
        backup = self._backup
        if backup._step:
            return
        first, epoch = backup._first_batches, backup._epoch
        checksum = _checksum(batch)
        known = first.setdefault(epoch, checksum)
        # A `shuffle` in a new process starts again with its first order.
        starts_again = self._is_resuming and epoch and first.get(0) == checksum != first.get(1, checksum)
        if known != checksum or starts_again:
            print(
                f"Epoch {epoch + 1} begins with another batch than in a run that was not stopped: the order of the "
                "data is not a function of the epoch, so what follows is not what that run would have done."
            )
        self._is_resuming = False


def _iterator_state(iterator):
    from keras_transformer.training import tensorflow

    return tensorflow.iterator_state(iterator) or {}


def _draw(data, count):
    if not hasattr(data, "__next__"):  # on PyTorch the batches are drawn already
        return list(data)
    return [next(data) for _ in range(count)]


def _checksum(batch):
    """Of all arrays of a batch in their order."""
    result = 0
    for part in keras.tree.flatten(batch):
        if part is not None:
            values = part.flat_values if hasattr(part, "flat_values") else part  # ragged
            result = zlib.crc32(np.ascontiguousarray(keras.ops.convert_to_numpy(values)).tobytes(), result)
    return result


def _place_of(path):
    _, epoch, _, step = path.stem.split("-")
    return Place(int(epoch), int(step))
