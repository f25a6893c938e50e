"""The keywords of `generate`: which search and which processors they mean, and what they refuse."""

import numpy as np
import pytest
from keras import ops
from search_reference import HistoryDecoder, Language

from keras_transformer.generation import (
    KEYWORDS,
    ForcedPrefix,
    MinLength,
    MinP,
    NoRepeatNGram,
    RepetitionPenalty,
    SuppressTokens,
    Temperature,
    TopK,
    TopP,
    beam_search,
    check_options,
    greedy_search,
    logits_processors,
    sample,
    search,
)

LANGUAGE = Language(3, 7, 5, seed=51)
ARGUMENTS = {"start_ids": LANGUAGE.start_ids, "max_length": 5, "end_token_id": 1}


def assert_equal(one, other):
    assert type(one) is type(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def first(found):
    return type(found)(*(x[:, 0] for x in found))


CASES = {
    "greedy": ({}, lambda **k: greedy_search(**k)),
    "greedy, with an axis": ({"num_return_sequences": 1}, lambda **k: beam_search(num_beams=1, **k)),
    "beam": ({"num_beams": 3}, lambda **k: first(beam_search(num_beams=3, **k))),
    "n-best": (
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0},
        lambda **k: beam_search(num_beams=3, num_return_sequences=2, length_penalty=0, **k),
    ),
    "sample": ({"do_sample": True, "seed": 4}, lambda **k: first(sample(seed=4, **k))),
    "samples, warped": (
        {"do_sample": True, "seed": 4, "num_return_sequences": 2, "top_k": 3, "temperature": 2.0},
        lambda **k: sample(seed=4, num_return_sequences=2, processors=(Temperature(2.0), TopK(3)), **k),
    ),
    "all processors": (
        {"no_repeat_ngram_size": 2, "min_length": 3, "prefix_ids": [[2], [3], [4]], "prefix_lengths": [1, 0, 1]},
        lambda **k: greedy_search(
            processors=(NoRepeatNGram(2), MinLength(3), ForcedPrefix([[2], [3], [4]], [1, 0, 1])), **k
        ),
    ),
    "processors beside keywords": (
        {"min_length": 3, "processors": (SuppressTokens([2]),)},
        lambda **k: greedy_search(processors=(MinLength(3), SuppressTokens([2])), **k),
    ),
    "alignments": (
        {"num_beams": 2, "return_alignments": True},
        lambda **k: first(beam_search(num_beams=2, return_alignments=True, **k)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_keywords_choose_the_search(case):
    keywords, expected = CASES[case]
    found = search(HistoryDecoder(LANGUAGE), **ARGUMENTS, **keywords)
    assert_equal(found, expected(decoder=HistoryDecoder(LANGUAGE), **ARGUMENTS))


def test_processors_come_in_order_whatever_that_of_the_keywords():
    found = logits_processors(
        min_p=0.1,
        top_p=0.9,
        top_k=5,
        temperature=0.7,
        suppress_tokens=[3],
        min_length=2,
        no_repeat_ngram_size=3,
        repetition_penalty=1.2,
    )
    assert found == (
        RepetitionPenalty(1.2),
        NoRepeatNGram(3),
        MinLength(2),
        SuppressTokens((3,)),
        Temperature(0.7),
        TopK(5),
        TopP(0.9),
        MinP(0.1),
    )
    assert logits_processors() == ()


def test_an_unknown_keyword_is_refused_with_the_list():
    with pytest.raises(TypeError, match="`tempratur` is no keyword of this search. Use one of: do_sample, .*top_p"):
        search(HistoryDecoder(LANGUAGE), **ARGUMENTS, tempratur=0.7)
    assert {"num_beams", "temperature", "no_repeat_ngram_size", "prefix_ids", "seed", "return_alignments"} < {*KEYWORDS}
    assert not {"decoder", "start_ids", "kwargs"} & {*KEYWORDS}


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"temperature": 0.7}, "for sampling alone. Received: temperature=0.7 without do_sample=True"),
        ({"top_p": 0.7, "num_beams": 3}, "Received: top_p=0.7 without"),
        ({"seed": 0}, "Received: seed=0 without"),
        ({"do_sample": True, "num_beams": 3}, "keeps no beams. Received: num_beams=3. Use num_beams=1"),
        ({"prefix_lengths": [1, 1, 1]}, "`prefix_lengths` are those of `prefix_ids`. Received: prefix_ids=None"),
        ({"do_sample": True, "temperature": 0.0}, "temperature=0.0. In place of 0 use greedy"),
        ({"min_length": -1}, "min_length=-1"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_return_sequences": 0}, "num_return_sequences=0"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3, num_beams=2"),
    ],
)
def test_what_has_no_meaning_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        search(HistoryDecoder(LANGUAGE), **ARGUMENTS, **keywords)
    with pytest.raises(ValueError, match=message):
        check_options(**keywords)
