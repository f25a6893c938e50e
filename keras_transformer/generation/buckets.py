"""A bounded set of shapes, for graphs that are compiled anew for each."""

from keras import ops

LARGEST = 2**30


def bucket(size, least=1, steps=1):
    """The smallest bucket that holds `size`: `least` times a power of two, or one of `steps` from there to the next.

    Args:
        size: an integer, or a scalar tensor inside a graph.
        least: the smallest bucket, a multiple of `steps`.
        steps: buckets for each doubling.

    >>> from keras_transformer.generation.buckets import bucket
    >>> bucket(0), bucket(5), bucket(8), bucket(5, least=16), bucket(20, 16, steps=2), bucket(33, 16, steps=2)
    (1, 8, 8, 16, 24, 48)
    """
    buckets = _buckets(least, steps)
    if isinstance(size, int):
        return next(found for found in buckets if found >= size)
    result = ops.convert_to_tensor(next(buckets), size.dtype)
    for larger in buckets:
        result = ops.where(size > result, ops.cast(larger, size.dtype), result)
    return result


def _buckets(least, steps):
    while least <= LARGEST:
        for step in range(steps):
            yield least + least * step // steps
        least *= 2


def padded(x, sizes, value=0):
    """`x` with `value` after its first axes, up to the `sizes` of these, integers or scalar tensors."""
    widths = [[0, size - found] for size, found in zip(sizes, ops.shape(x))]
    widths += [[0, 0]] * (len(x.shape) - len(sizes))
    return ops.pad(x, widths, constant_values=value)
