"""What is known of each character, in the graph: tables over all code points, and the text they rewrite.

Text is handled as code points, not by regular expressions: those of TensorFlow (RE2) have no look-ahead and another
idea of white space than the tokenizers of pretrained models, and are ten times slower than a lookup.
"""

import functools
import unicodedata
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from .unicode_classes import (
    CODE_POINTS,
    IDEOGRAPHS,
    LATER_CAPITALS,
    NONSPACING_MARKS,
    PUNCTUATION,
    REMOVED,
    WHITE_SPACE,
    WHOLE,
    members,
)

PAGE = 256
ORDINARY, SPACE, ALONE = range(3)  # Kinds of characters: part of a word, between words, a word of its own.
LAST_WITH_CASE_OR_PARTS = 0x30000  # Later code points have no small letter and no decomposition.


class Characters(NamedTuple):
    """The characters of a batch of texts, one after the other.

    Attributes:
        codes: code points, int32 `(N,)`.
        splits: where each text begins and the last one ends, int64 `(B + 1,)`.
    """

    codes: tf.Tensor
    splits: tf.Tensor

    def rows(self) -> tf.Tensor:
        """Index of the text of each character, int64 `(N,)`."""
        return row_ids(self.splits)


def decode(texts: tf.Tensor) -> Characters:
    """The characters of `texts` `(B,)`; what is not UTF-8 becomes U+FFFD, as in `bytes.decode("utf-8", "replace")`."""
    codes = tf.strings.unicode_decode(texts, "UTF-8", errors="replace", replacement_char=0xFFFD)
    return Characters(codes.values, codes.row_splits)


class Table:
    """A value for each code point, kept as the distinct pages of 256 values.

    Args:
        values: `(CODE_POINTS,)`.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.pages, index = np.unique(values.reshape(-1, PAGE), axis=0, return_inverse=True)
        self.index = index.reshape(-1).astype("int32") * PAGE

    def __call__(self, codes: tf.Tensor) -> tf.Tensor:
        """The values of `codes`, of the same shape."""
        page = tf.gather(self.index, codes // PAGE)
        return tf.gather(self.pages.reshape(-1), page + codes % PAGE)


class Rewriting:
    """Each character replaced by none, one or several.

    Args:
        replacements: the characters of those code points that do not stay as they are.
    """

    def __init__(self, replacements: dict[int, str]) -> None:
        distinct = ["?", *sorted(set(replacements.values()))]  # Number 0: the character itself.
        number = {text: index for index, text in enumerate(distinct) if index}
        values = np.zeros(CODE_POINTS, "int32")
        values[list(replacements)] = [number[text] for text in replacements.values()]
        self.number = Table(values)
        self.lengths = np.array([len(text) for text in distinct], "int64")
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.codes = np.array([ord(character) for text in distinct for character in text], "int32")

    def __call__(self, before: Characters) -> tuple[Characters, tf.Tensor]:
        """The rewritten characters `(M,)`, and from which of those before each of them comes, int64 `(M,)`."""
        number = self.number(before.codes)
        lengths = tf.gather(self.lengths, number)
        ends = tf.cumsum(lengths)
        source = row_ids(tf.concat([[0], ends], 0))
        within = tf.range(tf.size(source, tf.int64)) - tf.gather(ends - lengths, source)
        number = tf.gather(number, source)
        codes = tf.where(
            number == 0, tf.gather(before.codes, source), tf.gather(self.codes, tf.gather(self.starts, number) + within)
        )
        return Characters(codes, tf.gather(tf.concat([[0], ends], 0), before.splits)), source


@functools.cache
def bert_normalization(lowercase: bool, strip_accents: bool) -> Rewriting:
    """Control characters dropped, white space made spaces; accents dropped; small letters by the full mapping."""
    replacements = dict.fromkeys(np.flatnonzero(members(WHITE_SPACE)).tolist(), " ")
    replacements.update(dict.fromkeys(np.flatnonzero(members(REMOVED)).tolist(), ""))
    marks, whole = members(NONSPACING_MARKS), members(WHOLE)
    small = {}
    for ranges, first in LATER_CAPITALS:
        capitals = np.flatnonzero(members(ranges)).tolist()
        small.update({chr(code): chr(first + index) for index, code in enumerate(capitals)})
    for code in range(CODE_POINTS if strip_accents else LAST_WITH_CASE_OR_PARTS):
        if code in replacements or not (code < LAST_WITH_CASE_OR_PARTS or marks[code]):
            continue
        before = after = chr(code)
        if strip_accents:
            after = after if whole[code] else unicodedata.normalize("NFD", after)
            after = "".join(character for character in after if not marks[ord(character)])
        if lowercase:
            after = "".join(small.get(character, character.lower()) for character in after)
        if after != before:
            replacements[code] = after
    return Rewriting(replacements)


@functools.cache
def bert_kinds(split_on_cjk: bool) -> Table:
    """Which characters are white space and which are words of their own, uint8."""
    kinds = np.full(CODE_POINTS, ORDINARY, "uint8")
    kinds[members(PUNCTUATION)] = ALONE
    if split_on_cjk:
        kinds[members(IDEOGRAPHS)] = ALONE
    kinds[members(WHITE_SPACE)] = SPACE
    return Table(kinds)


class Words(NamedTuple):
    """The words of a batch of texts, one after the other.

    Attributes:
        codes: code points of each word, int32 ragged `(W, None)`.
        source: which character of the text each of them comes from, int64 `(sum of lengths,)`, counted from the
            beginning of its text.
        splits: where the words of each text begin and those of the last end, int64 `(B + 1,)`.
    """

    codes: tf.RaggedTensor
    source: tf.Tensor
    splits: tf.Tensor


def bert_words(texts: tf.Tensor, normalization: Rewriting, kinds: Table) -> Words:
    """The words of `texts` `(B,)`: normalized, split at white space, around punctuation and ideographs."""
    before = decode(texts)
    characters, source = normalization(before)
    source -= tf.gather(before.splits, characters.rows())
    rows, kind = characters.rows(), kinds(characters.codes)
    space, alone = kind == SPACE, kind == ALONE
    # At the beginning of a text nothing goes on.
    first = tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(rows)]
    begins = ~space & (first | alone | _shifted(space | alone))
    count = tf.cumsum(tf.cast(begins, tf.int64))
    kept = tf.where(~space)[:, 0]
    words = tf.RaggedTensor.from_value_rowids(
        tf.gather(characters.codes, kept),
        tf.gather(count, kept) - 1,
        nrows=tf.reduce_sum(tf.cast(begins, tf.int64)),
        validate=False,
    )
    splits = tf.gather(tf.concat([[0], count], 0), characters.splits)
    return Words(words, tf.gather(source, kept), splits)


def row_ids(splits: tf.Tensor) -> tf.Tensor:
    """The row of each value of a ragged tensor with these row splits `(B + 1,)`, int64 `(N,)`.

    `tf.repeat`, and what is made of it, fills a matrix of all rows by the longest: one long line among many texts
    would cost gigabytes.
    """
    begins = tf.zeros([splits[-1] + 1], tf.int64)
    begins = tf.tensor_scatter_nd_add(begins, splits[1:-1, tf.newaxis], tf.ones_like(splits[1:-1]))
    return tf.cumsum(begins)[:-1]


def _shifted(flags: tf.Tensor) -> tf.Tensor:
    """Whether the one before is flagged, `(N,)`."""
    return tf.concat([[False], flags[:-1]], 0)[: tf.size(flags)]


def byte_lengths(codes: tf.Tensor) -> tf.Tensor:
    """Length in UTF-8 of each code point, int64."""
    return 1 + tf.add_n([tf.cast(codes >= limit, tf.int64) for limit in (0x80, 0x800, 0x10000)])
