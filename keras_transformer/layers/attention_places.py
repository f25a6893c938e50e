"""Where the queries and the keys of a call of attention are, and in which segments."""

from typing import Any, NamedTuple

from keras import ops

from keras_transformer.layers.packing import numbered_segments, restarting_positions
from keras_transformer.layers.shared_memory import is_one


class Places(NamedTuple):
    """int32 `(T,)`, `(1, T)` or `(B, T)` of queries, `S` for `T` of keys; None: from 0, or all in one segment."""

    query: Any
    key: Any
    query_segments: Any
    key_segments: Any


def completed(given, query_length, key_length, first=None, num_beams=1, are_needed=True):
    """`given`, and what follows from it.

    Args:
        given: the `Places` that are given.
        first: where the first query is; None means at 0.
        num_beams: so many keys are at each position.
        are_needed: whether anybody asks for positions that are not given: an operation that nobody needs shows where
            there is no graph to leave it out.
    """
    query, key, query_segments, key_segments = given
    if query_segments is not None:
        query = restarting_positions(query_segments) if query is None else query
        if key_segments is None:  # by its number, so that an id that comes again lets nobody see ahead
            query_segments = key_segments = numbered_segments(query_segments)
            key = query if key is None else key
        key = restarting_positions(key_segments) if key is None else key
    key = query if key is None else key
    if are_needed and query is None:
        query = ops.arange(query_length) if first is None else ops.arange(query_length) + first
    if are_needed and key is None:
        key = ops.arange(key_length)
        if not is_one(num_beams):
            key = key[None] // num_beams  # of rank 2, so that nobody takes it for consecutive
    return Places(query, key, query_segments, key_segments)
