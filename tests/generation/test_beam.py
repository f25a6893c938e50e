import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from search_reference import (
    HistoryDecoder,
    Language,
    TableDecoder,
    average,
    beam,
    exhaustive,
    gnmt,
    sentences_of,
)

from keras_transformer.generation import AverageLength, beam_search, greedy_search

PENALTIES = {
    "none": (0.0, gnmt(0.0)),
    "gnmt": (0.6, gnmt(0.6)),
    "steep": (3.0, gnmt(3.0)),
    "average": (AverageLength(1.0), average(1.0)),
}
EXAMPLES = 8 if keras.backend.backend() == "jax" else 30  # JAX compiles each of them
each_penalty = pytest.mark.parametrize("penalty", PENALTIES)


def assert_same(found, expected):
    """Tokens are equal and scores close, for [(tokens, score)] and [(score, tokens)]."""
    assert [tokens for tokens, _ in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([score for _, score in found], [score for score, _ in expected], rtol=1e-4, atol=1e-5)


def test_greedy_is_provably_wrong():
    # After the start (0) token 2 is likelier than 3, but leads nowhere: 0.6 / 3 < 0.4 * 0.97.
    probabilities = [[0, 0, 0.6, 0.4], [0.25] * 4, [0, 1 / 3, 1 / 3, 1 / 3], [0, 0.97, 0.02, 0.01]]
    decoder = TableDecoder(probabilities)
    narrow = greedy_search(decoder, [0], 2, end_token_id=1, length_penalty=0)
    wide = beam_search(decoder, [0], 2, end_token_id=1, length_penalty=0, num_beams=2)
    assert sentences_of(narrow)[0][0][0][0] == 2
    np.testing.assert_allclose(ops.convert_to_numpy(narrow.scores), [np.log(0.2)], rtol=1e-5)
    assert ops.convert_to_numpy(wide.token_ids).tolist() == [[[3, 1]]]
    np.testing.assert_allclose(ops.convert_to_numpy(wide.scores), [[np.log(0.388)]], rtol=1e-5)


def test_an_end_outside_the_first_candidates_is_dropped():
    # The end (1) is third of the first candidates. It would outscore all that a width of 2 finds.
    probabilities = [[0, 0.2, 0.45, 0.35], [0.25] * 4, [0.25] * 4, [0.25] * 4]
    search = dict(start_ids=[0], max_length=2, end_token_id=1, length_penalty=0)
    two = beam_search(TableDecoder(probabilities), num_beams=2, num_return_sequences=2, **search)
    three = beam_search(TableDecoder(probabilities), num_beams=3, **search)
    assert (1,) not in [tokens for tokens, _ in sentences_of(two)[0]]
    assert sentences_of(three)[0][0][0] == (1,)


@pytest.mark.parametrize("alpha, tokens", [(0.0, (1,)), (1.0, (2, 1))])
def test_a_length_penalty_favours_the_longer(alpha, tokens):
    # p of the short one is 0.4, of the long one 0.6 * 0.6; the mean log p is the other way round.
    decoder = TableDecoder([[0, 0.4, 0.6], [1, 0, 0], [0.2, 0.6, 0.2]])
    found = beam_search(decoder, [0], 5, end_token_id=1, num_beams=2, length_penalty=AverageLength(alpha))
    assert sentences_of(found)[0][0][0] == tokens


def test_a_beam_that_ends_is_replaced():
    # The end (1) takes one of two places, and the third candidate still begins the second best.
    probabilities = [[0, 0.5, 0.3, 0.2], [0.25] * 4, [0.25] * 4, [0, 1.0, 0, 0]]
    found = beam_search(
        TableDecoder(probabilities),
        [0],
        2,
        end_token_id=1,
        num_beams=2,
        length_penalty=0,
        num_return_sequences=2,
    )
    assert [tokens for tokens, _ in sentences_of(found)[0]] == [(1,), (3, 1)]


@pytest.mark.parametrize("limit, tokens", [(3, (1,)), (20, (3, *[4] * 19))])
def test_the_bound_looks_as_far_as_the_limit(limit, tokens):
    # The pool is full after (1,) and (2, 1). The beam 3, 4 is behind both then, and by its mean
    # log p ahead at the end: its first token has 0.1, all others 1.
    probabilities = np.zeros((5, 5))
    probabilities[0, [1, 2, 3]] = 0.6, 0.3, 0.1
    probabilities[2, [1, 2]] = 0.9, 0.1
    probabilities[[1, 3, 4], 4] = 1
    found = beam_search(
        TableDecoder(probabilities, batch=2),
        [0, 0],
        max_length=20,
        end_token_id=1,
        limits=[limit, 2],
        num_beams=2,
        length_penalty=AverageLength(1.0),
    )
    assert [tokens for [(tokens, _)] in sentences_of(found)] == [tokens, (1,)]


@each_penalty
def test_full_width_is_exhaustive_search(penalty):
    """A width of all hypotheses finds all of them, in order, and has one place left."""
    length_penalty, reference = PENALTIES[penalty]
    language, limits = Language(2, 3, 3, seed=1), [3, 2]
    found = beam_search(
        HistoryDecoder(language),
        language.start_ids,
        3,
        end_token_id=2,
        limits=limits,
        num_beams=16,
        length_penalty=length_penalty,
        num_return_sequences=16,
    )
    for sentence, hypotheses in enumerate(sentences_of(found)):
        expected = exhaustive(language, sentence, limits[sentence], 2, reference)
        assert len(expected) == [15, 7][sentence]
        assert_same(hypotheses[: len(expected)], expected)
        assert set(hypotheses[len(expected) :]) == {((), -np.inf)}


@pytest.mark.parametrize("penalty", ["none", "gnmt", "average"])
def test_greedy_is_wrong_where_the_best_of_all_is_found(penalty):
    """On random languages: the best sentence there is, sentence by sentence, where greedy search finds a worse one."""
    length_penalty, reference = PENALTIES[penalty]
    wrong = 0
    for seed in range(5):
        language = Language(3, 3, 3, seed, scale=0.5)
        arguments = dict(max_length=3, end_token_id=2, length_penalty=length_penalty)
        narrow = greedy_search(HistoryDecoder(language), language.start_ids, **arguments)
        wide = beam_search(HistoryDecoder(language), language.start_ids, num_beams=8, **arguments)
        for sentence, ([(_, greedy_score)], found) in enumerate(
            zip(sentences_of(narrow), sentences_of(wide), strict=True)
        ):
            expected = exhaustive(language, sentence, 3, 2, reference)
            assert_same(found, expected[:1])
            wrong += greedy_score < expected[0][0] - 1e-3
    assert wrong >= 4  # of 15


@pytest.mark.integration
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    batch=st.sampled_from([1, 2, 3]),
    vocabulary=st.sampled_from([2, 3, 7, 11]),
    max_length=st.sampled_from([1, 2, 5, 7]),
    num_beams=st.sampled_from([2, 3, 5]),
    penalty=st.sampled_from(sorted(PENALTIES)),
    scale=st.sampled_from([0.5, 2.0]),
    seed=st.integers(0, 2**16),
)
def test_is_beam_search_run_to_the_limit(batch, vocabulary, max_length, num_beams, penalty, scale, seed):
    """The early end changes nothing, nor does finishing all candidates at the limit."""
    length_penalty, reference = PENALTIES[penalty]
    language = Language(batch, vocabulary, max_length, seed, scale)
    limits = np.random.default_rng(seed).integers(1, max_length + 1, batch)
    found = beam_search(
        HistoryDecoder(language),
        language.start_ids,
        max_length,
        end_token_id=1,
        pad_token_id=vocabulary,
        limits=limits,
        num_beams=num_beams,
        length_penalty=length_penalty,
        num_return_sequences=num_beams,
    )
    for sentence, hypotheses in enumerate(sentences_of(found)):
        expected = beam(language, sentence, limits[sentence], 1, reference, num_beams)
        assert_same(hypotheses[: len(expected)], expected)
        for tokens, score in hypotheses[: len(expected)]:
            rescored = language.rescore(sentence, tokens) / reference(len(tokens))
            np.testing.assert_allclose(score, rescored, rtol=1e-4, atol=1e-5)
    token_ids, lengths, _ = (ops.convert_to_numpy(x) for x in found)
    assert token_ids.dtype == lengths.dtype == "int32"
    np.testing.assert_array_equal(token_ids == vocabulary, np.arange(max_length) >= lengths[:, :, None])


@each_penalty
def test_width_one_is_greedy(penalty):
    """Also where the second best token, continued, would outscore the end."""
    language = Language(5, 3, 7, seed=2)
    arguments = dict(
        start_ids=language.start_ids,
        max_length=7,
        end_token_id=1,
        limits=[7, 5, 3, 2, 1],
        length_penalty=PENALTIES[penalty][0],
    )
    decoder = HistoryDecoder(language)
    narrow = greedy_search(decoder, **arguments)
    wide = beam_search(decoder, num_beams=1, **arguments)
    assert decoder.reorders == 0
    for one, other in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other)[:, 0])


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a traced loop calls step once")
def test_ends_as_soon_as_the_bound_allows():
    # Both places of the pool fill in two steps: (1,) and (2, 1). What is left has log p of about
    # log 0.01 * 0.01, and no penalty lifts it above them.
    probabilities = [[0.005, 0.7, 0.295], [1, 0, 0], [0.005, 0.99, 0.005]]

    class Counting(TableDecoder):
        steps = 0

        def step(self, ids, state):
            self.steps += 1
            return super().step(ids, state)

    decoder = Counting(probabilities, batch=2)
    found = beam_search(decoder, [0, 0], 50, 1, num_beams=2, num_return_sequences=2)
    assert [tokens for tokens, _ in sentences_of(found)[1]] == [(1,), (2, 1)]
    assert decoder.steps == 2


@pytest.mark.parametrize("vocabulary, num_beams, count", [(1, 3, 1), (2, 7, 4), (3, 13, 13)])
def test_a_width_above_the_vocabulary(vocabulary, num_beams, count):
    language = Language(2, vocabulary, 3, seed=3)
    found = beam_search(
        HistoryDecoder(language),
        language.start_ids,
        3,
        end_token_id=0,
        num_beams=num_beams,
        num_return_sequences=num_beams,
    )
    for sentence, hypotheses in enumerate(sentences_of(found)):
        expected = beam(language, sentence, 3, 0, gnmt(0.6), num_beams)
        assert len(expected) == count
        assert_same(hypotheses[:count], expected)
        assert all(score == -np.inf and tokens == () for tokens, score in hypotheses[count:])


def test_impossible_tokens_are_not_hypotheses():
    # One sentence has probability 1, so a width of 3 finds that one only.
    decoder = TableDecoder([[0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]])
    found = beam_search(decoder, [0], 4, 1, num_beams=3, num_return_sequences=3)
    assert sentences_of(found) == [[((2, 1), 0.0), ((), -np.inf), ((), -np.inf)]]
