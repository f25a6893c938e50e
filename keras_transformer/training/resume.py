"""A run of `fit` that is killed and started again goes on as if it had not been killed."""

import json
import os
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer.training.checkpoints import Place, complete_or_absent

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

    The steps of the interrupted epoch that are done are not computed again: their batches are drawn and dropped, and
    callbacks get the logs that they got before. So the order of the batches must be a function of the epoch.

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
        self._function: Any = None
        self._history: list = []
        self._records: list = []
        self._replayed = 0

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
        if isinstance(self.model.train_function, _Replaying):  # of a run that ended with an error
            self.model.train_function = self.model.train_function.function
        self._function = self.model.train_function = _Replaying(self.model.train_function, self)

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
            self._fill_history()
            _set_random_state(notes["random_of_epoch"])
            self._random_of_epoch = notes["random_of_epoch"]
            if self._can_set_metrics():
                self._set_metrics()
        else:
            self._random_of_epoch = _random_state()

    def on_train_batch_begin(self, batch, logs=None):
        # On JAX this is where a callback may read the state; the model's own callbacks of the step before are done.
        if self._step >= self._replayed and self._is_due():
            self._save(Place(self._epoch, self._step))

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
            self._random_of_epoch = _random_state()
            self._save(Place(epoch + 1, 0))

    def on_train_end(self, logs=None):
        if self.model.train_function is self._function:
            self.model.train_function = self._function.function

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
        variables = _variables(self.model)
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
        _set_random_state(self._found[2]["random"])
        self._found = None

    def _save(self, place):
        arrays = {f"{i:05d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(_variables(self.model))}
        path = self.directory / f"epoch-{place.epoch:04d}-step-{place.step:08d}.npz"
        weights = len(self.model.trainable_variables)
        if not all(np.isfinite(arrays[f"{i:05d}"].astype("float32")).all() for i in range(weights)):
            print(f"{path} is not written: the weights are no numbers any more. The one before it stays.")
            return
        for index, variable in enumerate(self.model.metrics_variables):
            arrays[f"metric-{index:05d}"] = keras.ops.convert_to_numpy(variable)
        notes = {
            "history": self._history,
            "logs": self._records,
            "random": _random_state(),
            "random_of_epoch": self._random_of_epoch,
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


class _Replaying:
    """`train_function` that passes over the steps which are done already."""

    def __init__(self, function, backup):
        self.function = function
        self._backup = backup

    def __call__(self, *state_and_data):
        backup = self._backup
        if not backup._found:
            return self.function(*state_and_data)
        *state, data = state_and_data
        if backup._step < backup._replayed:
            logs = backup._records[backup._step]
            if hasattr(data, "get_next"):  # on JAX and PyTorch the batch is drawn already
                batch = self._draw(data)
                if not backup._can_set_metrics():
                    backup.model.test_step(batch)  # TensorFlow builds metrics at their first batch
            if backup._step + backup.model.steps_per_execution >= backup._replayed:
                if not state:  # on JAX `fit` carries them in its state since the epoch began
                    backup._set_metrics()
                backup._resumed()
            return (logs, *state) if state else logs
        backup._resumed()
        return self.function(*state_and_data)

    def _draw(self, iterator):
        for _ in range(self._backup.model.steps_per_execution):
            batch = next(iterator)
        return batch


def _place_of(path):
    _, epoch, _, step = path.stem.split("-")
    return Place(int(epoch), int(step))


def _variables(model):
    if not model.optimizer.built:  # built twice, a `LossScaleOptimizer` has a second loss scale
        model.optimizer.build(model.trainable_variables)
    return [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]


def _random_state():
    """That of Python and NumPy, as JSON takes it: pipelines may draw from them."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": [version, list(numbers), gauss], "numpy": [name, np.asarray(keys).tolist(), *rest]}


def _set_random_state(state):
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, "uint32"), *rest))
