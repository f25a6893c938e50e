"""Gradients by the current backend's own automatic differentiation."""

import keras
from keras import ops


def gradients(function, *arrays):
    """Gradients of the scalar `function(*tensors)` with respect to each of `arrays`, as NumPy arrays."""
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        found = tape.gradient(value, tensors, unconnected_gradients="zero")
    elif keras.backend.backend() == "jax":
        import jax

        found = jax.grad(function, argnums=tuple(range(len(tensors))))(*tensors)
    else:
        import torch

        tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        found = torch.autograd.grad(function(*tensors), tensors, materialize_grads=True)
    return [ops.convert_to_numpy(gradient) for gradient in found]


def weight_gradients(weights, function):
    """Gradients of the scalar `function()` with respect to the Keras variables `weights`, as NumPy arrays."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = function()
        found = tape.gradient(value, [weight.value for weight in weights], unconnected_gradients="zero")
    elif keras.backend.backend() == "jax":
        import jax

        def stateless(values):
            with keras.StatelessScope(state_mapping=list(zip(weights, values))):
                return function()

        found = jax.grad(stateless)([weight.value for weight in weights])
    else:
        import torch

        found = torch.autograd.grad(function(), [weight.value for weight in weights], materialize_grads=True)
    return [ops.convert_to_numpy(gradient) for gradient in found]
