"""Words and labels to training examples: pieces, windows, and a label and a weight for each piece."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .pools import EXAMPLES_TOGETHER
from .subwords import Pieces, Windows, first_of_words, pieces_of_words, windows

LABEL_ON = ("first", "all")


def check_labels(labels: Sequence[str]) -> list[str]:
    """`labels` as a list; refused if they are not different strings."""
    found = list(labels)
    if isinstance(labels, str) or not found or not all(isinstance(label, str) and label for label in found):
        raise ValueError(f"labels must be a list of strings that are not empty, received {labels!r}.")
    if len(set(found)) != len(found):
        twice = sorted({label for label in found if found.count(label) > 1})
        raise ValueError(f"labels must be different, received {', '.join(twice)} more than once.")
    return found


def check_label_on(label_on: str) -> None:
    if label_on not in LABEL_ON:
        raise ValueError(f"label_on must be one of {', '.join(LABEL_ON)}, received {label_on!r}.")


def model_inputs(read: Windows, segment_capitals: bool) -> dict[str, tf.Tensor]:
    """What a model is called with."""
    inputs = {"token_ids": read.token_ids}
    if segment_capitals:
        inputs["segment_ids"] = read.capitals
    return inputs


def windows_for(tokenizer: Any, pieces: Pieces, max_length: int, overlap: int) -> Windows:
    """`windows`, with the special tokens that the tokenizer has."""
    return windows(
        pieces,
        max_length,
        overlap,
        tokenizer.pad_token_id,
        getattr(tokenizer, "start_token_id", None),
        getattr(tokenizer, "end_token_id", None),
    )


def to_tagged_examples(
    sentences: tf.data.Dataset,
    tokenizer: Callable[[Any], Any],
    labels: Sequence[str],
    max_length: int = 128,
    overlap: int = 32,
    label_on: str = "first",
    segment_capitals: bool = False,
) -> tf.data.Dataset:
    """Examples of a model that gives logits for each piece, in the order of the sentences, for `batch_by_tokens`.

    Each word counts once in loss and metrics: the sum of its weights is 1, whatever its pieces and windows are. Special
    tokens and padding have the weight 0, and so has a piece in a window that is not read there.

    Args:
        sentences: dataset of `(words, labels)`, two vectors of strings of one length, such as `tagged_dataset` makes.
        tokenizer: of words to ids, see `pieces_of_words`.
        labels: all labels; their places are their ids.
        max_length: positions of an example, special tokens included; longer sentences are cut into windows.
        overlap: pieces that two windows share.
        label_on: "first" learns the label on the first piece of a word; "all" on each, with the weights `1 / n`.
        segment_capitals: whether `segment_ids` are given too: 1 on words that begin with a capital letter, which a
            vocabulary of small letters cannot tell.

    Returns:
        A dataset of `(inputs, labels, weights)`, ragged batches `(B, None)`: `inputs` holds int32 `token_ids`, `(B,
        None, K)` of a tokenizer that gives each word `K` ids; labels are int32, weights float32. Iterating raises
        `tf.errors.InvalidArgumentError` at a label that is none of `labels`, or a sentence with fewer labels than
        words.
    """
    names = tf.constant(check_labels(labels))
    check_label_on(label_on)
    vector = tf.TensorSpec([None], tf.string)
    spec = sentences.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2 and all(vector.is_compatible_with(side) for side in spec)):
        raise ValueError(
            "sentences must be a dataset of (words, labels), two vectors of strings, received "
            f"{spec}: make it with tagged_dataset, not batched."
        )

    def ragged(side: Any) -> tf.RaggedTensor:
        return side if isinstance(side, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(side)

    def examples(words: Any, found: Any) -> tuple[dict[str, Any], tf.RaggedTensor, tf.RaggedTensor]:
        words, found = ragged(words), ragged(found)
        same = tf.equal(found.values[:, None], names)
        ids = tf.argmax(same, axis=1, output_type=tf.int32)
        known = tf.reduce_any(same, axis=1)
        checks = [
            tf.debugging.Assert(
                tf.reduce_all(known),
                ["labels must hold every label of the sentences: received the label", found.values[tf.argmin(known)]],
            ),
            tf.debugging.Assert(
                tf.reduce_all(tf.equal(words.row_lengths(), found.row_lengths())),
                ["sentences must have a label for each word: received one that has not"],
            ),
        ]
        with tf.control_dependencies(checks):
            ids = tf.identity(ids)
        pieces = pieces_of_words(tokenizer, words)
        read = windows_for(tokenizer, pieces, max_length, overlap)
        word_of_piece = pieces.words.values + tf.cast(
            tf.gather(words.row_starts(), pieces.words.value_rowids()), tf.int32
        )
        first = first_of_words(pieces).values
        if label_on == "first":
            weights = tf.cast(first, tf.float32)
        else:
            counts = tf.math.bincount(word_of_piece, minlength=tf.size(ids), dtype=tf.float32)
            weights = 1.0 / tf.gather(counts, word_of_piece)
        where = tf.stack([read.rows.values, read.columns.values], axis=1)
        shape = tf.shape(read.padding_mask)
        sizes = tf.reduce_sum(tf.cast(read.padding_mask, tf.int32), axis=1)
        dense = (
            model_inputs(read, segment_capitals),
            tf.scatter_nd(where, tf.gather(ids, word_of_piece), shape),
            tf.scatter_nd(where, weights, shape),
        )
        return tf.nest.map_structure(lambda x: tf.RaggedTensor.from_tensor(x, sizes), dense)

    batches = sentences.ragged_batch(EXAMPLES_TOGETHER)
    return batches.map(examples, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def count_labels(sentences: tf.data.Dataset) -> dict[str, int]:
    """How often each label occurs in a dataset of `(words, labels)`, in the order of the alphabet."""
    found: dict[bytes, int] = {}
    for _, labels in sentences.as_numpy_iterator():
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            found[label] = found.get(label, 0) + int(count)
    return {label.decode(): found[label] for label in sorted(found)}
