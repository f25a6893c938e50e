"""Search with processors is search of the processed model: by brute force, with every processor, alone and together."""

import keras
import numpy as np
import processors_numpy as twins
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from search_reference import (
    HistoryDecoder,
    Language,
    ProcessedLanguage,
    average,
    beam,
    exhaustive,
    gnmt,
    greedy,
    sentences_of,
)
from tiers import slow_but, slow_but_one_a_row

from keras_transformer.generation import (
    AverageLength,
    ForcedPrefix,
    MinLength,
    NoRepeatNGram,
    RepetitionPenalty,
    SuppressTokens,
    Temperature,
    TopK,
    TopP,
    beam_search,
    greedy_search,
)

pytestmark = pytest.mark.integration

END = 1
PREFIXES, PREFIX_LENGTHS = np.array([[2, 3, 0], [0, 0, 2], [3, END, 0]]), np.array([2, 0, 3])
CASES = {
    "none": ((), ()),
    "min_length": ((MinLength(4),), (twins.min_length(4),)),
    "repetition": ((RepetitionPenalty(1.7),), (twins.repetition_penalty(1.7),)),
    "no_repeat": ((NoRepeatNGram(2),), (twins.no_repeat_ngram(2),)),
    "no_token_twice": ((NoRepeatNGram(1),), (twins.no_repeat_ngram(1),)),
    "suppress": ((SuppressTokens([2, 3]),), (twins.suppress([2, 3]),)),
    "warped": ((Temperature(1.5), TopK(3), TopP(0.9)), (twins.temperature(1.5), twins.top_k(3), twins.top_p(0.9))),
    "prefix": ((ForcedPrefix(PREFIXES, PREFIX_LENGTHS),), ()),
    "all": (
        (RepetitionPenalty(1.3), NoRepeatNGram(3), MinLength(3), Temperature(0.8), ForcedPrefix(PREFIXES)),
        (twins.repetition_penalty(1.3), twins.no_repeat_ngram(3), twins.min_length(3), twins.temperature(0.8)),
    ),
}
PENALTIES = {"none": (0.0, gnmt(0.0)), "gnmt": (0.6, gnmt(0.6)), "average": (AverageLength(1.0), average(1.0))}
EXAMPLES = {"jax": 1, "tensorflow": 3}.get(keras.backend.backend(), 15)  # JAX compiles each of them
each_case = pytest.mark.parametrize("case", CASES)


def processed(case, language):
    """The processors of a case, and the language that they make."""
    processors, plain = CASES[case]

    def of(sentence):
        if case == "prefix":
            return twins.prefix(PREFIXES[sentence][: PREFIX_LENGTHS[sentence]].tolist()), *plain
        return (*plain, twins.prefix(PREFIXES[sentence].tolist())) if case == "all" else plain

    return processors, ProcessedLanguage(language, of, END)


def assert_same(found, expected):
    assert [tokens for tokens, _ in found[: len(expected)]] == [tokens for _, tokens in expected]
    np.testing.assert_allclose(
        [score for _, score in found[: len(expected)]], [score for score, _ in expected], rtol=1e-4, atol=1e-5
    )
    assert set(found[len(expected) :]) <= {((), -np.inf)}


@each_case
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    vocabulary=st.sampled_from([5, 7]),
    max_length=st.sampled_from([3, 7]),
    num_beams=st.sampled_from([2, 3, 5]),
    penalty=st.sampled_from(sorted(PENALTIES)),
    seed=st.integers(0, 2**16),
)
def test_beam_search_is_that_of_the_processed_model_run_to_the_limit(
    case, vocabulary, max_length, num_beams, penalty, seed
):
    """So the proof of the early end holds for processors, and histories move with their beams."""
    length_penalty, reference = PENALTIES[penalty]
    language = Language(3, vocabulary, max_length, seed)
    processors, model = processed(case, language)
    limits = np.random.default_rng(seed).integers(1, max_length + 1, 3)
    found = beam_search(
        HistoryDecoder(language),
        language.start_ids,
        max_length,
        END,
        limits=limits,
        num_beams=num_beams,
        length_penalty=length_penalty,
        num_return_sequences=num_beams,
        processors=processors,
    )
    for sentence, hypotheses in enumerate(sentences_of(found)):
        assert_same(hypotheses, beam(model, sentence, limits[sentence], END, reference, num_beams))


@pytest.mark.parametrize("case, penalty", slow_but_one_a_row(CASES, PENALTIES))
def test_full_width_is_exhaustive_search(case, penalty):
    length_penalty, reference = PENALTIES[penalty]
    language = Language(3, 4, 4, seed=21)
    processors, model = processed(case, language)
    found = beam_search(
        HistoryDecoder(language),
        language.start_ids,
        4,
        END,
        limits=[4, 3, 4],
        num_beams=130,
        length_penalty=length_penalty,
        num_return_sequences=130,
        processors=processors,
    )
    for sentence, hypotheses in enumerate(sentences_of(found)):
        expected = exhaustive(model, sentence, [4, 3, 4][sentence], END, reference)
        assert len(expected) == len(hypotheses) - hypotheses.count(((), -np.inf))
        # Equal scores, as of tokens that a prefix leaves no choice of, may come in any order.
        np.testing.assert_allclose(
            [score for _, score in hypotheses[: len(expected)]], [s for s, _ in expected], rtol=1e-4, atol=1e-5
        )
        assert {tokens for tokens, _ in hypotheses[: len(expected)]} == {tokens for _, tokens in expected}


@each_case
def test_greedy_search_and_a_width_of_one(case):
    language = Language(3, 5, 7, seed=22)
    processors, model = processed(case, language)
    arguments = dict(start_ids=language.start_ids, max_length=7, end_token_id=END, limits=[7, 5, 3])
    narrow = greedy_search(HistoryDecoder(language), processors=processors, **arguments)
    wide = beam_search(HistoryDecoder(language), num_beams=1, processors=processors, **arguments)
    assert sentences_of(narrow) == sentences_of(wide)
    for sentence, [(tokens, score)] in enumerate(sentences_of(narrow)):
        assert tokens == greedy(model, sentence, arguments["limits"][sentence], END)
        expected = model.rescore(sentence, tokens) / gnmt(0.6)(len(tokens))
        np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case", slow_but(["none", "no_repeat", "warped"], [name for name in CASES if name not in ("prefix", "all")])
)
def test_a_sentence_depends_on_no_other(case):
    """Nor on its place. (Prefixes are the sentence's own, and are in the tests above.)"""
    language = Language(5, 7, 7, seed=23)
    arguments = dict(max_length=7, end_token_id=END, num_beams=3, num_return_sequences=2, processors=CASES[case][0])
    whole = beam_search(HistoryDecoder(language), language.start_ids, **arguments)
    for picked in ([3], [4, 2, 0, 1, 3]):
        part = language.pick(picked)
        found = beam_search(HistoryDecoder(part), part.start_ids, **arguments)
        for one, other in zip(found, whole, strict=True):
            one, other = ops.convert_to_numpy(one), ops.convert_to_numpy(other)[picked]
            np.testing.assert_allclose(one, other, rtol=0 if one.dtype == "int32" else 1e-6)  # sums of other shapes


def test_lengths_count_the_end_token():
    language = Language(3, 5, 7, seed=24)
    language.sentences[:, END] += 10  # would end at once
    for search, more in ((greedy_search, {}), (beam_search, {"num_beams": 2, "num_return_sequences": 2})):
        found = search(
            HistoryDecoder(language), language.start_ids, 7, END, limits=[7, 7, 2], processors=[MinLength(4)], **more
        )
        lengths = ops.convert_to_numpy(found.lengths).reshape(3, -1)
        assert (lengths[:2] >= 4).all() and (lengths[:2, 0] == 4).all()
        assert (lengths[2] == 2).all()  # the limit comes first, and finishes it as it is


def test_a_prefix_longer_than_the_limit_is_cut_and_one_with_an_end_ends():
    language = Language(2, 5, 7, seed=25)
    prefix = ForcedPrefix([[2, 3, 4, 2], [3, END, 2, 2]])
    for search, more in ((greedy_search, {}), (beam_search, {"num_beams": 3})):
        found = search(HistoryDecoder(language), language.start_ids, 7, END, limits=[3, 7], processors=[prefix], **more)
        assert [[h[0] for h in s] for s in sentences_of(found)] == [[(2, 3, 4)], [(3, END)]]
        np.testing.assert_array_equal(ops.convert_to_numpy(found.scores).ravel(), [0, 0])


def test_no_history_is_carried_unless_a_processor_asks():
    language = Language(2, 5, 3, seed=26)
    seen = []

    class Looking(Temperature):
        def __call__(self, logits, context):
            seen.append(context.token_ids)
            return logits

    def plain(logits, context):  # what says nothing gets the history
        seen.append(context.token_ids)
        return logits

    greedy_search(HistoryDecoder(language), language.start_ids, 3, END, processors=[Looking(1.0)])
    assert seen and all(x is None for x in seen)
    seen.clear()
    greedy_search(HistoryDecoder(language), language.start_ids, 3, END, processors=[Looking(1.0), plain])
    assert seen and all(tuple(x.shape) == (2, 3) for x in seen)


@pytest.mark.parametrize("case", ["none", "all"])
def test_an_empty_batch(case):
    language = Language(0, 5, 3, seed=27)
    processors = [ForcedPrefix(p.prefix_ids[:0]) if isinstance(p, ForcedPrefix) else p for p in CASES[case][0]]
    found = beam_search(HistoryDecoder(language), language.start_ids, 3, END, num_beams=2, processors=processors)
    assert tuple(found.token_ids.shape) == (0, 1, 3)


@pytest.mark.integration
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.function")
@pytest.mark.parametrize("case", ["warped", "all"])
def test_eager_graph_and_xla_agree(case):
    import tensorflow as tf

    language = Language(3, 7, 5, seed=28)

    def found(start_ids, max_length):
        decoder = HistoryDecoder(language)
        return beam_search(decoder, start_ids, max_length, END, num_beams=3, processors=CASES[case][0])

    start_ids = tf.constant(language.start_ids)
    eager = found(start_ids, 5)
    dynamic = tf.function(found, input_signature=[tf.TensorSpec([3], "int32"), tf.TensorSpec([], "int32")])
    compiled = tf.function(lambda ids: found(ids, 5), jit_compile=True)
    for other in (dynamic(start_ids, 5), compiled(start_ids)):
        np.testing.assert_array_equal(eager.token_ids, other.token_ids)
        np.testing.assert_allclose(eager.scores, other.scores, rtol=1e-5)


@pytest.mark.parametrize("received", [None, Temperature(1.0), [0.7]])
def test_what_is_no_tuple_of_processors_is_refused(received):
    language = Language(2, 5, 3, seed=29)
    with pytest.raises(TypeError, match="`processors` must be a list or tuple of logits processors.*Received: proc"):
        greedy_search(HistoryDecoder(language), language.start_ids, 3, END, processors=received)
