"""WordPiece: words, and their longest pieces from the left, in the graph.

Source: Schuster and Nakajima (2012), Japanese and Korean Voice Search; as used by Devlin et al. (2019), BERT,
https://arxiv.org/abs/1810.04805; in linear time by Song et al. (2021), https://arxiv.org/abs/2012.15524.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf

from .added_tokens import AddedToken, AddedTokens
from .characters import Rewriting, Table, bert_kinds, bert_normalization, bert_words, byte_lengths, row_ids
from .packages import import_tensorflow_text, import_tokenizers
from .strings import Path, Stream, batch, ragged_ids, write

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4 of every vocabulary learned here


class WordPieceTokenizer(tf.Module):
    """A WordPiece vocabulary as a tokenizer that runs in the graph.

    A text is normalized as BERT does it (control characters dropped, then `strip_accents` and `lowercase`), split at
    white space and around punctuation and, with `split_on_cjk`, ideographs; each word becomes its longest pieces from
    the left, or `oov_token` where it has none or is longer than `max_word_length`. The ids equal those of Hugging
    Face's `BertTokenizer`.

    Differs from the paper: training is byte-pair merging by frequency, as in the package `tokenizers`.

    Args:
        vocabulary: the tokens in the order of their ids, a list or the path of a file with one a line.
        lowercase: whether capitals become small letters.
        strip_accents: whether accents are dropped. None: as `lowercase`.
        split_on_cjk: whether each ideograph is a word of its own.
        suffix_indicator: what pieces inside a word begin with.
        oov_token: the token of words without pieces.
        pad_token, start_token, end_token: special tokens of the vocabulary.
        mask_token: the token that hides a word in masked training. None: the vocabulary has none.
        max_word_length: characters of the longest word that is split into pieces.
        added_tokens: tokens that are found in the text as they are written, such as special ones; see `AddedToken`.
        name: name of the module.

    Attributes:
        vocabulary, vocabulary_size: the tokens, and how many, added ones included.
        pad_token_id, unk_token_id, start_token_id, end_token_id, mask_token_id: ids of the special tokens.

    Example:

    >>> from keras_transformer.text import WordPieceTokenizer
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "!"]
    >>> tokenizer = WordPieceTokenizer(vocabulary, lowercase=True)
    >>> ids = tokenizer(["Unaffable!", "what"])
    >>> ids.to_list()
    [[5, 6, 7, 8], [1]]
    >>> tokenizer.detokenize(ids).numpy().tolist()
    [b'unaffable !', b'[UNK]']
    """

    def __init__(
        self,
        vocabulary: Sequence[str] | Path,
        lowercase: bool = False,
        strip_accents: bool | None = None,
        split_on_cjk: bool = True,
        suffix_indicator: str = "##",
        oov_token: str = "[UNK]",
        pad_token: str = "[PAD]",
        start_token: str = "[CLS]",
        end_token: str = "[SEP]",
        mask_token: str | None = "[MASK]",
        max_word_length: int = 100,
        added_tokens: Sequence[AddedToken] = (),
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = _read(vocabulary)
        words = tuple(vocabulary)
        self._ids = {token: index for index, token in enumerate(words)}
        _check(words, self._ids)
        self._ids.update({token.text: token.token_id for token in added_tokens})
        written = {index: token for token, index in self._ids.items()}
        self._tokens = tuple(written.get(index, "") for index in range(max(written) + 1))
        self._added = AddedTokens(added_tokens)
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self.split_on_cjk = split_on_cjk
        self.suffix_indicator = suffix_indicator
        self.oov_token = oov_token
        self.max_word_length = max_word_length
        self.vocabulary_size = len(self._tokens)
        self.unk_token_id = self._special("oov_token", oov_token)
        self.pad_token_id = self._special("pad_token", pad_token)
        self.start_token_id = self._special("start_token", start_token)
        self.end_token_id = self._special("end_token", end_token)
        self.mask_token_id = None if mask_token is None else self._special("mask_token", mask_token)
        self._model = np.frombuffer(
            import_tensorflow_text().build_fast_wordpiece_model(
                list(words), 2**31 - 1, suffix_indicator, oov_token, True, False
            ),
            "uint8",
        )
        texts = [tf.TensorSpec([None], tf.string)]
        # Constants of the graph: what is made eagerly is lost when TensorFlow clears its caches.
        self._tokenize = tf.function(
            lambda texts: self._added(_valid(texts), lambda some: self._pieces_of(some)[0]), texts, autograph=False
        )
        self._with_offsets = tf.function(
            lambda texts: self._added(_valid(texts), self._pieces_with_offsets), texts, autograph=False
        )
        self._detokenize = tf.function(self._text_of, [tf.RaggedTensorSpec([None, None], tf.int32)], autograph=False)

    @property
    def vocabulary(self) -> list[str]:
        return list(self._tokens)

    def _special(self, argument: str, token: str) -> int:
        if token not in self._ids:
            raise ValueError(
                f"{argument} must be in the vocabulary, received {token!r}: pass the token that the vocabulary "
                f"has for it{', or None' if argument == 'mask_token' else ''}."
            )
        return self._ids[token]

    def __call__(self, texts: Any) -> tf.RaggedTensor:
        """Ids of the pieces of each text, without special tokens.

        For given words pass them flat and put the rows together again: `tf.RaggedTensor.from_row_splits(
        tokenizer(words.values), words.row_splits)` is `(B, words, pieces)` for a ragged tensor of words.

        Args:
            texts: string tensor `(B,)`, or a list of str or bytes. What is not UTF-8 is read as U+FFFD.

        Returns:
            int32 ragged tensor `(B, None)`.
        """
        return self._tokenize(batch(texts))

    def tokenize_with_offsets(self, texts: Any) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Ids of the pieces of each text, and where in the text each piece begins and ends.

        Args:
            texts: string tensor `(B,)`, or a list of str or bytes.

        Returns:
            int32 ragged tensors `(B, None)`: ids, starts and ends. Offsets count characters (code points) of the text
            as it came in, from 0, the end exclusive: `text[start:end]` is what the piece stands for.
        """
        return self._with_offsets(batch(texts))

    def detokenize(self, ids: Any) -> tf.Tensor:
        """Text of each row of ids: words with a space between them.

        Pad, start and end ids are dropped. Ids outside the vocabulary are read as the unknown token.

        Args:
            ids: integer tensor, dense `(B, T)` or ragged `(B, None)`.

        Returns:
            string tensor `(B,)`.
        """
        return self._detokenize(ragged_ids(ids))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The written form of each id of one sequence, special tokens included, for pictures."""
        return [self._tokens[index] for index in np.asarray(ids, "int64").reshape(-1)]

    def save(self, path: Path) -> None:
        """Writes the vocabulary to `path`, a token a line, wholly or not at all."""
        write(path, "".join(f"{token}\n" for token in self._tokens).encode())

    @classmethod
    def train(
        cls,
        texts: Iterable[str | bytes] | tf.data.Dataset,
        vocabulary_size: int,
        lowercase: bool = False,
        strip_accents: bool | None = None,
        split_on_cjk: bool = True,
        min_frequency: int = 2,
    ) -> "WordPieceTokenizer":
        """Learns a vocabulary from a stream of text.

        Pad 0, unknown 1, start 2, end 3, mask 4; then the characters of the texts, those inside words
        first; then merged pieces, the most frequent first. The same texts give the same vocabulary.

        Args:
            texts: str or bytes one by one, or a dataset of string scalars or of pairs of them.
            vocabulary_size: number of tokens, special tokens included.
            lowercase, strip_accents, split_on_cjk: as in the constructor.
            min_frequency: how often two pieces must meet to be merged.

        Returns:
            The tokenizer; `save` writes its vocabulary.

        Raises:
            TypeError: `texts` are not str or bytes.
            ValueError: no text is left to learn from, or the texts cannot give a vocabulary of this size.
        """
        tokenizers = import_tokenizers()
        import_tensorflow_text()
        normalization = bert_normalization(lowercase, lowercase if strip_accents is None else strip_accents)
        counts = _count_words(texts, normalization, bert_kinds(split_on_cjk))
        if not counts:
            raise ValueError("texts must hold at least one text that is not blank, received none: check the corpus.")
        # The learner numbers pieces as it meets them, in an order that changes from run to run, and the numbers decide
        # between equally frequent pairs: so the first pieces are named beforehand.
        inside = sorted({f"##{character}" for word in counts for character in word[1:]})
        learner = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
        learner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        learner.train_from_iterator(
            (f"{word} " * count for word, count in counts.items()),
            tokenizers.trainers.WordPieceTrainer(
                vocab_size=vocabulary_size,
                min_frequency=min_frequency,
                special_tokens=[*SPECIAL_TOKENS, *inside],
                show_progress=False,
            ),
        )
        found = learner.get_vocab()
        if len(found) != vocabulary_size:
            bound = "smallest" if len(found) > vocabulary_size else "largest"
            raise ValueError(
                f"vocabulary_size must be a size that the texts can give, received {vocabulary_size}: the {bound} "
                f"possible size is {len(found)} (min_frequency={min_frequency})."
            )
        return cls(
            sorted(found, key=found.__getitem__),
            lowercase=lowercase,
            strip_accents=strip_accents,
            split_on_cjk=split_on_cjk,
        )

    def _pieces_of(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        """Ids `(B, None)`; their words; and begin and end of each piece `(W, None)` in bytes of its word."""
        words = bert_words(texts, bert_normalization(self.lowercase, self.strip_accents), bert_kinds(self.split_on_cjk))
        too_long = words.codes.row_lengths() > self.max_word_length
        strings = tf.where(too_long, self.oov_token, tf.strings.unicode_encode(words.codes, "UTF-8"))
        tokenizer = import_tensorflow_text().FastWordpieceTokenizer(
            model_buffer=tf.constant(self._model), token_out_type=tf.int32
        )
        ids, begins, ends = tokenizer.tokenize_with_offsets(strings)
        return _by_text(ids, words.splits), words, begins, ends

    def _pieces_with_offsets(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        ids, words, begins, ends = self._pieces_of(texts)
        # Bytes of a word to characters of the text, by where each character begins in all words put together.
        lengths = byte_lengths(words.codes.values)
        byte_begins = tf.cumsum(lengths, exclusive=True)
        word = row_ids(begins.row_splits)
        word_begins, word_ends = words.codes.row_starts(), words.codes.row_limits()
        shift = tf.gather(tf.gather(tf.concat([byte_begins, [0]], 0), word_begins), word)
        first = tf.searchsorted(byte_begins, tf.cast(begins.values, tf.int64) + shift, out_type=tf.int64)
        last = tf.searchsorted(byte_begins, tf.cast(ends.values, tf.int64) + shift, out_type=tf.int64) - 1
        whole = tf.gather(word_ends - word_begins > self.max_word_length, word)
        first = tf.where(whole, tf.gather(word_begins, word), first)
        last = tf.where(whole, tf.gather(word_ends, word) - 1, last)
        starts = tf.cast(tf.gather(words.source, first), tf.int32)
        stops = tf.cast(tf.gather(words.source, last), tf.int32) + 1
        return ids, ids.with_values(starts), ids.with_values(stops)

    def _text_of(self, ids: tf.RaggedTensor) -> tf.Tensor:
        known = (ids.values >= 0) & (ids.values < self.vocabulary_size)
        ids = ids.with_values(tf.where(known, ids.values, self.unk_token_id))
        special = tf.constant([self.pad_token_id, self.start_token_id, self.end_token_id])
        ids = tf.ragged.boolean_mask(ids, ids.with_values(tf.reduce_all(ids.values[:, tf.newaxis] != special, axis=1)))
        suffix = self.suffix_indicator
        written = [token.removeprefix(suffix) if token.startswith(suffix) else f" {token}" for token in self._tokens]
        return tf.strings.strip(tf.strings.reduce_join(tf.gather(tf.constant(written), ids), axis=1))


def _count_words(texts: Any, normalization: Rewriting, kinds: Table) -> Counter[str]:
    """How often each normalized word occurs in a stream of texts."""
    words_of = tf.function(
        lambda batch: tf.strings.unicode_encode(bert_words(batch, normalization, kinds).codes, "UTF-8"),
        [tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    counts: Counter[bytes] = Counter()
    stream = iter(Stream(texts))
    while some := list(islice(stream, 1024)):
        counts.update(words_of(tf.constant(some)).numpy().tolist())
    return Counter({word.decode(): count for word, count in counts.items()})


def _valid(texts: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)


def _by_text(pieces: tf.RaggedTensor, splits: tf.Tensor) -> tf.RaggedTensor:
    """Pieces of each word `(W, None)` to pieces of each text `(B, None)`, whose words `splits` counts."""
    return tf.RaggedTensor.from_row_splits(pieces.values, tf.gather(pieces.row_splits, splits), validate=False)


def _check(tokens: tuple[str, ...], ids: dict[str, int]) -> None:
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or not token:
            raise ValueError(f"vocabulary must hold strings that are not empty, received {token!r} at index {index}.")
        if ids[token] != index:
            raise ValueError(f"vocabulary must hold each token once, received {token!r} at {index} and {ids[token]}.")


def _read(path: Path) -> list[str]:
    if not os.path.isfile(path):
        raise ValueError(
            "vocabulary must be a list of tokens or the path of a file with one a line, received "
            f"{os.fspath(path)!r}, which is not a file: check the path."
        )
    with open(path, encoding="utf-8", newline="\n") as lines:
        return [line.rstrip("\r\n") for line in lines]
