"""What goes in and out of a tokenizer: str, bytes or tensors as batches of strings, ids as ragged batches, files."""

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import tensorflow as tf

Path = str | os.PathLike[str]


def clean(texts: Any) -> tf.Tensor:
    """Text that every tokenizer can read, whatever came in.

    Invalid UTF-8, and surrogates that are not a pair, become U+FFFD, the replacement character;
    control characters (NUL, line ends, tabs) become spaces. Joiners and direction marks stay, since
    some scripts are written with them.

    Args:
        texts: string tensor `(B,)`, or a list of str or bytes.

    Returns:
        string tensor `(B,)`, valid UTF-8.
    """
    valid = tf.strings.unicode_transcode(batch(texts), "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)
    return tf.strings.regex_replace(valid, r"\p{Cc}", " ")


def batch(texts: Any) -> tf.Tensor:
    """`texts`, a string tensor or a list of str or bytes, as a string tensor `(B,)`."""
    if not tf.is_tensor(texts):
        texts = tf.constant(encoded(texts), tf.string)
    if texts.dtype != tf.string or texts.shape.rank != 1:
        raise ValueError(
            f"texts must be strings of the shape (B,), received {texts.dtype.name} of the shape "
            f"{texts.shape}: put a single text in a batch of one."
        )
    return texts


def encoded(texts: Any) -> list[bytes]:
    """UTF-8 bytes of each text. Paired surrogates are joined; one alone becomes U+FFFD."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be a batch of texts, received a single {type(texts).__name__}: put it in a list.")
    found = []
    for index, text in enumerate(texts):
        if isinstance(text, str):
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        if not isinstance(text, bytes):
            raise TypeError(f"texts must be str or bytes, received {type(text).__name__} at index {index}.")
        found.append(text)
    return found


def ragged_ids(ids: Any) -> tf.RaggedTensor:
    """Token ids, dense `(B, T)`, ragged or nested lists, as an int32 ragged tensor `(B, None)`."""
    if not tf.is_tensor(ids):
        ids = tf.ragged.constant(ids, tf.int32, ragged_rank=1) if isinstance(ids, list) else tf.constant(ids)
    if ids.shape.rank != 2 or not ids.dtype.is_integer:
        raise ValueError(
            f"ids must be integers of the shape (B, T), received {ids.dtype.name} of the shape "
            f"{ids.shape}: put a single sequence in a batch of one."
        )
    if not isinstance(ids, tf.RaggedTensor):
        ids = tf.RaggedTensor.from_tensor(ids)
    return tf.cast(ids, tf.int32)


class Stream:
    """Cleaned text for the trainer.

    The trainer reports an error of its iterator as one of its own, so the original is kept here.
    """

    def __init__(self, texts: Any) -> None:
        if isinstance(texts, str | bytes):
            raise TypeError(
                f"texts must be an iterable of texts, received a single {type(texts).__name__}: put it in a list."
            )
        self.texts = texts
        self.count = 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for texts in self._batches():
                for text in clean(texts).numpy():
                    self.count += bool(text.strip())
                    yield text
        except Exception as error:
            self.error = error
            raise

    def _batches(self, size: int = 1024) -> Iterator[Any]:
        """Batches of strings `(size,)`; the last one is smaller."""
        if isinstance(self.texts, tf.data.Dataset):
            for columns in self.texts.batch(size):
                yield from tf.nest.flatten(columns)
        else:
            texts = iter(self.texts)
            while some := list(islice(texts, size)):
                yield some


def write(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part."""
    # In the same directory: a rename is atomic on one disk only.
    unfinished = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "wb") as stream:
            stream.write(content)
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise
