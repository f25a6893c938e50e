import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from search_reference import HistoryDecoder, Language, TableDecoder, gnmt, greedy, sentences_of

from keras_transformer.generation import AverageLength, greedy_search

EXAMPLES = 6 if keras.backend.backend() == "jax" else 15  # JAX compiles each of them


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    batch=st.sampled_from([1, 2, 3]),
    vocabulary=st.sampled_from([2, 5, 7]),
    max_length=st.sampled_from([1, 3, 11]),
    seed=st.integers(0, 2**16),
)
def test_takes_the_best_token_each_time(batch, vocabulary, max_length, seed):
    language = Language(batch, vocabulary, max_length, seed)
    limits = np.random.default_rng(seed).integers(1, max_length + 1, batch)
    found = greedy_search(HistoryDecoder(language), language.start_ids, max_length, end_token_id=1, limits=limits)
    for sentence, [(tokens, score)] in enumerate(sentences_of(found)):
        assert tokens == greedy(language, sentence, limits[sentence], end=1)
        expected = language.rescore(sentence, tokens) / gnmt(0.6)(len(tokens))
        np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5)


def test_by_hand():
    # 0 -> 2 -> 3 -> end (1); the last sentence is cut short, the other padded.
    probabilities = [[0.1, 0.1, 0.7, 0.1], [0.25] * 4, [0.1, 0.1, 0, 0.8], [0.1, 0.6, 0.1, 0.2]]
    found = greedy_search(
        TableDecoder(probabilities, batch=2),
        [0, 0],
        max_length=5,
        end_token_id=1,
        pad_token_id=9,
        limits=[5, 2],
        length_penalty=AverageLength(1.0),
    )
    assert ops.convert_to_numpy(found.token_ids).tolist() == [[2, 3, 1, 9, 9], [2, 3, 9, 9, 9]]
    assert ops.convert_to_numpy(found.lengths).tolist() == [3, 2]
    expected = [np.log(0.7 * 0.8 * 0.6) / 3, np.log(0.7 * 0.8) / 2]
    np.testing.assert_allclose(ops.convert_to_numpy(found.scores), expected, rtol=1e-5)


@pytest.mark.parametrize("length_penalty, divisor", [(0, 1.0), (1.0, 8 / 6), (0.6, (8 / 6) ** 0.6)])
def test_the_penalty_changes_the_score_only(length_penalty, divisor):
    probabilities = [[0.2, 0.8, 0], [0, 0.1, 0.9], [0.3, 0.3, 0.4]]
    found = greedy_search(TableDecoder(probabilities), [0], 3, end_token_id=0, length_penalty=length_penalty)
    assert sentences_of(found)[0][0][0] == (1, 2, 2)
    expected = np.log(0.8 * 0.9 * 0.4) / divisor
    np.testing.assert_allclose(ops.convert_to_numpy(found.scores), [expected], rtol=1e-5)


def test_an_end_token_outside_the_vocabulary_ends_nothing():
    language = Language(2, 5, 7, seed=0)
    found = greedy_search(HistoryDecoder(language), language.start_ids, 7, end_token_id=-1)
    assert ops.convert_to_numpy(found.lengths).tolist() == [7, 7]
