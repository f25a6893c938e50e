"""Dropout (Srivastava et al. 2014) with random numbers that cost next to nothing."""

import keras
from keras import ops

from keras_transformer.layers.arguments import check_rates
from keras_transformer.layers.rematerialization import Rematerialized


def random_bits(indices, seed):
    """Evenly distributed int32, one for each int32 of `indices`: their hash, keyed by `seed`, two integers.

    Counter-based, as Philox and Threefry are, with two multiplications an element in place of their ten and more
    rounds: the multipliers and shifts are those of the hash "lowbias32" (C. Wellons, "Prospecting for Hash
    Functions", 2018). The quality is far beyond what dropout needs, and a compiler fuses it into its consumer.
    """
    seed = ops.cast(seed, "int32")
    first, second = _mix(seed[0], 0), _mix(seed[1], seed[0])
    return _mix(ops.bitwise_xor(indices, first), second)


def is_dropped(indices, rate, seed):
    """Whether dropout at `rate` sets the elements with these row-major int32 `indices` to zero: bool.

    An element's fate depends on nothing but its index in the whole tensor, so that a block of a tensor that never
    exists as a whole is dropped out as the whole would be. Indices above 2^31 - 1 wrap around.
    """
    return random_bits(indices, seed) < int(rate * (1 << 32)) - (1 << 31)


def kept_scale(rate):
    """What dropout at `rate` multiplies the elements with that it keeps."""
    return 1.0 / max(1.0 - rate, 1e-7)


def _mix(x, key):
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF))
    x = x * 0x7FEB352D + key
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 15), 0x1FFFF))
    x = x * (0x846CA68B - (1 << 32))
    return ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF))


@keras.saving.register_keras_serializable(package="keras_transformer")
class Dropout(Rematerialized, keras.layers.Dropout):
    """`keras.layers.Dropout` with a cheap mask: while training, sets elements to zero at `rate`, scales up the rest.

    Keras draws from the backend's generator, which under XLA on a CPU costs as much as the layers between two
    dropouts. Here the mask is a hash of the element's index and of the seed generator's state, so it is still
    a function of the seed and the step alone.

    Args, call arguments: as `keras.layers.Dropout` without `noise_shape`.
    """

    def __init__(self, rate, seed=None, **kwargs):
        check_rates(rate=rate)
        if kwargs.get("noise_shape") is not None:
            raise ValueError(
                "`noise_shape` is not supported: use `keras.layers.Dropout`. "
                f"Received: noise_shape={kwargs['noise_shape']}"
            )
        super().__init__(rate, seed=seed, **kwargs)

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        shape, size = ops.shape(inputs), 1
        for length in shape:
            size = size * length
        indices = ops.reshape(ops.arange(size, dtype="int32"), shape)
        dropped = is_dropped(indices, self.rate, self.seed_generator.next())
        kept = ops.where(dropped, ops.zeros((), inputs.dtype), inputs)
        # Scaled last, so that the gradient ends in the selection: XLA on a CPU adds up the gradient of a bias before it
        # several times faster from that than from a product.
        return kept * ops.cast(kept_scale(self.rate), inputs.dtype)

    def get_config(self):
        config = super().get_config()
        config.pop("noise_shape", None)
        return config
