"""Many texts through a graph, a batch of like length at a time."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_transformer.generation.arguments import check_count


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
