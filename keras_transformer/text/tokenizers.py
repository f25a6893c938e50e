"""Strings to token ids and back, inside the TensorFlow graph, and the learning of the vocabulary.

The tokenizer is a `tf.Module`, so a SavedModel that has it as an attribute carries the vocabulary
and takes strings.

Source: Kudo and Richardson (2018), SentencePiece, https://arxiv.org/abs/1808.06226; byte-pair
encoding for translation: Sennrich et al. (2016), https://arxiv.org/abs/1508.07909.
"""

import functools
import io
import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from .packages import import_sentencepiece, import_tensorflow_text, one_line
from .strings import Path, Stream, clean, ragged_ids, write

MODEL_TYPES = ("bpe", "unigram", "char", "word")
PAD, UNKNOWN, START, END = 0, 1, 2, 3  # The special ids of every vocabulary learned here.


class SentencePieceTokenizer(tf.Module):
    """A SentencePiece model as a tokenizer that runs in the graph.

    Args:
        model: bytes of a SentencePiece model, or the path of its file.
        pad_token_id, start_token_id, end_token_id: None reads the id from the model; an integer
            names it for a model that has none (T5 starts with its pad id).
        name: name of the module.
    """

    def __init__(
        self,
        model: bytes | Path,
        pad_token_id: int | None = None,
        start_token_id: int | None = None,
        end_token_id: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.proto = model if isinstance(model, bytes) else _read(model)
        processor = import_sentencepiece().SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.proto)
        except RuntimeError as error:
            raise ValueError(
                f"model must be a SentencePiece model, received {len(self.proto)} bytes that are "
                f"not one ({one_line(error)}): make one with learn_vocabulary."
            ) from error
        self.vocabulary_size: int = processor.get_piece_size()
        self.unk_token_id: int = processor.unk_id()
        self.pad_token_id = self._special("pad", pad_token_id, processor.pad_id())
        self.start_token_id = self._special("start", start_token_id, processor.bos_id())
        self.end_token_id = self._special("end", end_token_id, processor.eos_id())
        # The op that holds the model belongs to whatever runs it, and TensorFlow drops what ran eagerly when it clears
        # its caches, as `keras.utils.set_random_seed` makes it do: so the op is a part of each function's graph.
        sentencepiece = functools.partial(
            import_tensorflow_text().SentencepieceTokenizer, model=self.proto, out_type=tf.int32
        )
        self._tokenize = tf.function(
            lambda texts: sentencepiece().tokenize(texts), [tf.TensorSpec([None], tf.string)], autograph=False
        )
        self._detokenize = tf.function(
            lambda ids: sentencepiece().detokenize(ids), [tf.RaggedTensorSpec([None, None], tf.int32)], autograph=False
        )
        self._pieces = tf.function(
            lambda ids: sentencepiece().id_to_string(ids), [tf.TensorSpec([None], tf.int32)], autograph=False
        )

    def _special(self, name: str, given: int | None, found: int) -> int:
        token_id = found if given is None else given
        if given is None and found < 0:
            raise ValueError(
                f"model must have a {name} token, received a SentencePiece model without one: pass "
                f"{name}_token_id, or learn the vocabulary with learn_vocabulary, which gives it "
                "all four special tokens."
            )
        if not 0 <= token_id < self.vocabulary_size:
            raise ValueError(
                f"{name}_token_id must be in [0, {self.vocabulary_size}), the vocabulary of the "
                f"model, received {token_id}."
            )
        return token_id

    def __call__(self, texts: Any) -> tf.RaggedTensor:
        """Token ids of each text, without special tokens.

        Args:
            texts: string tensor `(B,)`, or a list of str or bytes. Cleaned first, see `clean`.

        Returns:
            int32 ragged tensor `(B, None)`.
        """
        return self._tokenize(clean(texts))

    def detokenize(self, ids: Any) -> tf.Tensor:
        """Text of each row of ids.

        Pad, start and end ids are dropped. Ids outside the vocabulary, which a model with a padded
        output table can emit, are read as the unknown token: one bad id must not fail the whole
        batch.

        Args:
            ids: integer tensor, dense `(B, T)` or ragged `(B, None)`.

        Returns:
            string tensor `(B,)`; the unknown token is written as SentencePiece writes it, ` ⁇ `.
        """
        ids = ragged_ids(ids)
        known = (ids.flat_values >= 0) & (ids.flat_values < self.vocabulary_size)
        ids = ids.with_flat_values(tf.where(known, ids.flat_values, self.unk_token_id))
        special = tf.constant([self.pad_token_id, self.start_token_id, self.end_token_id])
        written = tf.reduce_all(ids.flat_values[:, tf.newaxis] != special, axis=1)
        return self._detokenize(tf.ragged.boolean_mask(ids, ids.with_flat_values(written)))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The written form of each id of one sequence, special tokens included, for pictures."""
        ids = np.asarray(ids, "int32").reshape(-1)
        return [piece.decode() for piece in self._pieces(ids).numpy()]

    def save(self, path: Path) -> None:
        """Writes the SentencePiece model to `path`, wholly or not at all."""
        write(path, self.proto)


def learn_vocabulary(
    texts: Iterable[str | bytes] | tf.data.Dataset,
    path: Path,
    vocabulary_size: int,
    model_type: str = "bpe",
    *,
    character_coverage: float = 1.0,
    input_sentence_size: int = 0,
    max_sentence_bytes: int = 4192,
    normalization: str = "nmt_nfkc",
    byte_fallback: bool = False,
    seed: int = 0,
) -> SentencePieceTokenizer:
    """Learns a SentencePiece vocabulary from a stream of text and writes its model to `path`.

    The special ids are pad 0, unknown 1, start 2 and end 3. The texts are read once and cleaned as
    the tokenizer cleans its input (see `clean`).

    Args:
        texts: str or bytes one by one, or a dataset of string scalars or of pairs of them (both
            sides are learned from: a joint vocabulary).
        path: file of the SentencePiece model; its directory is made. Written wholly or not at all.
        vocabulary_size: number of tokens, special tokens included.
        model_type: "bpe", "unigram", "char" or "word".
        character_coverage: share of the characters that get a token of their own.
        input_sentence_size: 0 learns from all texts and holds them in memory; a positive number
            draws that many at random from the stream, so that memory stays flat on a huge corpus.
        max_sentence_bytes: longer texts are left out of the learning.
        normalization: SentencePiece's rule; "identity" keeps every character as it is.
        byte_fallback: True spells characters without a token as bytes, so that no text becomes
            unknown.
        seed: of the draw of `input_sentence_size`.

    Returns:
        The tokenizer.

    Raises:
        TypeError: `texts` are not str or bytes.
        ValueError: an argument is wrong, no text is left to learn from, or the corpus cannot give a
            vocabulary of this size; the message states the largest or smallest possible size.
    """
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be one of {', '.join(MODEL_TYPES)}, received {model_type!r}.")
    if vocabulary_size <= END:
        raise ValueError(
            f"vocabulary_size must be at least {END + 1}, the number of special tokens, received {vocabulary_size}."
        )
    if 0 != input_sentence_size <= 100:  # SentencePiece draws no fewer.
        raise ValueError(f"input_sentence_size must be 0 (all texts) or more than 100, received {input_sentence_size}.")
    sentencepiece = import_sentencepiece()
    import_tensorflow_text()  # Learning takes minutes: what would fail after it fails before it.
    if os.path.isdir(path):
        raise ValueError(f"path must be the path of a file, received the directory {os.fspath(path)}: add a file name.")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)

    stream = Stream(texts)
    proto = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(stream),
            model_writer=proto,
            vocab_size=vocabulary_size,
            model_type=model_type,
            character_coverage=character_coverage,
            input_sentence_size=input_sentence_size,
            max_sentence_length=max_sentence_bytes,
            normalization_rule_name=normalization,
            byte_fallback=byte_fallback,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=START,
            eos_id=END,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        if stream.error is not None:
            raise stream.error from None
        raise _explained(error, vocabulary_size, stream.count, max_sentence_bytes) from error
    tokenizer = SentencePieceTokenizer(proto.getvalue())
    # "char" gives fewer tokens than asked for, and SentencePiece does not mention it.
    if tokenizer.vocabulary_size < vocabulary_size:
        raise ValueError(_too_large(vocabulary_size, tokenizer.vocabulary_size))
    tokenizer.save(path)
    return tokenizer


def _explained(error: Exception, vocabulary_size: int, count: int, max_sentence_bytes: int) -> ValueError:
    """SentencePiece's error in terms of the arguments of `learn_vocabulary`."""
    message = str(error)
    if count == 0 or "sentences_.empty()" in message:
        return ValueError(
            f"texts must hold at least one text of at most {max_sentence_bytes} bytes, received "
            f"{count} texts that are not blank: check the corpus, or raise max_sentence_bytes."
        )
    if largest := re.search(r"Vocabulary size too high.*<= (\d+)", message):
        return ValueError(_too_large(vocabulary_size, int(largest[1])))
    if smallest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return ValueError(
            f"vocabulary_size must hold every character of the corpus, received {vocabulary_size}: "
            f"the smallest possible size is {smallest[1]}, or lower character_coverage."
        )
    return ValueError(f"SentencePiece refused the arguments of learn_vocabulary: {one_line(error)}")


def _too_large(vocabulary_size: int, largest: int) -> str:
    return (
        f"vocabulary_size must not exceed what the corpus can give, received {vocabulary_size}: "
        f"the largest possible size is {largest}; lower vocabulary_size or give more text."
    )


def _read(path: Path) -> bytes:
    if not os.path.isfile(path):
        raise ValueError(
            "model must be the bytes of a SentencePiece model or the path of its file, received "
            f"{os.fspath(path)!r}, which is not a file: check the path."
        )
    with open(path, "rb") as stream:
        return stream.read()
