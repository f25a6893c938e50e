"""The steps that loss scaling skips, where a user sees them."""

import keras

from keras_transformer.training.train_function import Around


class SkippedUpdates(keras.callbacks.Callback):
    """Adds `skipped_updates` to the logs of each epoch: how many steps a `LossScaleOptimizer` has skipped in it.

    It skips a step whose scaled gradients overflow and halves the scale. A few at the start of a run, and one now and
    then when the scale grows, are as they should be; many mean gradients that float16 cannot hold at any scale.
    Nothing is counted inside the compiled step: what was skipped is the steps that were made less the updates that the
    optimizer counts. The whole run's number is `total`.
    """

    def on_train_begin(self, logs=None):
        self.total = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._updates = updates_of(self.model)
        self._steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self._steps = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        before = self._updates
        around = self.model.train_function
        while isinstance(around, Around):  # in a run that goes on, the epoch may have begun before this process did
            before = getattr(around, "updates_before_epoch", before)
            around = around.function
        skipped = self._steps - (updates_of(self.model) - before)
        self.total += skipped
        if logs is not None:
            logs["skipped_updates"] = skipped


def updates_of(model):
    """How many updates the optimizer has made, each accumulated gradient counted; 0 before it is built."""
    counters = [variable for variable in model.optimizer.variables if variable.name == "iteration"]
    # A `LossScaleOptimizer` has a counter of its own, which stays at 0, before that of the optimizer in it.
    return max((int(counter) for counter in counters), default=0)
