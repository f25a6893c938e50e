"""Files of words and their labels: CoNLL-U, and the columns of CoNLL-2003.

Sources: https://universaldependencies.org/format.html; Tjong Kim Sang and De Meulder (2003), "Introduction to the
CoNLL-2003 Shared Task", section 2.
"""

import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

import tensorflow as tf

from .corpus import Path, checked_lines

CONLLU_COLUMNS = {"lemma": 2, "upos": 3, "xpos": 4, "deprel": 7}
CONLL2003_COLUMNS = {"xpos": 1, "chunk": 2, "ner": -1}
NO_LABEL = "_"


class TaggedSentence(NamedTuple):
    """Words and their labels, one for each word."""

    words: tuple[str, ...]
    labels: tuple[str, ...]


class _Malformed(Exception):
    """What is wrong with a line."""


def read_conllu(
    path: Path, column: str = "upos", labels: Collection[str] | None = None, errors: str = "raise"
) -> list[TaggedSentence]:
    """The sentences of a CoNLL-U file.

    Words are the lines with a whole number for an id: ranges (`3-4`, a word as it is written before it is split up) and
    empty nodes (`8.1`) are passed over, and so are comments.

    Args:
        path: of the file, plain or gzip.
        column: "upos", "xpos", "lemma" or "deprel".
        labels: the labels that may occur, as a model has them; None: any.
        errors: "raise" refuses the file at the first line that is malformed, or has no label or an unknown one; "skip"
            warns of it, the first of its sentence, and leaves the sentence out.

    Returns:
        A list of `TaggedSentence`.

    Raises:
        ValueError: in one line, with the name of the file and the number of the line.
    """
    index = _column(column, CONLLU_COLUMNS, "read_conll2003 reads named entities")

    def word(line: str, place: int) -> tuple[str, str] | None:
        if line.startswith("#"):
            return None
        fields = line.split("\t")
        if len(fields) != 10:
            raise _Malformed(f"has {len(fields)} columns, separated by tabs, and not 10")
        if re.fullmatch(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+", fields[0]):
            return None
        if fields[0] != str(place + 1):
            raise _Malformed(f"has the id {fields[0]!r} where word {place + 1} of a sentence is expected")
        return fields[1], fields[index]

    return _read(path, column, word, labels, errors)


def read_conll2003(
    path: Path, column: str = "ner", labels: Collection[str] | None = None, errors: str = "raise"
) -> list[TaggedSentence]:
    """The sentences of a file of columns, as of CoNLL-2003: words and labels, sentences parted by blank lines.

    Lines that begin with `-DOCSTART-` are passed over. Columns are separated by spaces or tabs; each line must have as
    many as the first.

    Args:
        path: of the file, plain or gzip.
        column: "ner", the last one; or of four "xpos", the second, or "chunk", the third.
        labels, errors: as in `read_conllu`.

    Returns:
        A list of `TaggedSentence`.

    Raises:
        ValueError: in one line, with the name of the file and the number of the line.
    """
    index = _column(column, CONLL2003_COLUMNS, "read_conllu reads universal part-of-speech tags")
    count = 0

    def word(line: str, place: int) -> tuple[str, str] | None:
        nonlocal count
        if line.startswith("-DOCSTART-"):
            return None
        fields = line.split()
        least = 2 if column == "ner" else 4
        if len(fields) < least:
            raise _Malformed(f"has {len(fields)} columns, and not at least {least}")
        count = count or len(fields)
        if len(fields) != count:
            raise _Malformed(f"has {len(fields)} columns, and not {count} as those before it")
        return fields[0], fields[index]

    return _read(path, column, word, labels, errors)


def tagged_dataset(sentences: Iterable[TaggedSentence]) -> tf.data.Dataset:
    """A dataset of `(words, labels)`, two vectors of strings, such as `to_tagged_examples` takes."""
    kept = [(words, labels) for words, labels in sentences if words]
    if not kept:
        raise ValueError("sentences must hold at least one sentence of at least one word, received none.")
    columns = (tf.ragged.constant(column, tf.string, ragged_rank=1) for column in zip(*kept, strict=True))
    dataset = tf.data.Dataset.from_tensor_slices(tuple(columns))
    return dataset.map(lambda words, labels: (words, labels))


def _column(column: str, columns: dict[str, int], hint: str) -> int:
    if column not in columns:
        raise ValueError(f"column must be one of {', '.join(columns)}, received {column!r}: {hint}.")
    return columns[column]


def _read(
    path: Path,
    column: str,
    word: Callable[[str, int], tuple[str, str] | None],
    labels: Collection[str] | None,
    errors: str,
) -> list[TaggedSentence]:
    """Sentences of the lines of a file; `word` makes of a line and its place a word and its label, or None."""
    if errors not in ("raise", "skip"):
        raise ValueError(f"errors must be 'raise' or 'skip', received {errors!r}.")
    known = None if labels is None else set(labels)
    sentences = []
    for lines in _paragraphs(path):
        words: list[str] = []
        found: list[str] = []
        broken = False
        for number, line in lines:
            try:
                if (pair := word(line, len(words))) is None:
                    continue
                words.append(pair[0])
                found.append(pair[1])
                if not pair[0]:
                    raise _Malformed("has an empty word")
                if pair[1] in ("", NO_LABEL):
                    raise _Malformed(f"has no {column} ({pair[1]!r})")
                if known is not None and pair[1] not in known:
                    raise _Malformed(f"has the {column} {pair[1]!r}, which is none of the {len(known)} labels known")
            except _Malformed as error:
                message = f"{os.fspath(path)}, line {number}, {error}: {line[:80]!r}"
                if errors == "raise":
                    raise ValueError(f"{message}. Correct it, or pass errors='skip'.") from None
                warnings.warn(f"{message}. The sentence is left out.", stacklevel=3)
                broken = True
                break
        if words and not broken:
            sentences.append(TaggedSentence(tuple(words), tuple(found)))
    if not sentences:
        raise ValueError(f"path must hold at least one sentence, received {os.fspath(path)}, which has none.")
    return sentences


def _paragraphs(path: Path) -> Iterator[list[tuple[int, str]]]:
    """Lines that are not blank, with their numbers, as blank lines part them."""
    lines = []
    for number, line in enumerate(checked_lines(path, "path"), start=1):
        line = line.rstrip("\r\n")
        if number == 1:
            line = line.removeprefix("\ufeff")
        if line.strip():
            lines.append((number, line))
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines
