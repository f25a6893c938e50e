"""Who may attend by position alone: patterns, pure functions of the positions of queries and keys.

A pattern says of integer positions that broadcast against each other which query sees which key, element by
element. So it can be asked about any block of the matrix, or a single row of it while decoding, and nothing
larger than the answer is ever made. Patterns combine with `&`, `|` and `~`, and go into a layer's config.

Shapes: `B` batch, `T` query length, `S` source (key) length. In formulas `q` and `k` are positions, from 0.

>>> from keras import ops
>>> from keras_transformer.layers import patterns
>>> pattern = patterns.Causal() & (patterns.SlidingWindow(2) | patterns.Strided(3))
>>> positions = ops.arange(6)
>>> ops.convert_to_numpy(pattern(positions[:, None], positions[None, :])).astype(int)
array([[1, 0, 0, 0, 0, 0],
       [1, 1, 0, 0, 0, 0],
       [0, 1, 1, 0, 0, 0],
       [1, 0, 1, 1, 0, 0],
       [0, 1, 0, 1, 1, 0],
       [0, 0, 1, 0, 1, 1]])
>>> pattern
Causal() & (SlidingWindow(size=2) | Strided(stride=3))
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import keras
from keras import ops

from keras_transformer.layers.masks import causal

registered = keras.saving.register_keras_serializable(package="keras_transformer")


@dataclass(frozen=True)
class Pattern:
    """The base of patterns. One of your own is a registered frozen dataclass with a method `sees(q, k)`.

    >>> import dataclasses, keras
    >>> from keras_transformer.layers.patterns import Pattern
    >>> @keras.saving.register_keras_serializable(package="readme")
    ... @dataclasses.dataclass(frozen=True)
    ... class Past(Pattern):
    ...     distance: int
    ...
    ...     def sees(self, q, k):
    ...         return k <= q - self.distance
    >>> bool(Past(2)(5, 3)), bool(Past(2)(5, 4))
    (True, False)
    """

    def __call__(self, query_positions, key_positions):
        """Whether each query sees each key.

        Args:
            query_positions, key_positions: integers that broadcast against each other, such as `(T, 1)` and
                `(1, S)`, or `(B, 1, T, 1)` and `(B, 1, 1, S)`.

        Returns:
            bool, of the shape that the two broadcast to.

        Raises:
            ValueError: if positions are not integers.
        """
        return self.sees(as_int32(query_positions, "query_positions"), as_int32(key_positions, "key_positions"))

    def sees(self, q, k):
        """The formula, on int32 tensors."""
        raise NotImplementedError

    def __and__(self, other):
        return And(self, other) if isinstance(other, Pattern) else NotImplemented

    def __or__(self, other):
        return Or(self, other) if isinstance(other, Pattern) else NotImplemented

    def __invert__(self):
        return Not(self)

    def __bool__(self):
        # `Causal() and SlidingWindow(3)` would quietly be the window alone, and see the future.
        raise TypeError(
            f"A pattern is neither true nor false: {self!r}. "
            "Combine patterns by `&`, `|` and `~`, and ask for one by `is not None`."
        )

    def get_config(self) -> dict[str, Any]:
        return {field.name: keras.saving.serialize_keras_object(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Pattern":
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


def get(pattern):
    """The pattern meant by an argument: None, a pattern, or what `keras.saving.serialize_keras_object` made of one."""
    found = keras.saving.deserialize_keras_object(pattern) if isinstance(pattern, dict) else pattern
    if found is None or isinstance(found, Pattern):
        return found
    raise ValueError(
        "`pattern` must be None or a pattern, such as `patterns.Causal() & patterns.SlidingWindow(256)`. "
        f"Received: pattern={pattern!r}"
    )


def as_int32(positions, argument):
    """Positions of one dtype: unsigned ones would wrap around in differences, TensorFlow compares no int32 to int64."""
    if not keras.backend.is_keras_tensor(positions):
        positions = ops.convert_to_tensor(positions)
    dtype = keras.backend.standardize_dtype(positions.dtype)
    if not dtype.startswith(("int", "uint")):
        raise ValueError(f"`{argument}` must be integers. Received: dtype={dtype}. Cast them to int32.")
    return ops.cast(positions, "int32")


def at_least(least, **arguments):
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}")


# ---- combinations


def only_patterns(**operands):
    for name, value in operands.items():
        if not isinstance(value, Pattern):
            raise ValueError(f"`{name}` must be a pattern, such as `Causal()`. Received: {name}={value!r}")


def bracketed(pattern):
    return f"({pattern!r})" if isinstance(pattern, Pair) else repr(pattern)


@dataclass(frozen=True)
class Pair(Pattern):
    """Two patterns and what is written between them."""

    left: Pattern
    right: Pattern
    symbol: ClassVar[str]

    def __post_init__(self):
        only_patterns(left=self.left, right=self.right)

    def __repr__(self):
        return f"{bracketed(self.left)} {self.symbol} {bracketed(self.right)}"


@registered
@dataclass(frozen=True, repr=False)
class And(Pair):
    """`left & right`: seen in both."""

    symbol: ClassVar[str] = "&"

    def sees(self, q, k):
        return ops.logical_and(self.left.sees(q, k), self.right.sees(q, k))


@registered
@dataclass(frozen=True, repr=False)
class Or(Pair):
    """`left | right`: seen in one of the two, or in both."""

    symbol: ClassVar[str] = "|"

    def sees(self, q, k):
        return ops.logical_or(self.left.sees(q, k), self.right.sees(q, k))


@registered
@dataclass(frozen=True, repr=False)
class Not(Pattern):
    """`~pattern`: seen where `pattern` does not see."""

    pattern: Pattern

    def __post_init__(self):
        only_patterns(pattern=self.pattern)

    def sees(self, q, k):
        return ops.logical_not(self.pattern.sees(q, k))

    def __repr__(self):
        return f"~{bracketed(self.pattern)}"


# ---- sequences


@registered
@dataclass(frozen=True)
class Causal(Pattern):
    """`k <= q`: itself and what came before, as in a decoder (Vaswani et al. 2017, section 3.2.3)."""

    def sees(self, q, k):
        return causal(q, k)


@registered
@dataclass(frozen=True)
class SlidingWindow(Pattern):
    """`|q - k| < size`: a band around the query, `size - 1` keys to either side and its own.

    It is the `sliding_window` of Keras's attention layers; Longformer's (Beltagy et al. 2020, section 3.1) of width
    `w` has `size = w / 2 + 1`. `Causal() & SlidingWindow(size)`, which is `Local(size)`, is Mistral's (Jiang et al.
    2023, section 2).
    """

    size: int

    def __post_init__(self):
        at_least(1, size=self.size)

    def sees(self, q, k):
        return ops.abs(q - k) < self.size


@registered
@dataclass(frozen=True)
class Local(Pattern):
    """`0 <= q - k < size`: the last `size` keys, the query's own among them.

    The locally banded layers of GPT-3, which take turns with dense ones, `Causal()` (Brown et al. 2020, section 2.1);
    the `window_size` of GPT-Neo. The first head of strided attention, `{max(0, q - l), ..., q}` (Child et al. 2019,
    section 4.3), is `Local(l + 1)`.
    """

    size: int

    def __post_init__(self):
        at_least(1, size=self.size)

    def sees(self, q, k):
        return (k <= q) & (q - k < self.size)


@registered
@dataclass(frozen=True)
class Strided(Pattern):
    """`k <= q` and `(q - k) mod stride = 0`: every `stride`-th key back from the query.

    The second head of strided attention in the Sparse Transformer (Child et al. 2019, section 4.3). Both heads merged
    into one, with `l` for the stride, are `Local(l + 1) | Strided(l)`.
    """

    stride: int

    def __post_init__(self):
        at_least(1, stride=self.stride)

    def sees(self, q, k):
        return (k <= q) & ops.equal((q - k) % self.stride, 0)


@registered
@dataclass(frozen=True)
class Fixed(Pattern):
    """`k <= q` and `k mod stride >= stride - summary_size`: the last cells of each block, which sum it up.

    The second head of fixed attention in the Sparse Transformer (Child et al. 2019, section 4.3, with `l` for the
    stride and `c` for the summary's size); its first head is `Causal() & Blocks(stride)`.

    Differs from the paper: positions count from 0, so the residues are `l - c` to `l - 1`, where the paper has `l`.
    """

    stride: int
    summary_size: int

    def __post_init__(self):
        at_least(1, stride=self.stride, summary_size=self.summary_size)
        if self.summary_size > self.stride:
            raise ValueError(
                "`summary_size` must be at most `stride`, the size of a block. "
                f"Received: summary_size={self.summary_size}, stride={self.stride}"
            )

    def sees(self, q, k):
        return (k <= q) & (k % self.stride >= self.stride - self.summary_size)


@registered
@dataclass(frozen=True)
class Prefix(Pattern):
    """`k < length` or `k <= q`: all see the prefix, and it sees the whole of itself; the rest is causal.

    The prefix language model of T5 (Raffel et al. 2020, section 3.2.1) and the sequence-to-sequence one of UniLM (Dong
    et al. 2019, section 2.3).

    Rows with prefixes of different lengths share one pattern when each counts its positions from the end of its
    prefix, whose last is -1: it is then `Prefix(0)`.
    """

    length: int

    def __post_init__(self):
        at_least(0, length=self.length)

    def sees(self, q, k):
        return (k < self.length) | (k <= q)


@registered
@dataclass(frozen=True)
class Blocks(Pattern):
    """`floor(q / size) = floor(k / size)`: blocks of one size, each of which sees only itself.

    The block-local part of the Sparse Transformer's fixed attention (Child et al. 2019, section 4.3) when joined with
    `Causal()`. Segments of unequal sizes in a packed row are `segment_ids` in the call of attention, not a pattern.
    """

    size: int

    def __post_init__(self):
        at_least(1, size=self.size)

    def sees(self, q, k):
        return ops.equal(q // self.size, k // self.size)


# ---- text, then an image in raster order


@dataclass(frozen=True)
class TextThenImage(Pattern):
    """`text_length` tokens of text, then the cells of a grid, row by row; causal throughout.

    Text sees the text before it, a cell all text and of the cells before it those that `near` picks. A start token
    counts as text. The number of rows does not matter.
    """

    text_length: int
    image_width: int

    def __post_init__(self):
        at_least(0, text_length=self.text_length)
        at_least(1, image_width=self.image_width)

    def sees(self, q, k):
        # Of no meaning where one of the two is text, and not looked at there.
        row, column = (q - self.text_length) // self.image_width, (q - self.text_length) % self.image_width
        key_row, key_column = (k - self.text_length) // self.image_width, (k - self.text_length) % self.image_width
        return (k <= q) & ((k < self.text_length) | self.near(row - key_row, column - key_column))

    def near(self, up, left):
        """Whether a cell sees the earlier one that is so many rows up and so many columns to the left."""
        raise NotImplementedError


@registered
@dataclass(frozen=True)
class AxialRow(TextThenImage):
    """`k <= q`, and the key is text or in the row of the query: `floor((q - t) / w) = floor((k - t) / w)`.

    With `t` for `text_length` and `w` for `image_width`. dalle-pytorch's `axial_row`, after Ho et al. 2019, "Axial
    Attention in Multidimensional Transformers".

    Differs from the paper: the row attention of DALL-E (Ramesh et al. 2021, appendix B.1) is a window over the raster,
    which goes on into the row above.
    """

    def near(self, up, left):
        return ops.equal(up, 0)


@registered
@dataclass(frozen=True)
class AxialColumn(TextThenImage):
    """`k <= q`, and the key is text or in the column of the query: `(q - k) mod w = 0`.

    With `w` for `image_width`. The column attention of DALL-E (Ramesh et al. 2021, appendix B.1) and dalle-pytorch's
    `axial_col`.
    """

    def near(self, up, left):
        return ops.equal(left, 0)


@registered
@dataclass(frozen=True)
class Convolutional(TextThenImage):
    """`k <= q`, and the key is text or in a window of `kernel_size` x `kernel_size` cells that ends at the query.

    In rows and in columns alike the key is `n * dilation` cells up or to the left, `0 <= n < kernel_size`. The window
    is cut off at the image's edges. It has no middle, so an even kernel is as good as an odd one. dalle-pytorch's
    `conv_like`.

    Differs from the paper: the convolutional attention of DALL-E (Ramesh et al. 2021, appendix B.1) wraps around from
    one row to the next.
    """

    kernel_size: int
    dilation: int = 1

    def __post_init__(self):
        super().__post_init__()
        at_least(1, kernel_size=self.kernel_size, dilation=self.dilation)

    def near(self, up, left):
        return self.in_kernel(up) & self.in_kernel(left)

    def in_kernel(self, offset):
        near = (offset >= 0) & (offset < self.kernel_size * self.dilation)
        return near & ops.equal(offset % self.dilation, 0)
