"""Greedy search that hands out each token as it comes."""

from collections.abc import Iterator
from typing import Any

from keras_transformer.generation.arguments import check_count, check_start_ids
from keras_transformer.generation.candidates import best_tokens
from keras_transformer.generation.processed import processed


def greedy_stream(
    decoder: Any, start_id: int, max_length: int, end_token_id: int, processors: Any = ()
) -> Iterator[int]:
    """The tokens that `greedy_search` finds for one sentence, each as soon as it is known, the end token included.

    The loop is Python's: a decoder whose `step` is compiled makes it fast.

    Args:
        decoder: see `Decoder`, of a batch of one; `reorder` is not called.
        start_id: the token that the sentence starts from.
        max_length, end_token_id, processors: as in `greedy_search`.
    """
    check_count("max_length", max_length)
    ids = check_start_ids([start_id])
    decoder = processed(decoder, processors, ids, max_length, end_token_id)
    return _tokens(decoder, ids, max_length, end_token_id)


def _tokens(decoder: Any, ids: Any, max_length: int, end_token_id: int) -> Iterator[int]:
    state = decoder.start(1)
    for _ in range(max_length):
        logits, state = decoder.step(ids, state)
        log_p, best = best_tokens(logits, 1)
        if float(log_p[0, 0]) == -float("inf"):  # no token left to choose
            return
        ids = best[:, 0]
        yield int(ids[0])
        if int(ids[0]) == end_token_id:
            return
