"""Sampling: frequencies against probabilities, seeds, and what is returned."""

import itertools
from collections import Counter

import keras
import numpy as np
import processors_numpy as twins
import pytest
from keras import ops
from search_reference import HistoryDecoder, Language, ProcessedLanguage, TableDecoder, exhaustive, gnmt, sentences_of

from keras_transformer.generation import (
    AverageLength,
    ForcedPrefix,
    MinLength,
    NoRepeatNGram,
    Temperature,
    TopK,
    TopP,
    sample,
)
from keras_transformer.generation.sampling import draw

END = 1
on = keras.backend.backend()
CASES = {
    "plain": ((), ()),
    "warped": (
        (MinLength(2), NoRepeatNGram(1), Temperature(1.5), TopK(4), TopP(0.9)),
        (twins.min_length(2), twins.no_repeat_ngram(1), twins.temperature(1.5), twins.top_k(4), twins.top_p(0.9)),
    ),
}


def numpy(x):
    return ops.convert_to_numpy(x)


def chi_square_bound(degrees):
    """What chi-square with that many degrees of freedom exceeds once in 10,000 times (Wilson and Hilferty 1931)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.72 * np.sqrt(2 / (9 * degrees))) ** 3


def assert_drawn_from(counts, expected):
    """Counts of outcomes against their expected counts; rare outcomes are taken together."""
    assert not [outcome for outcome in counts if outcome not in expected]  # of probability 0
    rare = [outcome for outcome, e in expected.items() if e < 5]
    pairs = [(counts[outcome], e) for outcome, e in expected.items() if e >= 5]
    if rare:
        pairs.append((sum(counts[outcome] for outcome in rare), sum(expected[outcome] for outcome in rare)))
    statistic = sum((count - e) ** 2 / max(e, 1e-9) for count, e in pairs)
    assert statistic < chi_square_bound(len(pairs) - 1), (statistic, len(pairs))


@pytest.mark.parametrize("case", CASES)
def test_sentences_come_as_often_as_they_are_probable(case):
    """Whole sentences of two models side by side, against the probabilities of all that there are."""
    processors, plain = CASES[case]
    language, count = Language(2, 5, 3, seed=31, scale=0.7), 3000
    model = ProcessedLanguage(language, lambda sentence: plain, END)
    found = sample(
        HistoryDecoder(language),
        language.start_ids,
        3,
        END,
        num_return_sequences=count,
        length_penalty=0,
        processors=processors,
        seed=5,
    )
    assert tuple(found.token_ids.shape) == (2, count, 3) and tuple(found.scores.shape) == (2, count)
    for sentence, drawn in enumerate(sentences_of(found)):
        log_p = {tokens: score for score, tokens in exhaustive(model, sentence, 3, END, gnmt(0))}
        assert abs(sum(np.exp(list(log_p.values()))) - 1) < 1e-9
        assert_drawn_from(
            Counter(tokens for tokens, _ in drawn), {tokens: count * np.exp(p) for tokens, p in log_p.items()}
        )
        np.testing.assert_allclose([s for _, s in drawn], [log_p[tokens] for tokens, _ in drawn], atol=1e-5)


def test_draws_are_of_a_large_vocabulary_as_it_is():
    count, size = 20_000, 1009
    p = np.random.default_rng(2).dirichlet(np.full(size, 0.3)).astype("float32")
    noise = keras.random.uniform((count,), seed=7)
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    rows = [
        draw(ops.convert_to_tensor(np.tile(log_p, (len(u), 1))), ops.convert_to_tensor(u))
        for u in np.split(numpy(noise), 10)
    ]
    drawn = Counter(np.concatenate([numpy(x) for x in rows]).tolist())
    assert_drawn_from(drawn, {token: count * float(x) for token, x in enumerate(p) if x > 0})


@pytest.mark.parametrize("noise", [0.0, 1e-9, 0.5, 1 - 2**-24])
def test_what_has_no_probability_is_never_drawn(noise):
    random = np.random.default_rng(3)
    p = random.dirichlet(np.ones(97), 7)
    p[random.random(p.shape) < 0.6] = 0
    p[0], p[1] = np.eye(97)[0], np.eye(97)[96]
    with np.errstate(divide="ignore"):
        log_p = ops.convert_to_tensor(np.log(p).astype("float32"))
    ids = numpy(draw(log_p, ops.full((7,), noise, "float32")))
    assert (np.take_along_axis(p, ids[:, None], 1) > 0).all()


def run(seed, **changes):
    language = Language(3, 7, 5, seed=32)
    arguments = dict(max_length=5, end_token_id=END, num_return_sequences=4, seed=seed, **changes)
    return [numpy(x) for x in sample(HistoryDecoder(language), language.start_ids, **arguments)]


def test_a_seed_gives_one_result():
    for one, other in itertools.product([run(11)], [run(11), run(ops.convert_to_tensor(11, "int32"))]):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (run(11)[0] != run(12)[0]).any()
    assert (run(None)[0] != run(None)[0]).any()
    generator = keras.random.SeedGenerator(3)
    assert (run(generator)[0] != run(generator)[0]).any()
    tokens = run(11)[0]
    assert (tokens[:, 0] != tokens[:, 1]).any()  # samples of a sentence are not copies of each other


def test_scores_are_log_probabilities_of_what_was_drawn_over_the_penalty():
    language = Language(3, 7, 5, seed=33)
    found = sample(
        HistoryDecoder(language),
        language.start_ids,
        5,
        END,
        limits=[5, 2, 1],
        length_penalty=AverageLength(1.0),
        num_return_sequences=3,
        processors=[Temperature(0.5)],
        seed=1,
    )
    model = ProcessedLanguage(language, lambda sentence: [twins.temperature(0.5)], END)
    for sentence, drawn in enumerate(sentences_of(found)):
        for tokens, score in drawn:
            assert len(tokens) <= [5, 2, 1][sentence] and END not in tokens[:-1]
            np.testing.assert_allclose(score, model.rescore(sentence, tokens) / len(tokens), rtol=1e-4, atol=1e-5)


def test_a_prefix_and_a_distribution_without_choice():
    found = sample(TableDecoder([[0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]]), [0], 4, 1, num_return_sequences=3, seed=0)
    assert sentences_of(found) == [[((2, 1), 0.0)] * 3]
    language = Language(2, 5, 4, seed=34)
    prefix = ForcedPrefix([[2, 3], [4, 0]], [2, 1])
    found = sample(
        HistoryDecoder(language), language.start_ids, 4, END, num_return_sequences=5, processors=[prefix], seed=0
    )
    first, second = sentences_of(found)
    assert {tokens[:2] for tokens, _ in first} == {(2, 3)} and {tokens[:1] for tokens, _ in second} == {(4,)}


def test_nothing_to_draw_ends_empty_handed_and_alone():
    probabilities = np.full((2, 3, 3), 1 / 3)
    probabilities[0] = 0
    found = sample(TableDecoder(probabilities, batch=2), [0, 0], 4, end_token_id=-1, num_return_sequences=2, seed=0)
    assert sentences_of(found)[0] == [((), -np.inf)] * 2
    assert all(len(tokens) == 4 and score > -np.inf for tokens, score in sentences_of(found)[1])


def test_an_empty_batch_and_a_limit_of_zero():
    language = Language(0, 5, 3, seed=35)
    found = sample(HistoryDecoder(language), language.start_ids, 3, END, num_return_sequences=2, seed=0)
    assert [tuple(x.shape) for x in found] == [(0, 2, 3), (0, 2), (0, 2)]
    language = Language(2, 5, 3, seed=35)
    found = sample(HistoryDecoder(language), language.start_ids, 3, END, limits=[0, 3], pad_token_id=9, seed=0)
    assert sentences_of(found)[0] == [((), -np.inf)] and (numpy(found.token_ids)[0] == 9).all()


@pytest.mark.integration
@pytest.mark.skipif(on != "tensorflow", reason="tf.function")
def test_one_graph_serves_all_seeds():
    import tensorflow as tf

    language = Language(3, 7, 5, seed=36)
    processors, plain = CASES["warped"]
    model = ProcessedLanguage(language, lambda sentence: plain, END)

    def found(seed):
        return sample(HistoryDecoder(language), language.start_ids, 5, END, processors=processors, seed=seed)

    graph, compiled = tf.function(found), tf.function(found, jit_compile=True)
    for seed in (1, 2):
        eager, same = found(seed), graph(tf.constant(seed))
        np.testing.assert_array_equal(eager.token_ids, same.token_ids)
        np.testing.assert_allclose(eager.scores, same.scores, rtol=1e-5)
        for sentence, [(tokens, score)] in enumerate(sentences_of(compiled(tf.constant(seed)))):  # other numbers
            expected = model.rescore(sentence, tokens) / gnmt(0.6)(len(tokens))
            np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5)
    assert graph.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": -1}, "`seed` must be an integer of at least 0.*seed=-1"),
        ({"seed": 2**31}, "seed=2147483648"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"num_return_sequences": 0}, "num_return_sequences=0"),
        ({"max_length": 0}, "max_length=0"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {"start_ids": [0], "max_length": 3, "end_token_id": 1, **changes}
    with pytest.raises(ValueError, match=message):
        sample(TableDecoder(np.full((3, 3), 1 / 3)), **arguments)
