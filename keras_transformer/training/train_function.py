"""What a callback puts around a model's `train_function`: the one place between `fit` and the compiled step.

On TensorFlow and JAX the step draws its batches from an iterator that it is handed, on PyTorch it is handed a list.
"""

from typing import Any

import keras


class Around:
    """A `train_function` around another. A subclass says what is done in between."""

    def __init__(self, model):
        # Not a callback's `self.model`: on JAX to ask for that in the middle of a step would lose the step.
        self.model = model
        self.function: Any = None

    def __call__(self, *state_and_data):
        return self.function(*state_and_data)

    def put(self, innermost=False):
        """Takes its place around the model's function, or around the compiled step itself."""
        outer = None
        inner = self.model.train_function
        while innermost and isinstance(inner, Around):
            outer, inner = inner, inner.function
        self.function = inner
        if outer is None:
            self.model.train_function = self
        else:
            outer.function = self

    def take_away(self):
        """Leaves the others as they are. Does nothing where `self` is not in its place."""
        outer, inner = None, self.model.train_function
        while isinstance(inner, Around) and inner is not self:
            outer, inner = inner, inner.function
        if inner is not self:
            return
        if outer is None:
            self.model.train_function = self.function
        else:
            outer.function = self.function


def take_away_leftovers(model, kind):
    """Those of a class that a run which ended with an error has left."""
    around = model.train_function
    while isinstance(around, Around):
        if isinstance(around, kind):
            around.take_away()
        around = around.function


def see_batches(model, owner, see):
    """Calls `see(batch)` with each batch before its step, until what is returned is called.

    One of each class of owners can see: a new one takes the place of what a run that ended with an error has left. The
    compiled step is the same and is not traced again. Steps that are passed over in a run that goes on are not seen.
    """
    around = model.train_function
    while isinstance(around, Around) and not isinstance(around, _SeeingBatches):
        around = around.function
    if not isinstance(around, _SeeingBatches):
        around = _SeeingBatches(model)
        around.put(innermost=True)
    around.seers[type(owner)] = see

    def stop():
        around.seers.pop(type(owner), None)
        if not around.seers:
            around.take_away()

    return stop


class _SeeingBatches(Around):
    def __init__(self, model):
        super().__init__(model)
        self.seers: dict = {}
        self._draw = Drawing()

    def __call__(self, *state_and_data):
        *state, data = state_and_data
        batches, data = self._draw(data, self.model.steps_per_execution)
        for batch in batches:
            for see in self.seers.values():
                see(batch)
        return self.function(*state, data)


class Drawing:
    """Draws batches from what a train function is handed, and says what to hand it in their place."""

    def __init__(self):
        self._data: Any = None
        self._relay: Any = None

    def __call__(self, data, count):
        """The next `count` batches, and what stands for `data` for one call.

        Raises `StopIteration` where there is none left.
        """
        if not hasattr(data, "__next__"):  # PyTorch
            return list(data), data
        batches = [next(data)]
        for _ in range(count - 1):
            try:
                batches.append(next(data))
            except StopIteration:
                break
        if keras.backend.backend() != "tensorflow":
            return batches, iter(batches)
        if data is not self._data:  # each epoch has an iterator of its own
            from keras_transformer.training import tensorflow

            self._data, self._relay = data, tensorflow.relay(data)
        return batches, self._relay(batches)
