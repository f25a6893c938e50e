"""How fast a run is: real tokens a second, and the share of what the machine could do."""

import time

import keras
import numpy as np

from keras_transformer.training.train_function import see_batches


class Throughput(keras.callbacks.Callback):
    """Adds `tokens_per_second` to the logs of each step and epoch, and with `flops` also `share_of_limit`.

    They stand in the progress bar, in the history, in the file of `CSVLogger` and in TensorBoard, if this callback is
    given before those. Both are means over the epoch so far, between the ends of steps, the time for data included,
    that for validation and for the first step of the run (in which it is compiled) not.

    Tokens are real ones: the sum of the sample weights that are not 0, or without weights the number of labels.
    The limit is the speed of one large matrix product in the model's compute dtype, measured when the run begins: what
    the same machine does with nothing but the products that a Transformer consists of.

    Args:
        flops: a function of `x`, `y` and `sample_weight` to the floating-point operations that training on this batch
            takes: `functools.partial(models.training_flops, model)`. None: no share.
        limit: operations a second of the machine, if you know them. None: measured by `matrix_product_speed`.

    Example:

    ```python
    model.fit(batches, callbacks=[training.Throughput(functools.partial(models.training_flops, model))])
    ```
    """

    def __init__(self, flops=None, limit=None):
        super().__init__()
        if limit is not None and not limit > 0:
            raise ValueError(f"`limit` must be a positive number of operations a second. Received: limit={limit}")
        self.flops = flops
        self.limit = limit

    def on_train_begin(self, logs=None):
        if self.flops is not None and self.limit is None:
            self.limit = matrix_product_speed(self.model.compute_dtype)
        self._is_warm = False
        self._stop_seeing = see_batches(self.model, self, self._see)
        self._start()

    def on_epoch_begin(self, epoch, logs=None):
        self._start()

    def on_train_batch_end(self, batch, logs=None):
        if not self._is_warm:
            if self._steps:  # else the step was passed over in a run that goes on
                self._is_warm = True
                self._start()
            return
        if self._steps and logs is not None:
            logs |= self._figures()

    def on_epoch_end(self, epoch, logs=None):
        if self._last and logs is not None:
            logs |= self._last

    def on_train_end(self, logs=None):
        self._stop_seeing()

    def _start(self):
        self._began = time.perf_counter()
        self._tokens = self._operations = self._steps = 0
        self._last: dict = {}

    def _see(self, batch):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        self._steps += 1
        self._tokens += real_tokens(y, sample_weight)
        if self.flops is not None:
            self._operations += self.flops(x, y, sample_weight)

    def _figures(self):
        seconds = time.perf_counter() - self._began
        self._last = {"tokens_per_second": float(self._tokens / seconds)}
        if self.flops is not None:
            self._last["share_of_limit"] = float(self._operations / seconds / self.limit)
        return self._last


def real_tokens(y, sample_weight=None):
    """How many labels count: those of a weight that is not 0, or all."""
    if sample_weight is not None:
        return sum(int(np.count_nonzero(keras.ops.convert_to_numpy(w))) for w in keras.tree.flatten(sample_weight))
    return sum(int(np.prod(part.shape)) for part in keras.tree.flatten(y) if part is not None)


def matrix_product_speed(dtype="float32", seconds=0.05):
    """Floating-point operations a second of a square matrix product, the largest of sizes from 256 up to 8,192.

    Sizes double until a product takes `seconds`: on an accelerator the matrices are large, and half precision on a CPU
    that has none takes no minutes. A product of `n x n` matrices is `2 n^3` operations.
    """
    best, size = 0.0, 256
    while size <= 8192:
        matrix = keras.ops.ones((size, size), dtype)
        taken = min(_time_of_product(matrix) for _ in range(4))
        best = max(best, 2 * size**3 / taken)
        if taken > seconds:
            break
        size *= 2
    return best


def _time_of_product(matrix):
    began = time.perf_counter()
    product = keras.ops.matmul(matrix, matrix)
    keras.ops.convert_to_numpy(product[0, 0])  # on an accelerator the call itself returns at once
    return time.perf_counter() - began
