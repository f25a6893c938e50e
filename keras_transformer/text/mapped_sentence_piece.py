"""SentencePiece models whose pieces have the ids of another vocabulary, in the graph: T5, Marian.

Source: Kudo and Richardson (2018), SentencePiece, https://arxiv.org/abs/1808.06226.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .added_tokens import AddedToken, AddedTokens
from .characters import byte_lengths, decode, row_ids
from .packages import import_sentencepiece, import_tensorflow_text, one_line
from .strings import batch, ragged_ids

SPACE = "\u2581"  # what SentencePiece writes for a space


class MappedSentencePieceTokenizer(tf.Module):
    """A SentencePiece model that splits, and a vocabulary that numbers the pieces.

    Unlike `SentencePieceTokenizer`, which cleans its texts first, it leaves every character to the model.

    Args:
        model: bytes of the SentencePiece model.
        vocabulary: id of each token; a piece without one is unknown. None: the ids of the model.
        pad_token, unk_token, start_token, end_token: special tokens, of the vocabulary or among `added_tokens`.
        added_tokens: tokens that are found in the text as they are written, see `AddedToken`.
        language_codes: whether what a text begins with, such as ">>fr<<", is one token.
        spaces: further characters that are read as a space.
        target_model: bytes of the SentencePiece model of the other language, for `target`.
        name: name of the module.

    Attributes:
        vocabulary_size: how many tokens, added ones included.
        pad_token_id, unk_token_id, start_token_id, end_token_id: ids of the special tokens.
        target: the tokenizer of texts in the other language, with the same vocabulary; itself where there is one model.
    """

    def __init__(
        self,
        model: bytes,
        vocabulary: Mapping[str, int] | None = None,
        pad_token: str = "<pad>",
        unk_token: str = "<unk>",
        start_token: str = "<pad>",
        end_token: str = "</s>",
        added_tokens: Sequence[AddedToken] = (),
        language_codes: bool = False,
        spaces: str = "",
        target_model: bytes | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        pieces = _pieces_of(model)
        ids = {piece: index for index, piece in enumerate(pieces)} if vocabulary is None else dict(vocabulary)
        everything = {**ids, **{token.text: token.token_id for token in added_tokens}}
        for argument, token in {
            "pad_token": pad_token,
            "unk_token": unk_token,
            "start_token": start_token,
            "end_token": end_token,
        }.items():
            if token not in everything:
                raise ValueError(
                    f"{argument} must be in the vocabulary, received {token!r}: pass the token that the vocabulary has "
                    "for it."
                )
        self.proto = model
        self.vocabulary_size = max(everything.values()) + 1
        self.pad_token_id, self.unk_token_id = everything[pad_token], everything[unk_token]
        self.start_token_id, self.end_token_id = everything[start_token], everything[end_token]
        self._tokens = [""] * self.vocabulary_size
        for token, index in everything.items():
            self._tokens[index] = token
        self._ids = np.array([ids.get(piece, self.unk_token_id) for piece in pieces], "int32")
        self._codes = [token for token in ids if token.startswith(">>") and token.endswith("<<")]
        self._code_ids = np.array([*(ids[code] for code in self._codes), self.unk_token_id], "int32")
        self._language_codes = language_codes
        self._spaces = spaces
        self._added = AddedTokens(added_tokens)
        texts = [tf.TensorSpec([None], tf.string)]
        self._tokenize = tf.function(lambda texts: self._with(texts, self._ids_of), texts, autograph=False)
        self._with_offsets = tf.function(lambda texts: self._with(texts, self._ids_and_offsets), texts, autograph=False)
        self._detokenize = tf.function(self._text_of, [tf.RaggedTensorSpec([None, None], tf.int32)], autograph=False)
        self.target = self
        if target_model is not None:
            self.target = MappedSentencePieceTokenizer(
                target_model, ids, pad_token, unk_token, start_token, end_token, added_tokens, language_codes, spaces
            )

    @property
    def vocabulary(self) -> list[str]:
        return list(self._tokens)

    def __call__(self, texts: Any) -> tf.RaggedTensor:
        """Ids of the pieces of each text, without special tokens but those that are written in it.

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
            int32 ragged tensors `(B, None)`: ids, starts and ends, in characters (code points) of the text as it came
            in, the end exclusive. A piece that begins a word has the space before it.
        """
        return self._with_offsets(batch(texts))

    def detokenize(self, ids: Any) -> tf.Tensor:
        """Text of each row of ids.

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

    def _with(self, texts: tf.Tensor, tokenize: Any) -> Any:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)
        for character in self._spaces:
            texts = tf.strings.regex_replace(texts, character, " ")
        return self._added(texts, tokenize)

    def _sentencepiece(self) -> Any:
        return import_tensorflow_text().SentencepieceTokenizer(model=self.proto, out_type=tf.int32)

    def _ids_of(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts, code, _ = self._without_code(texts)
        pieces = self._sentencepiece().tokenize(texts)
        return tf.concat([code, pieces.with_values(tf.gather(self._ids, pieces.values))], axis=1)

    def _ids_and_offsets(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        texts, code, skipped = self._without_code(texts)
        pieces, begins, ends = self._sentencepiece().tokenize_with_offsets(texts)
        characters = decode(texts)
        lengths = byte_lengths(characters.codes)
        byte_ends = tf.cumsum(lengths)
        row = row_ids(pieces.row_splits)
        first = tf.gather(characters.splits, row)
        shift = tf.gather(tf.concat([[0], byte_ends], 0), first)
        # A piece can begin or end inside a character that the model's normalization makes several of.
        starts = tf.searchsorted(byte_ends, tf.cast(begins.values, tf.int64) + shift, side="right", out_type=tf.int64)
        stops = tf.searchsorted(byte_ends - lengths, tf.cast(ends.values, tf.int64) + shift, out_type=tf.int64)
        before = tf.gather(skipped, row)
        starts, stops = (tf.cast(place - first, tf.int32) + before for place in (starts, stops))
        coded = tf.gather(skipped, row_ids(code.row_splits))
        return (
            tf.concat([code, pieces.with_values(tf.gather(self._ids, pieces.values))], axis=1),
            tf.concat([code.with_values(tf.zeros_like(coded)), pieces.with_values(starts)], axis=1),
            tf.concat([code.with_values(coded), pieces.with_values(stops)], axis=1),
        )

    def _without_code(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.RaggedTensor, tf.Tensor]:
        """Texts without the language code they begin with; ids `(B, 0 or 1)` and lengths `(B,)` of the codes."""
        if not self._language_codes:
            none = tf.zeros(tf.shape(texts), tf.int32)  # their lengths, and no ids
            return texts, tf.RaggedTensor.from_row_lengths(none[:0], tf.cast(none, tf.int64), validate=False), none
        coded = tf.strings.regex_full_match(texts, "(?s)>>.*?<<.*")
        rest = tf.strings.regex_replace(texts, "(?s)^>>.*?<<", "", replace_global=False)
        length = tf.strings.length(texts) - tf.strings.length(rest)
        codes = tf.boolean_mask(tf.strings.substr(texts, tf.zeros_like(length), length), coded)
        # An unknown code has the last index.
        known = tf.concat([codes[:, tf.newaxis] == [*self._codes, ""], tf.ones_like(codes[:, tf.newaxis] == "")], 1)
        index = tf.minimum(tf.argmax(tf.cast(known, tf.int32), axis=1), len(self._codes))
        ids = tf.RaggedTensor.from_row_lengths(
            tf.gather(self._code_ids, index), tf.cast(coded, tf.int64), validate=False
        )
        return rest, ids, tf.strings.length(texts, "UTF8_CHAR") - tf.strings.length(rest, "UTF8_CHAR")

    def _text_of(self, ids: tf.RaggedTensor) -> tf.Tensor:
        known = (ids.values >= 0) & (ids.values < self.vocabulary_size)
        ids = ids.with_values(tf.where(known, ids.values, self.unk_token_id))
        special = tf.constant([self.pad_token_id, self.start_token_id, self.end_token_id])
        ids = tf.ragged.boolean_mask(ids, ids.with_values(tf.reduce_all(ids.values[:, tf.newaxis] != special, axis=1)))
        written = [token.replace(SPACE, " ") for token in self._tokens]
        texts = tf.strings.reduce_join(tf.gather(tf.constant(written), ids), axis=1)
        return tf.strings.regex_replace(texts, "^ ", "")


def _pieces_of(model: bytes) -> list[str]:
    processor = import_sentencepiece().SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError(
            f"model must be a SentencePiece model, received {len(model)} bytes that are not one ({one_line(error)})."
        ) from error
    size = processor.get_piece_size()
    if any(processor.is_byte(index) for index in range(size)):
        raise ValueError("model must have no byte pieces, received one with byte_fallback: use SentencePieceTokenizer.")
    return [processor.id_to_piece(index) for index in range(size)]
