"""Which tensor of theirs is which weight of ours, and in which layout: one table, read in both directions."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
from keras import ops

MOST_NAMED = 5


class Same:
    """The same layout."""

    def their_shape(self, shape):
        return tuple(shape)

    def to_ours(self, tensor, shape):
        return tensor

    def to_theirs(self, array):
        return array


class Flat(Same):
    """Ours with the axes `(H, K)`, theirs with one: biases of projections to heads."""

    def their_shape(self, shape):
        return (math.prod(shape),)

    def to_ours(self, tensor, shape):
        return tensor.reshape(shape)

    def to_theirs(self, array):
        return array.reshape(-1)


class Linear(Same):
    """PyTorch's `Linear.weight` `(out, in)`; ours has the input first, and either side may be heads, `(H, K)`.

    Args:
        input_axes: how many axes of ours are the input's: 2 for the projection from heads.
    """

    def __init__(self, input_axes=1):
        self.input_axes = input_axes

    def their_shape(self, shape):
        return math.prod(shape[self.input_axes :]), math.prod(shape[: self.input_axes])

    def to_ours(self, tensor, shape):
        return tensor.T.reshape(shape)

    def to_theirs(self, array):
        return array.reshape(math.prod(array.shape[: self.input_axes]), -1).T


class SkipRows(Same):
    """Theirs has `rows` more rows at the start, which nothing reads; they are written as zeros."""

    def __init__(self, rows):
        self.rows = rows

    def their_shape(self, shape):
        return shape[0] + self.rows, *shape[1:]

    def to_ours(self, tensor, shape):
        return tensor[self.rows :]

    def to_theirs(self, array):
        return np.concatenate([np.zeros((self.rows, *array.shape[1:]), array.dtype), array])


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of theirs and the weight of ours that it is.

    Args:
        key: the tensor's name.
        path: of our variable, attribute by attribute from the model on: "encoder.blocks.0".
        layout: an object as `Same`.
    """

    key: str
    path: str
    layout: Any = dataclasses.field(default_factory=Same)


@dataclasses.dataclass(frozen=True)
class Tied:
    """A tensor that may be in a file and then has the values of another, `to`; it is not written."""

    key: str
    to: str


def linear(key, path, input_axes=1, bias=True):
    """A `Linear` of theirs and a dense layer of ours."""
    yield Entry(f"{key}.weight", f"{path}.kernel", Linear(input_axes))
    if bias:
        yield Entry(f"{key}.bias", f"{path}.bias", Flat())


def norm(key, path):
    """A layer normalisation with gain and bias."""
    yield Entry(f"{key}.weight", f"{path}.gamma")
    yield Entry(f"{key}.bias", f"{path}.beta")


def embedding(key, path):
    yield Entry(f"{key}.weight", f"{path}.embeddings")


def positions(key, path, skip=0):
    """A table of positions, of whose rows theirs has `skip` more at the start."""
    yield Entry(f"{key}.weight", f"{path}.position_embeddings", SkipRows(skip) if skip else Same())


def load(model, rows, checkpoint, unused=()):
    """Sets each weight of `model` from `checkpoint`.

    Args:
        rows: `Entry` and `Tied`.
        checkpoint: a `Checkpoint`.
        unused: regular expressions of keys that a file may have and that mean nothing to the model.

    Raises:
        ValueError: if a key is missing, is one too many, has the wrong shape, or if tied tensors differ. Nothing
            is set then.
    """
    entries, tied = _split(rows)
    keys = {entry.key for entry in entries}
    variables = _variables(model, entries)
    missing = sorted(keys - checkpoint.keys())
    extra = sorted(
        key
        for key in checkpoint.keys() - keys - {row.key for row in tied}
        if not any(re.fullmatch(pattern, key) for pattern in unused)
    )
    shapes = {
        entry.key: (checkpoint.shape(entry.key), entry.layout.their_shape(variable.shape))
        for entry, variable in zip(entries, variables)
        if entry.key in checkpoint
    }
    wrong = [f"{key} {found} instead of {expected}" for key, (found, expected) in shapes.items() if found != expected]
    problems = {"missing": missing, "not known": extra, "of the wrong shape": wrong}
    if any(problems.values()):
        said = "; ".join(f"{what}: {_few(names)}" for what, names in problems.items() if names)
        raise ValueError(
            f"The tensors in {checkpoint.directory} are not those that {checkpoint.config.get('architectures')} with "
            f"this config.json has. {said}. Fetch files and config of one model."
        )
    for row in tied:
        if row.key in checkpoint and not np.array_equal(checkpoint[row.key], checkpoint[row.to]):
            raise ValueError(
                f"{row.key} must be {row.to}, as our model has one table for both. Received: tensors that differ in "
                f"{checkpoint.directory}."
            )
    for entry, variable in zip(entries, variables):
        tensor = np.asarray(checkpoint[entry.key], variable.dtype)
        variable.assign(np.ascontiguousarray(entry.layout.to_ours(tensor, variable.shape)))


def dump(model, rows):
    """The tensors, by key, that `load` would set `model` from."""
    entries, _ = _split(rows)
    return {
        entry.key: np.ascontiguousarray(entry.layout.to_theirs(ops.convert_to_numpy(variable.value)))
        for entry, variable in zip(entries, _variables(model, entries))
    }


def _split(rows):
    rows = list(rows)
    return [row for row in rows if isinstance(row, Entry)], [row for row in rows if isinstance(row, Tied)]


def _variables(model, entries):
    """The variables that the entries name: all of the model's weights, each once."""
    variables = [_find(model, entry.path) for entry in entries]
    left = {id(weight): weight.path for weight in _weights(model)}
    for variable in variables:
        left.pop(id(variable), None)
    if left:
        raise ValueError(f"Weights of the model that have no place in the other format: {_few(left.values())}")
    return variables


def _weights(model):
    return [*model.trainable_weights, *(w for w in model.non_trainable_weights if "seed_generator" not in w.path)]


def _find(model, path):
    found = model
    for name in path.split("."):
        found = found[int(name)] if name.isdigit() else getattr(found, name)
    return found


def _few(names):
    names = list(names)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
