"""Parallel text on disk, read lazily: line `i` of one file translates line `i` of the other.

Only `\\n` ends a line. Splitting on all that Unicode calls a line break (as `str.splitlines` does)
would cut a line that holds U+2028 or U+0085 in one language only, and every later pair would be
wrong.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from typing import BinaryIO, cast

import tensorflow as tf

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_MARK = "\ufeff"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Path = str | os.PathLike[str]


def read_parallel(source: Path, target: Path) -> tf.data.Dataset:
    """Pairs of lines from two files, plain or gzip.

    The files are read while the dataset is iterated, so memory does not grow with the corpus.
    Reading stops with the shorter file and at the cut of a truncated one: call `check_parallel`
    once, before a long run, to refuse both.

    Args:
        source: path of the source sentences, one a line.
        target: path of their translations, line by line.

    Returns:
        A dataset of `(source, target)`, two string scalars without their line ends (`\\n` or
        `\\r\\n`). A carriage return in the middle of a line is lost too: TensorFlow's reader drops
        every one.
    """
    return tf.data.Dataset.zip((_lines(source, "source"), _lines(target, "target")))


def read_tsv(path: Path) -> tf.data.Dataset:
    """Pairs from one file, plain or gzip, with a source, a tab and a target on each line.

    Args:
        path: path of the file.

    Returns:
        A dataset of `(source, target)`, two string scalars. Iterating raises
        `tf.errors.InvalidArgumentError` at a line without exactly one tab; `check_tsv` gives its
        number beforehand.
    """

    def split(line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        columns = tf.strings.split(line, "\t")
        two = tf.debugging.Assert(tf.size(columns) == 2, ["expected one tab on each line, received the line", line])
        with tf.control_dependencies([two]):
            return columns[0], columns[1]

    return _lines(path, "path").map(split, num_parallel_calls=tf.data.AUTOTUNE)


def check_parallel(source: Path, target: Path) -> int:
    """Reads two files once, keeping one line of each in memory, and refuses what would train on
    wrong pairs.

    Args:
        source: path of the source sentences, plain or gzip.
        target: path of their translations.

    Returns:
        The number of pairs.

    Raises:
        ValueError: a file is missing, empty, truncated or not UTF-8, or the numbers of lines
            differ. The message is one line.
    """
    source_count = target_count = 0
    for first, second in zip_longest(checked_lines(source, "source"), checked_lines(target, "target")):
        source_count += first is not None
        target_count += second is not None
    if source_count != target_count:
        raise ValueError(
            f"source and target must have the same number of lines, received {source_count} lines "
            f"in {os.fspath(source)} and {target_count} lines in {os.fspath(target)}: align the "
            "files line by line."
        )
    return source_count


def check_tsv(path: Path) -> int:
    """Reads a tab-separated file once, keeping one line in memory, and refuses what `read_tsv`
    could not read.

    Args:
        path: path of the file, plain or gzip.

    Returns:
        The number of pairs.

    Raises:
        ValueError: the file is missing, empty, truncated or not UTF-8, or a line has not exactly
            one tab. The message is one line.
    """
    count = 0
    for count, line in enumerate(checked_lines(path, "path"), start=1):
        tabs = line.count("\t")
        if tabs != 1:
            raise ValueError(
                f"path must hold exactly one tab on each line, received {tabs} tabs in "
                f"{os.fspath(path)}, line {count}: keep two columns, the source and the target."
            )
    return count


def _lines(path: Path, argument: str) -> tf.data.Dataset:
    with _open(path, argument) as stream:
        compression = "GZIP" if isinstance(stream, gzip.GzipFile) else ""
    lines = tf.data.TextLineDataset(os.fspath(path), compression_type=compression)

    def without_mark(line: tf.Tensor) -> tf.Tensor:
        return tf.strings.regex_replace(line, f"^{_UTF8_MARK}", "")

    # Only the first line can start with a byte order mark, so no other line pays for a look.
    return lines.take(1).map(without_mark).concatenate(lines.skip(1))


def _open(path: Path, argument: str) -> BinaryIO:
    """Opens a file for bytes. Its first two bytes, not its name, say whether it is compressed."""
    if not os.path.isfile(path):
        raise ValueError(
            f"{argument} must be the path of a file, received {os.fspath(path)!r}, which is not one: check the path."
        )
    with open(path, "rb") as stream:
        compressed = stream.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else open(path, "rb")


def checked_lines(path: Path, argument: str) -> Iterator[str]:
    """The lines of a file, decoded; a ValueError at the first thing that is wrong with it."""
    name = os.fspath(path)
    number = 0
    with _open(path, argument) as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if number == 1 and line.startswith(_UTF16_MARKS):
                    raise ValueError(
                        f"{argument} must be UTF-8 text, received UTF-16 (by its byte order mark) "
                        f"in {name}, line 1: re-encode as UTF-8."
                    )
                # TensorFlow's reader yields no line for a carriage return after the last line end:
                # count as it does.
                if line != b"\r":
                    yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{argument} must be UTF-8 text, received the byte "
                f"0x{error.object[error.start]:02x} in {name}, line {number}, which is not: "
                "re-encode as UTF-8."
            ) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{argument} must be a whole gzip file, received {name}, which is truncated or "
                f"damaged after line {number}: fetch or compress it again."
            ) from error
    if number == 0:
        raise ValueError(f"{argument} must hold at least one line, received the empty file {name}: check the path.")
