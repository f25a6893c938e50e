"""Ends a run at the first value that is no number, and says where it arose."""

import math

import keras

from keras_transformer.training.checkpoints import state_variables
from keras_transformer.training.origin_of_nan import is_finite, origin_of_nan
from keras_transformer.training.train_function import see_batches


class TerminateOnNaN(keras.callbacks.Callback):
    """In the place of `keras.callbacks.TerminateOnNaN`, which says that the loss is NaN but not why.

    Nothing is checked inside the compiled step. The callback keeps a copy of the weights and of the optimizer's state
    in the host's memory, and the batches since. When the loss is not finite, or the weights are not where the copy is
    renewed or an epoch ends, it goes back to the copy, repeats the steps up to the one that did it, and looks at that
    one layer by layer: at the data, at each layer's output in the order of the computation, at the loss, at the
    weights' gradients from the loss backwards, and at the update.

    A step that a `LossScaleOptimizer` skips since its gradients overflow is no such event: its loss is finite and it
    changes no weight. `SkippedUpdates` counts those.

    Give it before callbacks that save, so that they do not save what is wrong.

    Args:
        every: after how many batches the copy is renewed; so many batches are kept in memory.

    Raises:
        FloatingPointError: in one line, with the step, where the value arose, and what to do. The model has then the
            weights from before that step.
    """

    def __init__(self, every=100):
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be a positive integer. Received: every={every!r}")
        self.every = every

    def on_train_begin(self, logs=None):
        self._batches: list = []
        self._copy: list = []
        self._stop_seeing = see_batches(self.model, self, self._batches.append)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if not self.model.built:  # by its first step, of which there is nothing to go back to
            return
        if not self._copy or len(self._batches) >= self.every:
            self._check_weights(f"before step {batch + 1} of epoch {self._epoch + 1}")
            self._copy = self._state()
            self._batches.clear()

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            self._raise(f"The loss is {loss} at step {batch + 1} of epoch {self._epoch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        self._check_weights(f"at the end of epoch {epoch + 1}")

    def on_train_end(self, logs=None):
        self._stop_seeing()
        self._batches, self._copy = [], []

    def _check_weights(self, when):
        for variable in self.model.trainable_variables:
            if not is_finite(variable):
                self._raise(f"The weight `{variable.path}` is not finite {when}")

    def _state(self):
        return [keras.ops.convert_to_numpy(variable).copy() for variable in state_variables(self.model)]

    def _set_state(self, values):
        for variable, value in zip(state_variables(self.model), values, strict=True):
            variable.assign(value)

    def _raise(self, what):
        self._stop_seeing()
        where = self._find() if self._batches and self._copy else None
        if where is None:
            where = "That was so before the first step: give the model other weights."
            if self._batches:
                where = "Where that arose is not known: there is no copy to go back to, or repeated it does not occur."
        raise FloatingPointError(f"{what}. {where}")

    def _find(self):
        """Leaves the model as it was before the step at which it happened, and says where that was."""
        model, function = self.model, self.model.train_function
        while hasattr(function, "function"):  # the compiled step alone: what is around it must not see this
            function = function.function
        around, model.train_function = model.train_function, function
        try:
            self._set_state(self._copy)
            for number, batch in enumerate(self._batches):
                before = self._state()
                x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
                loss = model.train_on_batch(x, y, sample_weight, return_dict=True)["loss"]
                broken = [v.path for v in model.trainable_variables if not is_finite(v)]
                if math.isfinite(loss) and not broken:
                    continue
                self._set_state(before)
                origin = origin_of_nan(model, batch)
                self._set_state(before)
                if origin is None and broken:
                    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
                    origin = f"the update of `{broken[0]}` at a learning rate of {rate:.2g}, of finite gradients"
                if origin is None:
                    origin = "the compiled step alone: repeated without compilation, all is finite"
                steps = len(self._batches) - 1 - number
                ago = f"{steps} step{'s' * (steps > 1)} before" if steps else "in that step"
                return f"It arose {ago} in {origin}. {_advice(origin)} The model has the weights from before."
            return None
        finally:
            model.train_function = around


def _advice(origin):
    if origin.startswith("the data"):
        return "Leave that example out."
    if "float16" in origin and "bfloat16" not in origin:
        return "Compute that layer in float32, or use mixed_bfloat16."
    return "Lower the learning rate, warm up for longer, or clip the gradients."
