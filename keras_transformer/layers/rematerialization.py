"""Layers whose activations are computed again in the backward pass (Chen et al. 2016), with the same random draws."""

import functools

import keras
from keras import ops, tree


class Rematerialized:
    """A mixin: where `keras.RematScope` rematerialises the layer, its dropout is the same both times.

    Keras runs a layer's `call` again as it is. That draws from the seed generators once more, and so gives the gradient
    of another function; on JAX the state after the draw leaves the trace that made it; and keywords do not pass at all.
    Here the layer becomes a function of the tensors among its arguments and of all its variables, as they were when it
    was called. That is what runs twice, and variables that it assigned to are among its results.

    When a layer is rematerialised, in each of its modes, is for `RematScope` to say.
    """

    def rematerialized_call(self, layer_call, *args, **kwargs):
        assigned: list = []  # what is only known once `pure` has run
        structure: list = []

        def pure(*differentiable):
            given = iter(differentiable)
            *values, (args, kwargs) = tree.pack_sequence_as(
                template, [next(given) if _is_differentiable(x) else x for x in leaves]
            )
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))) as scope:
                before = [scope.get_current_value(variable) for variable in variables]
                outputs = layer_call(*args, **kwargs)
            after = [scope.get_current_value(variable) for variable in variables]
            changes = [(v, new) for v, old, new in zip(variables, before, after) if new is not old]
            assigned[:] = [variable for variable, _ in changes]
            structure[:] = [outputs]
            return [*tree.flatten(outputs), *(value for _, value in changes)]

        run = super().rematerialized_call(pure, *args, **kwargs)  # type: ignore[misc]
        if run is pure:
            return layer_call
        variables = self.variables  # type: ignore[attr-defined]
        template = [*_as_stored(variables), (args, kwargs)]
        leaves = tree.flatten(template)

        def call(*_, **__):
            results = run(*(x for x in leaves if _is_differentiable(x)))
            count = len(results) - len(assigned)
            for variable, value in zip(assigned, results[count:], strict=True):
                variable.assign(value)
            return tree.pack_sequence_as(structure[0], results[:count])

        return call


def as_a_whole(build):
    """A layer's `build` whose sublayers `RematScope` passes over: they are rematerialised with the layer, or not."""

    @functools.wraps(build)
    def build_without(*args, **kwargs):
        with keras.RematScope(mode=None):
            return build(*args, **kwargs)

    return build_without


def _is_differentiable(x):
    return ops.is_tensor(x) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))


def _as_stored(variables):
    """Copies of their values, each in its own dtype, not in that in which the layer that asks computes."""
    return keras.layers.Lambda(lambda _: [ops.copy(v) for v in variables], autocast=False, name="values")(ops.zeros(()))
