"""Words as a few ids each: the word, how it begins and ends, and its shape. In the graph.

Hand-made features of this kind are how taggers learn from little text: Ratnaparkhi (1996), "A Maximum Entropy Model for
Part-Of-Speech Tagging", table 1. Embedded and put side by side they are what spaCy's taggers read.
"""

import io
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from .strings import Path, batch, clean, write

PAD, UNKNOWN = 0, 1
LONGEST_WORD = 64  # characters of a word that are looked at: the time of a search must not be up to the input

FEATURES = ("word", "prefix1", "prefix3", "suffix1", "suffix2", "suffix3", "suffix4", "shape")


class WordFeatures(tf.Module):
    """Eight ids for each word: of the word in small letters, prefixes, suffixes, and its shape ("Xxx", "dd").

    A vocabulary is a sorted vector of 63-bit fingerprints, a constant of the graph: nothing to initialize, and no file
    beside a SavedModel. Two features of one fingerprint would share an embedding; of 20,000 that happens with a
    probability of 2e-11.

    Args:
        vocabularies: for each feature the fingerprints of its values that have an id of their own, most frequent
            first, as `learn` finds them; or the path of a file that `save` wrote.

    Attributes:
        vocabulary_size: number of ids of all features: of each, pad (only 0 is used), unknown and its values.
        num_features: ids of a word, 8.
        pad_token_id: 0.
        unknown_ids: for each feature the id of values without one.

    Example:

    >>> from keras_transformer.text import WordFeatures
    >>> features = WordFeatures.learn(["the", "dog", "barks", "the"], min_count=1)
    >>> features(["the", "xyzzy"]).shape.as_list()
    [2, 8]
    """

    def __init__(self, vocabularies: Iterable[Any] | Path, name: str | None = None) -> None:
        super().__init__(name=name)
        if isinstance(vocabularies, str) or hasattr(vocabularies, "__fspath__"):
            vocabularies = _load(vocabularies)
        found = [np.asarray(vocabulary, "int64") for vocabulary in vocabularies]
        if len(found) != len(FEATURES):
            raise ValueError(f"vocabularies must be {len(FEATURES)}, one for each feature, received {len(found)}.")
        self._vocabularies = found
        self._orders = [np.argsort(vocabulary) for vocabulary in found]
        sizes = [len(vocabulary) + 2 for vocabulary in found]
        self._offsets = np.cumsum([0, *sizes[:-1]])
        self.vocabulary_size = int(sum(sizes))
        self.num_features = len(FEATURES)
        self.pad_token_id = PAD
        self.unknown_ids = tuple(int(offset) + UNKNOWN for offset in self._offsets)
        self._ids = tf.function(self._ids_of, [tf.TensorSpec([None], tf.string)], autograph=False)

    def __call__(self, words: Any) -> tf.Tensor:
        """int32 ids `(N, 8)` of words, a string tensor `(N,)` or a list. Cleaned first, see `clean`."""
        return self._ids(batch(words))

    @classmethod
    def learn(cls, words: Iterable[str | bytes], min_count: int = 2) -> "WordFeatures":
        """Gives an id to each value of a feature that comes `min_count` times in `words` or more.

        With `min_count` above 1 the rare ones train what is read for an unknown value.
        """
        if not isinstance(min_count, int) or min_count < 1:
            raise ValueError(f"min_count must be an integer of at least 1, received {min_count!r}.")
        counted = Counter(words)
        if not counted:
            raise ValueError("words must hold at least one word, received none.")
        counts = np.array(list(counted.values()))
        prints = _fingerprints(batch(list(counted))).numpy()  # (N, 8)
        vocabularies = []
        for column in prints.T:
            values, places = np.unique(column, return_inverse=True)
            sums = np.bincount(places, weights=counts)
            order = np.argsort(-sums, kind="stable")
            vocabularies.append(values[order[: (sums >= min_count).sum()]])
        return cls(vocabularies)

    def save(self, path: Path) -> None:
        """Writes the vocabularies to `path`, an `.npz`, wholly or not at all."""
        content = io.BytesIO()
        arrays: dict[str, Any] = dict(zip(FEATURES, self._vocabularies))
        np.savez_compressed(content, **arrays)
        write(path, content.getvalue())

    def _ids_of(self, words: tf.Tensor) -> tf.Tensor:
        columns = []
        for column, vocabulary, order, offset in zip(
            tf.unstack(_fingerprints(words), axis=1), self._vocabularies, self._orders, self._offsets
        ):
            # One more than the vocabulary has, so that each place found is one of it.
            ordered = tf.constant(np.append(vocabulary[order], np.iinfo("int64").max))
            ids = tf.constant(np.append(order, 0) + 2, tf.int32)
            place = tf.searchsorted(ordered, column)
            found = tf.where(tf.gather(ordered, place) == column, tf.gather(ids, place), UNKNOWN)
            columns.append(found + int(offset))
        return tf.stack(columns, axis=1)


def _fingerprints(words: tf.Tensor) -> tf.Tensor:
    """int64 `(N, 8)` of words `(N,)`, below 2^62."""
    words = tf.strings.regex_replace(clean(words), rf"^(?s)(.{{{LONGEST_WORD}}}).*$", r"\1")
    small = tf.strings.lower(words, "utf-8")
    shape = words
    for pattern, sign in ((r"\p{Lu}", "X"), (r"\p{Ll}", "x"), (r"\p{N}", "d")):
        shape = tf.strings.regex_replace(shape, pattern, sign)
    for sign in "Xxd":
        shape = tf.strings.regex_replace(shape, f"{sign}{{4,}}", sign * 3)
    values = [
        small,
        _first(words, 1),
        _first(small, 3),
        *(_last(small, count) for count in (1, 2, 3, 4)),
        shape,
    ]
    return tf.stack([tf.strings.to_hash_bucket_fast(value, 2**62) for value in values], axis=1)


def _first(words: tf.Tensor, count: int) -> tf.Tensor:
    return tf.strings.regex_replace(words, rf"^(?s)(.{{{count}}}).*$", r"\1")


def _last(words: tf.Tensor, count: int) -> tf.Tensor:
    return tf.strings.regex_replace(words, rf"^(?s).*(.{{{count}}})$", r"\1")


def _load(path: Any) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in FEATURES]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"vocabularies must be a file that `save` wrote, received {path}: {error}.") from error
