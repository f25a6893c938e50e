"""Many texts through a graph, a batch of like length at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_transformer.generation.arguments import check_count

TOKENS_TOGETHER = 512  # of a CPU; see docs/design-notes.md


def as_list(texts: Any, of: str = "strings") -> list:
    """`texts` as a list; a single string, which is iterable too, is refused."""
    if isinstance(texts, (str, bytes)):
        raise ValueError(
            f"`texts` must be a list of strings. Received a single string: {texts[:40]!r}. Put it in a list."
        )
    if not isinstance(texts, Iterable):
        raise TypeError(f"`texts` must be a list of {of}. Received: {texts!r}")
    return list(texts)


def of_like_length(texts: list, batch_size: int, verbose: Any, unit_name: str = "text") -> Iterator[list[int]]:
    """The places of `texts` that go through the graph together, with a progress bar if `verbose`."""
    check_count("batch_size", batch_size)
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    bar = keras.utils.Progbar(len(texts), unit_name=unit_name, verbose=verbose)
    for start in range(0, len(texts), batch_size):
        places = by_length[start : start + batch_size]
        yield places
        bar.update(start + len(places))


def in_groups(
    lengths: tf.Tensor, batch_tokens: int, read: Callable[[tf.Tensor], tf.Tensor], width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `read` makes of rows of tokens, those of like length together, so that little of a group is padding.

    The longest come first. A row without a token is not read; one of more than `batch_tokens` is read by itself.

    Args:
        lengths: int32 `(R,)`, tokens of each row.
        batch_tokens: of a group, padding included.
        read: of the places of some rows, int32 `(N,)`, to float32 `(M, width)`.
        width: of what comes of it.

    Returns:
        What `read` gave for all groups, one after the other, `(sum of M, width)`, and the places of rows in the order
        in which they were read, `(R,)`.
    """
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)
    count = tf.math.count_nonzero(lengths, dtype=tf.int32)

    def group(start: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        rows = tf.maximum(batch_tokens // lengths[order[start]], 1)
        end = tf.minimum(start + rows, count)
        return end, found.write(found.size(), read(order[start:end]))

    # Of no groups at all the shape must be known.
    found = tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=[None, width])
    _, found = tf.while_loop(lambda start, _: start < count, group, (tf.constant(0), found), parallel_iterations=1)
    return found.concat(), order
