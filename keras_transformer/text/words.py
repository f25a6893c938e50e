"""Texts to words and where they are, in the graph."""

from typing import Any, NamedTuple

import tensorflow as tf

from .packages import import_tensorflow_text
from .strings import batch, clean

# What is a word although it holds no letter alone: each alternative is tried at each place, from the left.
NUMBERS = r"\b[0-9]+(?:[.,:][0-9]+)+\b"
ABBREVIATIONS = r"\b(?:\p{L}\.){2,}"
RUNS = r"\.{2,}|-{2,}|!{2,}|\?{2,}|={2,}|\*{2,}|_{2,}|~{2,}"
# An emoji with what modifies it, and with those that a zero-width joiner ties to it.
SYMBOLS = r"[^\p{L}\p{M}\p{N}\p{Z}\s](?:[\x{FE0F}\x{1F3FB}-\x{1F3FF}]|\x{200D}[^\s\p{Z}\p{L}\p{N}])*"
ENGLISH_CLITICS = r"(?i:n['\x{2019}]t\b|['\x{2019}](?:s|re|ve|ll|d|m)\b)"


class Words(NamedTuple):
    """Words of texts and where they are: ragged tensors `(B, None)`."""

    words: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor


class WordSplitter:
    """Splits texts at white space, and takes apart what `pieces` matches.

    By default a word is a run of letters, marks and digits; any other character is a word by itself, but numbers
    (`3.14`), abbreviations (`U.S.`), runs of one sign (`...`) and emoji with their modifiers stay whole.

    Args:
        clitics: a regular expression (RE2) of further words inside words, such as `text.ENGLISH_CLITICS`, by which
            "don't" becomes "do", "n't"; None: no such.

    Example:

    >>> from keras_transformer import text
    >>> words, starts, ends = text.WordSplitter(text.ENGLISH_CLITICS)(["He isn't in (yet)."])
    >>> [word.decode() for word in words[0].numpy()]
    ['He', 'is', "n't", 'in', '(', 'yet', ')', '.']
    >>> starts[0].numpy().tolist()
    [0, 3, 5, 9, 12, 13, 16, 17]
    """

    def __init__(self, clitics: str | None = None) -> None:
        self.clitics = clitics
        pieces = [clitics, NUMBERS, ABBREVIATIONS, RUNS, SYMBOLS]
        self._pieces = "|".join(piece for piece in pieces if piece)
        self._split = tf.function(self._words, [tf.TensorSpec([None], tf.string)], autograph=False)

    def __call__(self, texts: Any) -> Words:
        """The words of each text.

        Args:
            texts: string tensor `(B,)`, or a list of str or bytes. Cleaned first, see `clean`.

        Returns:
            `Words`: strings, and int32 starts and ends, counted in characters (code points) of the cleaned text, from
            0, the end exclusive. `clean` moves no character of a text that is valid UTF-8.
        """
        return Words(*self._split(batch(texts)))

    def _words(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        cleaned = clean(texts)
        words, starts, ends = import_tensorflow_text().regex_split_with_offsets(
            cleaned, rf"[\s\p{{Z}}]+|{self._pieces}", self._pieces
        )
        return words, *_in_characters(cleaned, starts, ends)


def joined(words: tf.RaggedTensor) -> Words:
    """Given words with their places in the text that has them with a space between."""
    lengths = words.with_flat_values(tf.strings.length(words.flat_values, unit="UTF8_CHAR"))
    padded = lengths.to_tensor() + 1
    ends = tf.cumsum(padded, axis=1) - 1
    starts = ends - padded + 1
    sizes = words.row_lengths()
    return Words(words, *(tf.RaggedTensor.from_tensor(places, sizes) for places in (starts, ends)))


def _in_characters(texts: tf.Tensor, *places: tf.RaggedTensor) -> list[tf.RaggedTensor]:
    """Places in bytes of each text, as places in its characters."""
    _, offsets = tf.strings.unicode_decode_with_offsets(texts, "UTF-8")
    lengths = tf.cast(tf.strings.length(texts), tf.int64)
    # All texts one after the other, so that one search serves them all.
    begins = tf.cumsum(lengths, exclusive=True)
    characters = offsets.values + tf.gather(begins, offsets.value_rowids())
    found = []
    for place in places:
        rows = place.value_rowids()
        sought = tf.cast(place.values, tf.int64) + tf.gather(begins, rows)
        in_all = tf.searchsorted(characters, sought, out_type=tf.int64)
        found.append(place.with_values(tf.cast(in_all - tf.gather(offsets.row_starts(), rows), tf.int32)))
    return found
