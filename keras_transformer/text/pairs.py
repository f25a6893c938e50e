"""Pairs of strings to training examples: tokenize, drop what cannot be learned from, shift for
teacher forcing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from .pools import EXAMPLES_TOGETHER
from .tokenizers import SentencePieceTokenizer


class Dropped(NamedTuple):
    """How many of how many pairs `to_examples` drops, and why; printing it says so in a line."""

    too_long: int
    empty: int
    total: int
    max_length: int

    @property
    def dropped(self) -> int:
        return self.too_long + self.empty

    def __str__(self) -> str:
        return (
            f"{self.dropped} of {self.total} pairs dropped ({self.too_long} longer than "
            f"{self.max_length} tokens, {self.empty} with an empty side)"
        )


def to_examples(
    pairs: tf.data.Dataset,
    source_tokenizer: SentencePieceTokenizer,
    target_tokenizer: SentencePieceTokenizer,
    max_length: int = 256,
) -> tf.data.Dataset:
    """Token ids of each pair, in the order of the pairs.

    A pair is dropped if a side has no token, or more than `max_length` with its special token: the
    end token of the source, the start token of the decoder input. `count_dropped` counts them.

    Args:
        pairs: dataset of `(source, target)`, two string scalars.
        source_tokenizer, target_tokenizer: from string to ids; one object for both is a joint
            vocabulary.
        max_length: most tokens of a side, special token included.

    Returns:
        A dataset of `(source_ids, target_ids)`, int32 ragged batches `(B, None)` of up to 1,024 pairs: the source
        ends with the end token, the target is raw. `unbatch()` gives single examples.
    """
    tokenize = _tokenize(pairs, source_tokenizer, target_tokenizer, max_length)

    def examples(source: tf.Tensor, target: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        source_ids, target_ids, too_long, empty = tokenize(source, target)
        end = tf.fill([source_ids.nrows(), 1], source_tokenizer.end_token_id)
        kept = ~(too_long | empty)
        ended = tf.concat([source_ids, end], axis=1)
        return tf.ragged.boolean_mask(ended, kept), tf.ragged.boolean_mask(target_ids, kept)

    batches = pairs.batch(EXAMPLES_TOGETHER)
    return batches.map(examples, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def count_dropped(
    pairs: tf.data.Dataset,
    source_tokenizer: SentencePieceTokenizer,
    target_tokenizer: SentencePieceTokenizer,
    max_length: int = 256,
) -> Dropped:
    """What `to_examples` drops when called with the same arguments. Tokenizes the whole dataset
    once.

    A pair that is both too long and empty on one side counts as empty.
    """
    tokenize = _tokenize(pairs, source_tokenizer, target_tokenizer, max_length)

    def counts(source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        _, _, too_long, empty = tokenize(source, target)
        return tf.stack([tf.math.count_nonzero(flags) for flags in (too_long & ~empty, empty, empty | ~empty)])

    batches = pairs.batch(EXAMPLES_TOGETHER)
    total = batches.map(counts, num_parallel_calls=tf.data.AUTOTUNE).reduce(tf.zeros([3], tf.int64), tf.add)
    too_long, empty, count = (int(number) for number in total)
    return Dropped(too_long, empty, count, max_length)


def shift(
    source: tf.Tensor,
    target: tf.Tensor,
    start_token_id: int = 2,
    end_token_id: int = 3,
) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
    """Teacher forcing: the decoder reads the target from the start token on and is asked for the
    next token.

    Args:
        source: int32 ids of the source `(S,)`, end token included.
        target: int32 ids of the target `(T - 1,)`, without special tokens.
        start_token_id, end_token_id: of the target's vocabulary.

    Returns:
        Keras's `(inputs, labels, weights)`: `inputs` holds `encoder_token_ids` `(S,)` and
        `decoder_token_ids` `(T,)`, start + target; labels `(T,)` are target + end; float32 weights
        `(T,)` are 1, and batching adds padding of weight 0, so the sum of weights is the number of
        real tokens. Ragged batches `(B, None)` go as well.
    """
    column = tf.fill(tf.concat([_row_count(target), [1]], axis=0), 0)
    decoder = tf.concat([column + start_token_id, target], axis=-1)
    labels = tf.concat([target, column + end_token_id], axis=-1)
    weights = tf.ones_like(labels, tf.float32)
    return {"encoder_token_ids": source, "decoder_token_ids": decoder}, labels, weights


def _row_count(ids: Any) -> tf.Tensor:
    """`[B]` of a ragged batch, `[]` of a single vector."""
    if isinstance(ids, tf.RaggedTensor):
        return ids.nrows(out_type=tf.int32)[tf.newaxis]
    return tf.zeros([0], tf.int32)


def _tokenize(
    pairs: tf.data.Dataset,
    source_tokenizer: SentencePieceTokenizer,
    target_tokenizer: SentencePieceTokenizer,
    max_length: int,
) -> Callable[..., tuple[tf.RaggedTensor, tf.RaggedTensor, tf.Tensor, tf.Tensor]]:
    """A function from a batch of pairs to their ids and to what is wrong with each, the arguments
    checked."""
    scalar = tf.TensorSpec([], tf.string)
    if pairs.element_spec != (scalar, scalar):
        raise ValueError(
            "pairs must be a dataset of (source, target), two string scalars, received "
            f"{pairs.element_spec}: make it with read_parallel or read_tsv, not batched."
        )
    if max_length < 2:
        raise ValueError(f"max_length must be at least 2, a token and a special token, received {max_length}.")

    def tokenize(source: tf.Tensor, target: tf.Tensor) -> tuple[Any, Any, tf.Tensor, tf.Tensor]:
        ids = source_tokenizer(source), target_tokenizer(target)
        source_length, target_length = (side.row_lengths() for side in ids)
        too_long = tf.maximum(source_length, target_length) + 1 > max_length
        empty = tf.minimum(source_length, target_length) == 0
        return *ids, too_long, empty

    return tokenize
