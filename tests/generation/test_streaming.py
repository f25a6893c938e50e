import numpy as np
import pytest
from keras import ops
from search_reference import HistoryDecoder, Language, TableDecoder

from keras_transformer.generation import MinLength, NoRepeatNGram, greedy_search, greedy_stream


@pytest.mark.parametrize("processors", [(), (NoRepeatNGram(1), MinLength(4))], ids=["plain", "processed"])
@pytest.mark.parametrize("seed", range(4))
def test_streams_what_greedy_search_finds(processors, seed):
    language = Language(1, 5, 7, seed)
    found = greedy_search(HistoryDecoder(language), language.start_ids, 7, 1, processors=processors)
    tokens = list(greedy_stream(HistoryDecoder(language), int(language.start_ids[0]), 7, 1, processors))
    assert all(type(token) is int for token in tokens)
    assert tokens == ops.convert_to_numpy(found.token_ids)[0, : int(found.lengths[0])].tolist()


def test_a_token_comes_before_the_next_is_computed():
    decoder = HistoryDecoder(Language(1, 5, 7, seed=1))
    stream = greedy_stream(decoder, 0, 7, end_token_id=-1)
    for steps in range(1, 8):
        next(stream)
        assert decoder.steps == steps
    with pytest.raises(StopIteration):
        next(stream)


def test_ends_where_nothing_is_left():
    probabilities = np.array([[0, 0.0, 1.0], [0, 0, 0], [0, 0, 0]])
    assert list(greedy_stream(TableDecoder(probabilities), 0, 7, end_token_id=1)) == [2]


def test_a_bad_length_is_refused_at_once():
    with pytest.raises(ValueError, match="max_length=0"):
        greedy_stream(TableDecoder(np.full((3, 3), 1 / 3)), 0, 0, 1)
