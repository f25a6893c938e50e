"""Words to what a model reads and back: the pieces of each word, windows of long sentences, a label for each piece."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

MAX_PIECES = 32  # of a word: more of them say nothing more about it, and cost is not up to the input


class Pieces(NamedTuple):
    """What a tokenizer makes of the words of sentences.

    token_ids: int32, ragged `(B, None)`; `(B, None, K)` of a tokenizer that gives each word `K` ids.
    words: int32, ragged `(B, None)`, the place in its sentence of the word of each piece.
    capitals: int32, ragged `(B, None)`, 1 where the word begins with a capital letter.
    """

    token_ids: tf.RaggedTensor
    words: tf.RaggedTensor
    capitals: tf.RaggedTensor


class Windows(NamedTuple):
    """Rows of pieces for a model, and which piece of a sentence is read in which row.

    token_ids: int32 `(R, T)` or `(R, T, K)`, special tokens and padding included.
    padding_mask: bool `(R, T)`, True = real.
    capitals: int32 `(R, T)`.
    rows, columns: int32, ragged `(B, None)`: where each piece of a sentence is read; each is read once.
    """

    token_ids: tf.Tensor
    padding_mask: tf.Tensor
    capitals: tf.Tensor
    rows: tf.RaggedTensor
    columns: tf.RaggedTensor


def pieces_of_words(tokenizer: Callable[[Any], Any], words: tf.RaggedTensor) -> Pieces:
    """The pieces of each word of each sentence, in order.

    A word has at least one piece, the unknown token where the tokenizer gives none, and at most 32: what comes after
    is not read.

    Args:
        tokenizer: of words `(N,)` to ids: a ragged `(N, None)`, as of `SentencePieceTokenizer` and
            `WordPieceTokenizer`, or a dense `(N, K)`, as of `WordFeatures`: one piece a word.
        words: strings, ragged `(B, None)`.
    """
    capital = tf.cast(tf.strings.regex_full_match(words.flat_values, r"(?s)\p{Lu}.*"), tf.int32)
    place = tf.cast(tf.ragged.range(words.row_lengths()).flat_values, tf.int32)
    ids = tokenizer(words.flat_values)
    if not isinstance(ids, tf.RaggedTensor):
        return Pieces(*(words.with_flat_values(values) for values in (ids, place, capital)))
    ids = ids[:, :MAX_PIECES]
    unknown = tf.fill([ids.nrows(), 1], tf.constant(tokenizer.unk_token_id, ids.dtype))  # type: ignore[attr-defined]
    none = tf.cast(ids.row_lengths() == 0, tf.int64)
    ids = tf.concat([ids, tf.RaggedTensor.from_tensor(unknown, none)], axis=1)
    owners = ids.value_rowids()
    splits = tf.gather(ids.row_splits, words.row_splits)

    def of_pieces(values: tf.Tensor) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_row_splits(values, splits, validate=False)

    return Pieces(of_pieces(ids.values), of_pieces(tf.gather(place, owners)), of_pieces(tf.gather(capital, owners)))


def first_of_words(pieces: Pieces) -> tf.RaggedTensor:
    """bool, ragged `(B, None)`: whether a piece is the first of its word."""
    places = pieces.words.values
    row = pieces.words.value_rowids()
    before = tf.concat([[-1], places[:-1]], axis=0)
    row_before = tf.concat([[tf.constant(-1, row.dtype)], row[:-1]], axis=0)
    return pieces.words.with_values((places != before) | (row != row_before))


def windows(
    pieces: Pieces,
    max_length: int,
    overlap: int,
    pad_token_id: int = 0,
    start_token_id: int | None = None,
    end_token_id: int | None = None,
) -> Windows:
    """Cuts sentences into rows of at most `max_length`, of which neighbours share `overlap` pieces.

    A piece in two rows is read in that in which it has more on both sides: in the middle of what is shared, reading
    goes over to the next row. The last row of a sentence ends where the sentence ends.

    Args:
        pieces: of sentences.
        max_length: positions of a row, special tokens included.
        overlap: pieces that neighbouring rows share, at least.
        pad_token_id: fills the rows.
        start_token_id, end_token_id: put around each row; None: nothing is.
    """
    around = (start_token_id is not None) + (end_token_id is not None)
    room = max_length - around
    if room < 1 or not 0 <= overlap < room:
        raise ValueError(
            f"max_length must be more than overlap and {around} special tokens, received max_length={max_length} and "
            f"overlap={overlap}: raise max_length or lower overlap."
        )
    stride = room - overlap
    lengths = tf.cast(pieces.words.row_lengths(), tf.int32)
    counts = 1 + tf.maximum(0, lengths - room + stride - 1) // stride
    first_rows = tf.cumsum(counts, exclusive=True)
    sentence = tf.repeat(tf.range(tf.size(counts)), counts)  # of each row
    index = tf.ragged.range(counts).flat_values  # of each row in its sentence
    begins = tf.minimum(index * stride, tf.maximum(tf.gather(lengths, sentence) - room, 0))
    sizes = tf.minimum(tf.gather(lengths, sentence), room)
    splits = tf.cast(pieces.words.row_starts(), tf.int32)
    sources = tf.ragged.range(tf.gather(splits, sentence) + begins, tf.gather(splits, sentence) + begins + sizes)

    def rows_of(values: tf.Tensor, start: int | None, end: int | None, fill: int) -> tf.Tensor:
        rows = tf.gather(values, sources)
        count = tf.size(sizes)
        shape = tf.concat([[count, 1], tf.shape(values)[1:]], axis=0)
        ends = [None if token is None else tf.fill(shape, tf.constant(token, values.dtype)) for token in (start, end)]
        if around:
            parts = [part for part in (ends[0], rows, ends[1]) if part is not None]
            rows = tf.concat(parts, axis=1)
        return rows.to_tensor(fill)

    def special(value: int) -> tuple[int | None, int | None]:
        return (None if start_token_id is None else value, None if end_token_id is None else value)

    token_ids = rows_of(pieces.token_ids.flat_values, start_token_id, end_token_id, pad_token_id)
    capitals = rows_of(pieces.capitals.values, *special(0), 0)
    padding_mask = tf.sequence_mask(sizes + around, tf.shape(token_ids)[1])
    place = tf.cast(tf.ragged.range(pieces.words.row_lengths()).values, tf.int32)
    owner = pieces.words.value_rowids()
    within = tf.clip_by_value((place - overlap // 2) // stride, 0, tf.gather(counts, owner) - 1)
    row = tf.gather(first_rows, owner) + within
    column = place - tf.gather(begins, row) + (start_token_id is not None)
    return Windows(token_ids, padding_mask, capitals, pieces.words.with_values(row), pieces.words.with_values(column))
