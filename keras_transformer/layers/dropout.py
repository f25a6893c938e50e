"""Dropout (Srivastava et al. 2014) with random numbers that cost next to nothing."""

import keras
from keras import ops


def random_bits(shape, seed):
    """Evenly distributed int32 of `shape`: a hash of each element's index, keyed by `seed`, two integers.

    Counter-based, as Philox and Threefry are, with two multiplications an element in place of their ten and more
    rounds: the multipliers and shifts are those of the hash "lowbias32" (C. Wellons, "Prospecting for Hash
    Functions", 2018). The quality is far beyond what dropout needs, and a compiler fuses it into its consumer.
    """
    seed = ops.cast(seed, "int32")
    first, second = _mix(seed[0], 0), _mix(seed[1], seed[0])
    size = 1
    for length in shape:
        size = size * length
    return _mix(ops.bitwise_xor(ops.reshape(ops.arange(size, dtype="int32"), shape), first), second)


def _mix(x, key):
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF))
    x = x * 0x7FEB352D + key
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 15), 0x1FFFF))
    x = x * (0x846CA68B - (1 << 32))
    return ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF))


@keras.saving.register_keras_serializable(package="keras_transformer")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with a cheap mask: while training, sets elements to zero at `rate`, scales up the rest.

    Keras draws from the backend's generator, which under XLA on a CPU costs as much as the layers between two
    dropouts. Here the mask is a hash of the element's index and of the seed generator's state, so it is still
    a function of the seed and the step alone.

    Args, call arguments: as `keras.layers.Dropout` without `noise_shape`.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        bits = random_bits(ops.shape(inputs), self.seed_generator.next())
        dropped = bits < int(self.rate * (1 << 32)) - (1 << 31)
        kept = ops.where(dropped, ops.zeros((), inputs.dtype), inputs)
        # Scaled last, so that the gradient ends in the selection: XLA on a CPU adds up the gradient of a bias before it
        # several times faster from that than from a product.
        return kept * ops.cast(1.0 / max(1.0 - self.rate, 1e-7), inputs.dtype)

    def get_config(self):
        config = super().get_config()
        config.pop("noise_shape", None)
        return config
