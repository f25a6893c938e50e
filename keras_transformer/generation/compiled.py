"""What each backend needs for a search to be fast."""

import keras


def compiled(function, jit_compile=False):
    """`function` of tensors as a graph where the backend needs one for its loops to be fast.

    TensorFlow: a `tf.function` that is traced once for each number of axes, not for each shape; with `jit_compile`
    XLA compiles it once for each shape. JAX compiles the loop of a search by itself, and PyTorch runs it as it is.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True, autograph=False, jit_compile=jit_compile or None)
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()(function)
    return function
