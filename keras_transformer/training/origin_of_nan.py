"""Where a value that is not finite arose: one training step, not compiled, looked at layer by layer."""

import contextlib

import keras
import numpy as np


def origin_of_nan(model, batch):
    """Repeats the step of `batch` eagerly and says what in it is the first not to be finite. Updates nothing.

    Loss and gradients are the model's own `train_step`: a fused loss makes no more logits here than there.

    Args:
        model: a compiled model, in the state from before the step.
        batch: what the step was given: `x`, `(x, y)` or `(x, y, sample_weight)`.

    Returns:
        A phrase such as "the output of `mlp/dense_1` (float16), of inputs of at most 6e+04"; None if all is finite.
    """
    for variable in model.trainable_variables:
        if not is_finite(variable):
            return f"the weight `{variable.path}`, which was not finite before that step"
    for name, part in zip(("inputs", "targets", "sample weights"), keras.utils.unpack_x_y_sample_weight(batch)):
        found = _first_in_data(name, part)
        if found:
            return found
    forward, optimizer = _Forward(model), _Gradients(model.optimizer)
    metrics = [keras.ops.convert_to_numpy(v) for v in model.metrics_variables]
    model.optimizer = optimizer
    try:
        with _watching(forward):
            if keras.backend.backend() == "jax":
                state = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
                model.train_step(tuple([v.value for v in part] for part in (*state, model.metrics_variables)), batch)
            else:
                model.train_step(batch)
    finally:
        model.optimizer = optimizer.optimizer
        for variable, value in zip(model.metrics_variables, metrics):
            variable.assign(value)
    if forward.found:
        return forward.found
    if not optimizer.loss_is_finite:
        return "the loss, of finite outputs of all layers"
    return _first_gradient(model, optimizer.gradients, forward.calls)


def is_finite(values):
    """Whether all of a tensor is finite. What is no number, or is being traced by a compiler, passes."""
    if type(values).__name__ == "IndexedSlices":  # TensorFlow's gradient of embeddings
        values = values.values
    if not hasattr(values, "dtype") or "float" not in keras.backend.standardize_dtype(values.dtype):
        return True
    try:
        return bool(keras.ops.all(keras.ops.isfinite(values)))
    except TypeError:  # a tracer has no truth
        return True


class _Forward:
    """Told of each layer's call when it begins and when it ends, which is in the order of the computation."""

    def __init__(self, model):
        self.found = None
        self.calls: dict = {}  # the number of the last call of the layer of a path
        self._open = [model.path or model.name]  # on JAX the model itself is not called as a layer is
        self._count = 0

    def begins(self, layer):
        self._open.append(layer.path or layer.name)

    def ends(self, layer, inputs, outputs):
        path = layer.path or layer.name
        self._open.pop()
        self._count += 1
        self.calls[path] = self._count
        if self.found or _all_finite(outputs):
            return
        dtypes = {keras.backend.standardize_dtype(x.dtype) for x in _floats(outputs)}
        if _all_finite(inputs):
            of = _largest(inputs)
            size = "" if of is None else f", of inputs of at most {of:.2g}"
            self.found = f"the output of `{path}` ({', '.join(sorted(dtypes))}){size}"
        else:
            self.found = f"what `{self._open[-1]}` itself computes and hands to `{path}`"


class _Gradients:
    """An optimizer that keeps gradients instead of applying them."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.gradients: list = []
        self.loss_is_finite = True

    def __getattr__(self, name):
        return getattr(self.optimizer, name)

    def scale_loss(self, loss):
        self.loss_is_finite = is_finite(loss)
        return self.optimizer.scale_loss(loss)

    def apply_gradients(self, pairs, **_):  # TensorFlow
        self.gradients = [gradient for gradient, _ in pairs]

    def apply(self, gradients, variables=None):  # PyTorch
        self.gradients = list(gradients)

    def stateless_apply(self, optimizer_variables, gradients, trainable_variables):  # JAX
        self.gradients = list(gradients)
        return trainable_variables, optimizer_variables


@contextlib.contextmanager
def _watching(forward):
    """Inside, `forward` is told of each call of any layer."""
    kind = keras.layers.Layer
    original = kind.__call__

    def call(layer, *args, **kwargs):
        forward.begins(layer)
        outputs = original(layer, *args, **kwargs)
        forward.ends(layer, (args, kwargs), outputs)
        return outputs

    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = original


def _floats(structure):
    found = (x for x in keras.tree.flatten(structure) if keras.ops.is_tensor(x))
    return [x for x in found if "float" in keras.backend.standardize_dtype(x.dtype)]


def _all_finite(structure):
    return all(is_finite(x) for x in _floats(structure))


def _largest(structure):
    """The largest absolute value, or None if there is none to be had."""
    try:
        values = [keras.ops.max(keras.ops.abs(keras.ops.stop_gradient(x))) for x in _floats(structure)]
        return max((float(value) for value in values), default=None)
    except TypeError:  # a tracer
        return None


def _first_in_data(name, part):
    for path, values in keras.tree.flatten_with_path(part) if part is not None else ():
        if values is None or is_finite(keras.ops.convert_to_tensor(values)):
            continue
        values = keras.ops.convert_to_numpy(values)
        place = np.argwhere(~np.isfinite(values.astype("float64")))[0].tolist()
        key = "".join(f"[{step!r}]" for step in path)
        return f"the data: {name}{key} is {values[tuple(place)]} at {place}"
    return None


def _first_gradient(model, gradients, calls):
    """Backwards, the first is that of the weight which was used last."""
    wrong = [
        (calls.get(variable.path.rsplit("/", 1)[0], -1), variable.path)
        for variable, gradient in zip(model.trainable_variables, gradients)
        if gradient is not None and not is_finite(gradient)
    ]
    if not wrong:
        return None
    others = f" (and of {len(wrong) - 1} weights before it)" if len(wrong) > 1 else ""
    return f"the gradient of `{max(wrong)[1]}`{others}, of a finite loss"
