"""Products of few rows with kernels that a loop carries, laid out for it.

Shapes: `R` rows, `K` width before the product, `N` after it.

A step of a search multiplies few rows by every kernel of the decoder, and there is little else to it. XLA for CPUs
takes twice as long for that product as it comes, `(R, K)` by `(K, N)`, as for the halves of a matrix `(N, K)` by the
transposed rows (`benchmarks/products.py`). To lay a kernel out so takes as long as a step or more, so it is done once,
before the loop, or before the graph is saved.
"""

import contextlib
import contextvars
import functools

from keras import ops

_products: contextvars.ContextVar = contextvars.ContextVar("products", default=None)


def product_of(layer):
    """The product that takes the place of `layer`'s with its kernel, a function of `(R, K)`; None: its own."""
    return (_products.get() or {}).get(id(layer))


@contextlib.contextmanager
def multiplying(layers, matrices, product):
    """Within it the kernel of each of `layers` is that of `matrices` `(N, K)`, multiplied by `product`."""
    products = {
        id(layer): functools.partial(product, matrix=matrix) for layer, matrix in zip(layers, matrices, strict=True)
    }
    token = _products.set(products)
    try:
        yield
    finally:
        _products.reset(token)


WIDE, LARGE = 8192, 2_000_000
"""Rows of a kernel, and numbers of its product, from which the product is made in rows as it comes."""


def in_halves(x, matrix):
    """`x` `(R, K)` by the transposed `matrix` `(N, K)`: what XLA for CPUs is fastest at, from one row to a hundred."""
    size, width = matrix.shape
    parts = 1 if size % 2 else 2
    rows = ops.tile(ops.transpose(x)[None], (parts, 1, 1))
    product = ops.matmul(ops.reshape(matrix, (parts, size // parts, width)), rows)
    return ops.transpose(ops.reshape(product, (size, -1)))


def in_halves_or_rows(x, matrix):
    """The same, but for a large product with a wide matrix.

    What a search does with the logits of a large vocabulary needs them in rows. To bring many there costs more than
    halves save; the condition is gone when XLA compiles, which knows `R`.
    """
    size = matrix.shape[0]
    if size < WIDE:
        return in_halves(x, matrix)
    few = ops.shape(x)[0] * size < LARGE
    return ops.cond(few, lambda: in_halves(x, matrix), lambda: ops.matmul(x, ops.transpose(matrix)))


def as_a_whole(x, matrix):
    """The same where each operation runs by itself: there, halves take longer."""
    return ops.transpose(ops.matmul(matrix, ops.transpose(x)))
