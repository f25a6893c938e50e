"""Byte-level byte-pair encoding: words of bytes, merged pair by pair, in the graph.

Source: Sennrich et al. (2016), https://arxiv.org/abs/1508.07909; over bytes: Radford et al. (2019), Language Models
are Unsupervised Multitask Learners, and its code, https://github.com/openai/gpt-2.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from .added_tokens import AddedToken, AddedTokens
from .characters import CODE_POINTS, Characters, Table, decode, row_ids
from .strings import Path, batch, ragged_ids, write
from .unicode_classes import WHITE_SPACE, members
from .unicode_letters import LETTERS, NUMBERS

OTHER, LETTER, NUMBER, BLANK, SPACE = range(5)  # BLANK is U+0020, SPACE other white space.
CONTRACTIONS = ("s", "t", "re", "ve", "m", "ll", "d")
NEVER = np.iinfo("int32").max


def byte_characters() -> list[str]:
    """The character that stands for each byte in the files of a vocabulary: itself where it can be printed."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printed else next(others)) for byte in range(0x100)]


class BytePairTokenizer(tf.Module):
    """A byte-level BPE vocabulary as a tokenizer that runs in the graph.

    A text is split into words, each with the space before it, numbers, signs and white space, by GPT-2's rule; the
    bytes of each word are merged, the pair of the lowest rank first. No text is unknown. The ids equal those of Hugging
    Face's `GPT2Tokenizer` and `RobertaTokenizer`.

    Args:
        vocabulary: the id of each token, in the characters that stand for bytes; a mapping or the path of a
            `vocab.json`.
        merges: pairs of tokens, "a b", in the order of their ranks; a list or the path of a `merges.txt`.
        add_prefix_space: whether a text that does not begin with a space gets one.
        pad_token, unk_token, start_token, end_token, mask_token: special tokens of the vocabulary, or None.
        added_tokens: tokens that are found in the text as they are written, see `AddedToken`.
        name: name of the module.

    Attributes:
        vocabulary_size: how many tokens, added ones included.
        pad_token_id, unk_token_id, start_token_id, end_token_id, mask_token_id: ids of the special tokens, or None.

    Example:

    >>> from keras_transformer.text import BytePairTokenizer
    >>> from keras_transformer.text.byte_pair import byte_characters
    >>> vocabulary = {token: index for index, token in enumerate([*byte_characters(), "to", "Ġto", "<|end|>"])}
    >>> tokenizer = BytePairTokenizer(vocabulary, ["t o", "Ġ to"], end_token="<|end|>")
    >>> tokenizer(["to to"]).to_list()
    [[256, 257]]
    >>> tokenizer.detokenize([[256, 257, 258]]).numpy().tolist()
    [b'to to']
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int] | Path,
        merges: Sequence[str] | Path,
        add_prefix_space: bool = False,
        pad_token: str | None = None,
        unk_token: str | None = None,
        start_token: str | None = None,
        end_token: str | None = None,
        mask_token: str | None = None,
        added_tokens: Sequence[AddedToken] = (),
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        ids = dict(vocabulary) if isinstance(vocabulary, Mapping) else _read_vocabulary(vocabulary)
        pairs = _read_merges(merges) if isinstance(merges, (str, bytes)) or hasattr(merges, "__fspath__") else merges
        self._vocabulary, self._merges = tuple(ids.items()), tuple(pairs)  # a tf.Module would wrap a dict
        self._added = AddedTokens(added_tokens)
        self.add_prefix_space = add_prefix_space
        everything = {**ids, **{token.text: token.token_id for token in added_tokens}}
        self.vocabulary_size = max(everything.values()) + 1
        self._tokens = [""] * self.vocabulary_size
        for token, index in everything.items():
            self._tokens[index] = token
        self._written = _bytes_of(self._tokens, {token.token_id for token in added_tokens})
        special = {
            "pad": pad_token, "unk": unk_token, "start": start_token, "end": end_token, "mask": mask_token,
        }  # fmt: skip
        for role, text in special.items():
            if text is not None and text not in everything:
                raise ValueError(
                    f"{role}_token must be in the vocabulary, received {text!r}: pass the token that the vocabulary "
                    "has for it, or None."
                )
            setattr(self, f"{role}_token_id", None if text is None else everything[text])
        self._rules = _Rules.of(ids, self._merges)
        self._first = np.array([ids[character] for character in byte_characters()], "int32")
        texts = [tf.TensorSpec([None], tf.string)]
        self._tokenize = tf.function(self._ids_of, texts, autograph=False)
        self._detokenize = tf.function(self._text_of, [tf.RaggedTensorSpec([None, None], tf.int32)], autograph=False)

    pad_token_id: int | None
    unk_token_id: int | None
    start_token_id: int | None
    end_token_id: int | None
    mask_token_id: int | None

    @property
    def vocabulary(self) -> list[str]:
        return list(self._tokens)

    def __call__(self, texts: Any) -> tf.RaggedTensor:
        """Ids of each text, without special tokens but those that are written in it.

        Args:
            texts: string tensor `(B,)`, or a list of str or bytes. What is not UTF-8 is read as U+FFFD.

        Returns:
            int32 ragged tensor `(B, None)`.
        """
        return self._tokenize(batch(texts))

    def detokenize(self, ids: Any) -> tf.Tensor:
        """Text of each row of ids.

        Pad, start and end ids and ids outside the vocabulary are dropped; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: integer tensor, dense `(B, T)` or ragged `(B, None)`.

        Returns:
            string tensor `(B,)`.
        """
        return self._detokenize(ragged_ids(ids))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The written form of each id of one sequence, for pictures."""
        return [self._tokens[index] for index in np.asarray(ids, "int64").reshape(-1)]

    def save(self, vocabulary_path: Path, merges_path: Path) -> None:
        """Writes `vocab.json` and `merges.txt`, each wholly or not at all."""
        write(vocabulary_path, json.dumps(dict(self._vocabulary), ensure_ascii=False).encode())
        write(merges_path, "".join(f"{line}\n" for line in ("#version: 0.2", *self._merges)).encode())

    def _ids_of(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)
        return self._added(texts, self._pieces_of)

    def _pieces_of(self, texts: tf.Tensor) -> tf.RaggedTensor:
        if self.add_prefix_space:
            bare = (texts != "") & (tf.strings.substr(texts, 0, 1) != " ")
            texts = tf.where(bare, tf.strings.join([" ", texts]), texts)
        characters = decode(texts)
        begins = word_begins(characters)
        count = tf.concat([[0], tf.cumsum(tf.cast(begins, tf.int64))], 0)
        words = tf.RaggedTensor.from_row_lengths(
            characters.codes, _lengths(begins, tf.size(characters.codes, tf.int64)), validate=False
        )
        # Each distinct word is merged once.
        distinct, index = tf.unique(tf.strings.unicode_encode(words, "UTF-8"))
        symbols = tf.gather(
            self._first, tf.cast(tf.io.decode_raw(tf.strings.reduce_join(distinct), tf.uint8), tf.int32)
        )
        ends = tf.cumsum(tf.strings.length(distinct))
        rows = tf.cast(row_ids(tf.cast(tf.concat([[0], ends], 0), tf.int64)), tf.int32)
        pieces = tf.gather(_merged(symbols, rows, tf.size(distinct), self._rules), index)
        splits = tf.gather(count, characters.splits)
        return tf.RaggedTensor.from_row_splits(pieces.values, tf.gather(pieces.row_splits, splits), validate=False)

    def _text_of(self, ids: tf.RaggedTensor) -> tf.Tensor:
        written = (ids.values >= 0) & (ids.values < self.vocabulary_size)
        for special in (self.pad_token_id, self.start_token_id, self.end_token_id):
            if special is not None:
                written &= ids.values != special
        ids = tf.ragged.boolean_mask(ids, ids.with_values(written))
        texts = tf.strings.reduce_join(tf.gather(tf.constant(self._written), ids), axis=1)
        return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)


@functools.cache
def _kinds() -> Table:
    kinds = np.full(CODE_POINTS, OTHER, "uint8")
    kinds[members(LETTERS)] = LETTER
    kinds[members(NUMBERS)] = NUMBER
    kinds[members(WHITE_SPACE)] = SPACE
    kinds[ord(" ")] = BLANK
    return Table(kinds)


def word_begins(characters: Characters) -> tf.Tensor:
    r"""Where a word begins, bool `(N,)`, as GPT-2's expression finds words from left to right.

    `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`: the look-ahead leaves the last white
    space before a word out of the run, to be the space of the next word or a word by itself. Every character is in some
    word, and where one begins depends on its neighbours only.
    """
    codes, rows, kind = characters.codes, characters.rows(), _kinds()(characters.codes)
    size = tf.size(codes)

    def before(values: tf.Tensor, fill: Any) -> tf.Tensor:
        return tf.concat([[tf.cast(fill, values.dtype)], values[:-1]], 0)[:size]

    def after(values: tf.Tensor, fill: Any, steps: int = 1) -> tf.Tensor:
        return tf.concat([values[steps:], tf.fill([steps], tf.cast(fill, values.dtype))], 0)[:size]

    first = rows != before(rows, -1)
    previous = before(kind, OTHER)
    white = kind >= BLANK
    last = rows != after(rows, -1)
    next_white = after(white, True) | last
    in_word = first | (previous == SPACE) | ((previous < BLANK) & (previous != kind))
    begins = tf.where(white, first | (previous < BLANK) | ~next_white, in_word)
    apostrophe = begins & (codes == ord("'"))
    for ending in CONTRACTIONS:
        found = apostrophe
        for step, character in enumerate(ending, 1):
            found &= (after(codes, 0, step) == ord(character)) & (after(rows, -1, step) == rows)
        for _ in ending:
            found = before(found, False)
            begins &= ~found
        begins |= before(found, False) & ~first
    return begins


class _Rules(NamedTuple):
    """The merges, sorted by pair.

    Attributes:
        pairs: left id times `size` plus right id, int64, ascending.
        ranks, merged: rank and id of what each becomes, int32.
        alone: whether merging this pair can make another of a lower rank, which then comes first, bool.
        size: number that no id reaches.
    """

    pairs: np.ndarray
    ranks: np.ndarray
    merged: np.ndarray
    alone: np.ndarray
    size: int

    @classmethod
    def of(cls, ids: Mapping[str, int], merges: Sequence[str]) -> "_Rules":
        missing = [character for character in byte_characters() if character not in ids]
        if missing:
            raise ValueError(f"vocabulary must hold a token for each of the 256 bytes, received none for {missing}.")
        size = max(ids.values()) + 1
        pairs: dict[int, int] = {}
        merged: dict[int, int] = {}
        used: dict[int, int] = {}  # token: rank of the first merge that takes it
        for rank, line in enumerate(merges):
            left, _, right = line.partition(" ")
            absent = [token for token in (left, right, left + right) if token not in ids]
            if absent or " " in right or not right:
                raise ValueError(
                    f"merges must be pairs of tokens of the vocabulary, received {line!r} of rank {rank}"
                    f"{f', without {absent}' if absent else ''}."
                )
            pair = ids[left] * size + ids[right]
            pairs[pair], merged[pair] = rank, ids[left + right]
            for token in (left, right):
                used.setdefault(ids[token], rank)
        order = np.array(sorted(pairs), "int64")
        return cls(
            np.append(order, np.iinfo("int64").max),
            np.array([*(pairs[pair] for pair in order.tolist()), NEVER], "int32"),
            np.array([*(merged[pair] for pair in order.tolist()), 0], "int32"),
            np.array([*(used.get(merged[pair], NEVER) < pairs[pair] for pair in order.tolist()), False]),
            size,
        )


def _merged(symbols: tf.Tensor, rows: tf.Tensor, count: tf.Tensor, rules: _Rules) -> tf.RaggedTensor:
    """Words of `symbols` `(N,)` with their `rows` `(N,)`, merged: int32 ragged `(count, None)`.

    A turn merges in each word the pair of the lowest rank wherever it stands. Words with nothing to merge step aside.
    """
    rank = _ranks(symbols, rows, rules)
    nothing = tf.zeros([0], tf.int32)
    state = (symbols, rows, rank, nothing, nothing)

    def turn(symbols: tf.Tensor, rows: tf.Tensor, rank: tf.Tensor, done: tf.Tensor, done_rows: tf.Tensor) -> tuple:
        # Rows number the words that are left, however few: the ones that are done have gone.
        new_word = tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(rows)]
        dense = tf.cumsum(tf.cast(new_word, tf.int32)) - 1
        lowest = tf.gather(tf.math.segment_min(tf.gather(rules.ranks, rank), dense), dense)
        active = lowest != NEVER
        left = tf.where(active)[:, 0]
        finished = tf.where(~active)[:, 0]
        done = tf.concat([done, tf.gather(symbols, finished)], 0)
        done_rows = tf.concat([done_rows, tf.gather(rows, finished)], 0)
        symbols, rows, rank, dense = (tf.gather(values, left) for values in (symbols, rows, rank, dense))
        chosen = tf.gather(rules.ranks, rank) == tf.gather(lowest, left)
        place = tf.range(tf.size(rows))
        # Where a pair overlaps itself, as in "aaa", every other one of the run.
        run_begins = chosen & ~tf.concat([[False], chosen[:-1]], 0)[: tf.size(chosen)]
        run = tf.maximum(tf.cumsum(tf.cast(run_begins, tf.int32)) - 1, 0)
        starts = tf.concat([tf.cast(tf.where(run_begins)[:, 0], tf.int32), [0]], 0)
        chosen &= (place - tf.gather(starts, run)) % 2 == 0
        if rules.alone.any():
            earliest = tf.math.unsorted_segment_min(tf.where(chosen, place, NEVER), dense, tf.size(new_word))
            chosen &= (place == tf.gather(earliest, dense)) | ~tf.gather(rules.alone, rank)
        taken = tf.concat([[False], chosen[:-1]], 0)[: tf.size(chosen)]
        symbols = tf.where(chosen, tf.gather(rules.merged, rank), symbols)
        kept = tf.where(~taken)[:, 0]
        symbols, rows = tf.gather(symbols, kept), tf.gather(rows, kept)
        return symbols, rows, _ranks(symbols, rows, rules), done, done_rows

    _, _, _, symbols, rows = tf.while_loop(
        lambda symbols, *_: tf.size(symbols) > 0, turn, state, shape_invariants=(tf.TensorShape([None]),) * 5
    )
    order = tf.argsort(rows, stable=True)
    return tf.RaggedTensor.from_value_rowids(
        tf.gather(symbols, order),
        tf.cast(tf.gather(rows, order), tf.int64),
        tf.cast(count, tf.int64),
        validate=False,
    )


def _ranks(symbols: tf.Tensor, rows: tf.Tensor, rules: _Rules) -> tf.Tensor:
    """Which rule merges the pair that begins at each symbol; the last one, which has no rank, where none does."""
    right = tf.concat([symbols[1:], [0]], 0)[: tf.size(symbols)]
    same = tf.concat([rows[1:] == rows[:-1], [False]], 0)[: tf.size(symbols)]
    pair = tf.cast(symbols, tf.int64) * rules.size + tf.cast(right, tf.int64)
    index = tf.searchsorted(rules.pairs, pair)
    none = len(rules.pairs) - 1
    return tf.where(same & (tf.gather(rules.pairs, index) == pair), index, none)


def _lengths(begins: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Lengths of the runs that begin where `begins` `(N,)` says."""
    starts = tf.concat([tf.where(begins)[:, 0], [size]], 0)
    return starts[1:] - starts[:-1]


def _bytes_of(tokens: Sequence[str], added: set[int]) -> list[bytes]:
    byte = {character: bytes([index]) for index, character in enumerate(byte_characters())}
    return [
        token.encode() if index in added or not set(token) <= set(byte) else b"".join(byte[c] for c in token)
        for index, token in enumerate(tokens)
    ]


def _read_vocabulary(path: Path) -> dict[str, int]:
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def _read_merges(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="\n") as stream:
        lines = [line.rstrip("\r\n") for line in stream]
    return [line for line in lines if line and not line.startswith("#version")]
