"""A bounded set of shapes, for graphs that are compiled anew for each."""

from keras import ops

LARGEST = 2**30


def bucket(size, least=1):
    """The smallest power of two that is neither below `size` nor below `least`, itself one.

    Args:
        size: an integer, or a scalar tensor inside a graph.

    >>> from keras_transformer.generation.buckets import bucket
    >>> bucket(0), bucket(5), bucket(8), bucket(5, least=16)
    (1, 8, 8, 16)
    """
    if isinstance(size, int):
        return max(least, 1 << max(size - 1, 0).bit_length())
    result = ops.convert_to_tensor(least, size.dtype)
    power = least
    while power < LARGEST:
        result = ops.where(size > power, ops.cast(2 * power, size.dtype), result)
        power *= 2
    return result


def padded(x, sizes, value=0):
    """`x` with `value` after its first axes, up to the `sizes` of these, integers or scalar tensors."""
    widths = [[0, size - found] for size, found in zip(sizes, ops.shape(x))]
    widths += [[0, 0]] * (len(x.shape) - len(sizes))
    return ops.pad(x, widths, constant_values=value)
