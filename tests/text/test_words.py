"""Texts to words: what a word is, and where it is."""

import random

import pytest
import tensorflow as tf

pytest.importorskip("tensorflow_text")

from keras_transformer.text import ENGLISH_CLITICS, WordSplitter, clean, joined

CASES = [
    ("He isn't in (yet).", ["He", "isn", "'", "t", "in", "(", "yet", ")", "."]),
    ("a15-b $3.14, 1,000:", ["a15", "-", "b", "$", "3.14", ",", "1,000", ":"]),
    ("the U.S. ... now!!?", ["the", "U.S.", "...", "now", "!!", "?"]),
    ("x\u3000y\u00a0z\u2028", ["x", "y", "z"]),
    (
        "\U0001f469\u200d\U0001f680\U0001f44d\U0001f3fd❤\ufe0f",
        ["\U0001f469\u200d\U0001f680", "\U0001f44d\U0001f3fd", "❤\ufe0f"],
    ),
    ("é世界e\u0301", ["é世界e\u0301"]),
    (" \t\n", []),
    ("", []),
]


def decoded(words):
    return [[word.decode() for word in row] for row in words.to_list()]


@pytest.fixture(scope="module")
def splitter():
    return WordSplitter()


@pytest.mark.parametrize("text, expected", CASES)
def test_words_alone_and_in_a_batch(splitter, text, expected):
    assert decoded(splitter([text]).words) == [expected]
    assert decoded(splitter(["ba do", text, ""]).words) == [["ba", "do"], expected, []]


def test_clitics():
    splitter = WordSplitter(ENGLISH_CLITICS)
    expected = ["I", "'m", "sure", "they", "ca", "n't", ",", "DO", "N\u2019T", "Bob", "'s"]
    assert decoded(splitter(["I'm sure they can't, DON\u2019T Bob's"]).words) == [expected]


def test_places_are_of_the_characters_of_the_text():
    draw = random.Random(5)
    signs = [*"ab \t.'-1é世\u3000\u200d\U0001f680\u0301\0\ud800", "...", "n't", "U.S.", b"\xff\xc3".decode("latin-1")]
    texts = ["".join(draw.choices(signs, k=draw.randrange(30))) for _ in range(200)]
    words, starts, ends = WordSplitter(ENGLISH_CLITICS)(texts)
    cleaned = [text.decode() for text in clean(texts).numpy()]
    for text, row, begin, end in zip(cleaned, decoded(words), starts.to_list(), ends.to_list()):
        assert [text[a:b] for a, b in zip(begin, end)] == row
        left = list(text)
        for a, b in zip(begin, end):
            left[a:b] = " " * (b - a)
        assert "".join(left).isspace() or not left


def test_given_words_have_a_space_between():
    words = [["ba", "dé", ""], [], ["\U0001f680"]]
    found = joined(tf.ragged.constant(words, tf.string))
    for row, begin, end in zip(words, found.starts.to_list(), found.ends.to_list()):
        assert [" ".join(row)[a:b] for a, b in zip(begin, end)] == row
    assert found.starts.to_list() == [[0, 3, 6], [], [0]]
