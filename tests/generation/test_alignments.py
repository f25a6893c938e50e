"""What each step attended to, read along the hypothesis that won."""

import keras
import numpy as np
import pytest
from keras import ops
from search_reference import HistoryDecoder, Language, TableDecoder

from keras_transformer.generation import (
    AlignedHypotheses,
    Hypotheses,
    NoRepeatNGram,
    beam_search,
    greedy_search,
    sample,
)

SEARCHES = {
    "greedy": (greedy_search, {}),
    "beam of one": (beam_search, {"num_beams": 1}),
    "beam": (beam_search, {"num_beams": 3, "num_return_sequences": 3}),
    "sample": (sample, {"num_return_sequences": 3, "seed": 1}),
}
LIMITS = [7, 3, 7, 5, 0]


def numpy(x):
    return ops.convert_to_numpy(x)


def expected_alignments(language, found):
    """The decoder's history when each token was chosen: the start token and the tokens before it, then -1."""
    token_ids, lengths, _ = (numpy(x) for x in found)
    expected = np.zeros((*token_ids.shape, language.max_length), "float32")
    for place in np.ndindex(*lengths.shape):
        history = [language.start_ids[place[0]], *token_ids[place]]
        for step in range(lengths[place]):
            expected[(*place, step)] = -1
            expected[(*place, step)][: step + 1] = history[: step + 1]
    return expected


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("processors", [(), (NoRepeatNGram(2),)], ids=["plain", "processed"])
def test_alignments_are_those_of_the_beams_that_won(search, processors):
    function, more = SEARCHES[search]
    language = Language(5, 7, 7, seed=41)
    arguments = dict(max_length=7, end_token_id=1, limits=LIMITS, processors=processors, **more)
    plain = function(HistoryDecoder(language), language.start_ids, **arguments)
    found = function(HistoryDecoder(language), language.start_ids, return_alignments=True, **arguments)
    assert isinstance(plain, Hypotheses) and isinstance(found, AlignedHypotheses)
    for one, other in zip(plain, found, strict=False):
        np.testing.assert_array_equal(numpy(one), numpy(other))
    expected = expected_alignments(language, plain)
    assert (expected[..., 2:, :] != 0).any()
    np.testing.assert_array_equal(numpy(found.alignments), expected)


@pytest.mark.integration
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.function")
def test_graph_and_xla_agree():
    import tensorflow as tf

    language = Language(3, 7, 5, seed=42)

    def found(start_ids, max_length):
        return beam_search(HistoryDecoder(language), start_ids, max_length, 1, num_beams=3, return_alignments=True)

    start_ids = tf.constant(language.start_ids)
    eager = found(start_ids, 5)
    dynamic = tf.function(found, input_signature=[tf.TensorSpec([3], "int32"), tf.TensorSpec([], "int32")])
    compiled = tf.function(lambda ids: found(ids, 5), jit_compile=True)
    for other in (dynamic(start_ids, 5), compiled(start_ids)):
        np.testing.assert_array_equal(eager.alignments, other.alignments)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_decoder_without_alignments_is_refused(search):
    function, more = SEARCHES[search]
    with pytest.raises(ValueError, match="`return_alignments=True` needs a decoder.*Received: TableDecoder"):
        function(TableDecoder(np.full((3, 3), 1 / 3)), [0], 3, 1, return_alignments=True, **more)
