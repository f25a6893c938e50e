"""Laws and errors that greedy and beam search share."""

import keras
import numpy as np
import pytest
from keras import ops
from search_reference import HistoryDecoder, Language, TableDecoder, sentences_of

from keras_transformer.generation import beam_search, greedy_search

SEARCHES = {
    "greedy": (greedy_search, {}),
    "beam": (beam_search, {"num_beams": 3, "num_return_sequences": 2}),
}
each_search = pytest.mark.parametrize("search", SEARCHES)
on = keras.backend.backend()


def run(search, decoder, start_ids, max_length, **arguments):
    function, more = SEARCHES[search]
    return function(decoder, start_ids, max_length, end_token_id=1, **more, **arguments)


def assert_equal(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        if name == "scores":
            np.testing.assert_allclose(a, b, rtol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)


@each_search
def test_a_sentence_depends_on_no_other(search):
    language = Language(5, 7, 11, seed=4)
    limits = np.array([11, 2, 7, 1, 5])
    whole = run(search, HistoryDecoder(language), language.start_ids, 11, limits=limits)
    for picked in ([0], [3], [4, 2, 0, 1, 3], [2, 2]):
        part = language.pick(picked)
        found = run(search, HistoryDecoder(part), part.start_ids, 11, limits=limits[picked])
        assert_equal(found, type(whole)(*(ops.convert_to_numpy(x)[picked] for x in whole)))


@each_search
def test_a_longer_buffer_changes_only_the_padding(search):
    language = Language(3, 5, 11, seed=5)
    limits = [5, 3, 4]
    short = run(search, HistoryDecoder(language), language.start_ids, 5, limits=limits)
    long = run(search, HistoryDecoder(language), language.start_ids, 11, limits=limits)
    assert_equal(short, long._replace(token_ids=long.token_ids[..., :5]))
    assert not ops.convert_to_numpy(long.token_ids)[..., 5:].any()


@each_search
def test_limits_are_cut_to_max_length(search):
    language = Language(2, 5, 3, seed=6)
    found = [
        run(search, HistoryDecoder(language), language.start_ids, 3, limits=limits) for limits in (None, [3, 1000])
    ]
    assert_equal(*found)


@each_search
def test_a_limit_of_zero_generates_nothing(search):
    language = Language(2, 5, 3, seed=7)
    found = run(search, HistoryDecoder(language), language.start_ids, 3, limits=[0, 3], pad_token_id=9)
    nothing, something = sentences_of(found)
    assert set(nothing) == {((), -np.inf)}
    assert np.all(ops.convert_to_numpy(found.token_ids)[0] == 9)
    assert all(tokens and score > -np.inf for tokens, score in something)


@each_search
def test_an_empty_batch(search):
    language = Language(0, 5, 3, seed=8)
    found = run(search, HistoryDecoder(language), language.start_ids, 3)
    assert found.token_ids.shape[0] == 0 and found.token_ids.shape[-1] == 3
    assert tuple(found.lengths.shape) == tuple(found.scores.shape) == found.token_ids.shape[:-1]


@each_search
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_scores_are_float32_whatever_the_logits(search, dtype):
    if dtype == "float64" and on == "jax":
        pytest.skip("JAX has no float64 by default")
    # Halves are exact in every dtype, so the answers are equal and not merely close.
    language = Language(3, 5, 7, seed=9)
    language.follows = np.round(language.follows * 2) / 2
    language.sentences = np.round(language.sentences * 2) / 2
    found = [run(search, HistoryDecoder(language, kind), language.start_ids, 7) for kind in ("float32", dtype)]
    assert keras.backend.standardize_dtype(found[1].scores.dtype) == "float32"
    assert_equal(*found)


class Broken(HistoryDecoder):
    """NaN in some logits: mask(position) broadcasts to (N, V)."""

    def __init__(self, language, mask):
        super().__init__(language)
        self.mask = mask

    def step(self, ids, state):
        logits, after = super().step(ids, state)
        return ops.where(self.mask(state["position"]), float("nan"), logits), after


@each_search
def test_nan_logits_end_the_search_empty_handed(search):
    language = Language(2, 5, 7, seed=10)
    decoder = Broken(language, lambda position: position >= 0)
    found = run(search, decoder, language.start_ids, 7)
    assert {h for sentence in sentences_of(found) for h in sentence} == {((), -np.inf)}
    if on != "jax":  # a traced loop calls step once
        assert decoder.steps == 1


@each_search
def test_a_nan_logit_is_a_token_never_chosen(search):
    language = Language(2, 5, 7, seed=11)
    without = Language(2, 5, 7, seed=11)
    without.sentences[:, 3] = -np.inf
    mask = ops.arange(5) == 3
    found = run(search, Broken(language, lambda position: mask), language.start_ids, 7)
    expected = run(search, HistoryDecoder(without), language.start_ids, 7)
    assert np.all(ops.convert_to_numpy(found.scores) > -np.inf)
    assert_equal(found, expected)


@each_search
def test_nan_stays_in_its_sentence(search):
    language = Language(2, 5, 7, seed=12)
    rows = 2 * SEARCHES[search][1].get("num_beams", 1)
    mask = ops.arange(rows)[:, None] < rows // 2
    found = run(search, Broken(language, lambda position: mask), language.start_ids, 7)
    part = language.pick([1])
    alone = run(search, HistoryDecoder(part), part.start_ids, 7)
    assert_equal(type(found)(*(x[1:] for x in found)), alone)


def test_what_finished_before_the_nan_is_kept():
    language = Language(3, 5, 7, seed=13)
    decoder = Broken(language, lambda position: position >= 2)
    found = run("beam", decoder, language.start_ids, 7)
    before = [h for sentence in sentences_of(found) for h in sentence if h[0]]
    assert before and all(tokens[-1] == 1 and len(tokens) <= 2 for tokens, _ in before)


@pytest.mark.integration
@pytest.mark.skipif(on != "tensorflow", reason="tf.function")
@each_search
@pytest.mark.parametrize("batch", [1, 3])
def test_eager_graph_and_xla_agree(search, batch):
    import tensorflow as tf

    language = Language(batch, 7, 5, seed=14)
    limits = np.arange(5, 5 - batch, -1, dtype="int32")

    def found(sentences, start_ids, limits, max_length):
        decoder = HistoryDecoder(language.having(sentences=sentences))
        return run(search, decoder, start_ids, max_length, limits=limits)

    arguments = (language.sentences, language.start_ids, limits)
    eager = found(*arguments, 5)
    dynamic = tf.function(
        found,
        input_signature=[
            tf.TensorSpec([None, 7], "float32"),
            tf.TensorSpec([None], "int32"),
            tf.TensorSpec([None], "int32"),
            tf.TensorSpec([], "int32"),
        ],
    )
    assert_equal(eager, dynamic(*arguments, 5))
    static = tf.function(lambda *x: found(*x, 5))
    assert_equal(eager, static(*(tf.constant(x) for x in arguments)))
    compiled = tf.function(lambda *x: found(*x, 5), jit_compile=True)
    assert_equal(eager, compiled(*(tf.constant(x) for x in arguments)))


@pytest.mark.integration
@pytest.mark.skipif(on != "tensorflow", reason="tf.function")
@each_search
def test_one_graph_serves_all_batches_and_lengths(search):
    import tensorflow as tf

    class Uniform:
        """Has no batch of its own, so that the batch can be unknown to the graph."""

        def start(self, num_beams):
            return ()

        def step(self, ids, state):
            return ops.one_hot((ids + 1) % 7, 7, dtype="float32") * 3, state

        def reorder(self, state, rows):
            return state

    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None], "int32"), tf.TensorSpec([], "int32")])
    def found(start_ids, max_length):
        traces.append(1)
        return run(search, Uniform(), start_ids, max_length)

    for start_ids, max_length in (([3], 2), ([2, 3, 4, 5, 6], 7), ([], 3), ([6, 6], 13)):
        start_ids = np.array(start_ids, "int32")
        assert_equal(found(start_ids, max_length), run(search, Uniform(), start_ids, max_length))
    assert len(traces) == 1


@pytest.mark.skipif(on != "jax", reason="jax.jit")
@each_search
def test_jit_agrees_with_eager(search):
    import jax

    language = Language(3, 7, 5, seed=15)
    limits = np.array([5, 3, 2], "int32")

    def found(start_ids, limits):
        return run(search, HistoryDecoder(language), start_ids, 5, limits=limits)

    arguments = (language.start_ids, limits)
    assert_equal(found(*arguments), jax.jit(found)(*arguments))


@each_search
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_length": 0}, "`max_length` must be an integer of at least 1.*max_length=0"),
        ({"max_length": -3}, "max_length=-3"),
        ({"max_length": 2.5}, "max_length=2.5"),
        ({"start_ids": [[1, 2]]}, r"`start_ids` must be of shape \(batch,\).*\(1, 2\)"),
        ({"limits": [3, 3]}, r"`limits` must be.*each of the 1 sentences.*\(2,\)"),
        ({"limits": 3}, r"`limits` must be.*Received shape: \(\)"),
        ({"length_penalty": -0.5}, "`alpha` of GNMTLength.*alpha=-0.5"),
    ],
)
def test_bad_arguments_are_refused(search, changes, message):
    arguments = {"start_ids": [0], "max_length": 3, **changes}
    with pytest.raises(ValueError, match=message):
        run(search, TableDecoder(np.full((3, 3), 1 / 3)), **arguments)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_beams": 0}, "`num_beams` must be an integer of at least 1.*num_beams=0"),
        ({"num_beams": -2}, "num_beams=-2"),
        ({"num_beams": 1.5}, "num_beams=1.5"),
        ({"num_return_sequences": 0}, "num_return_sequences=0"),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            "`num_return_sequences` must be at most.*num_return_sequences=3, num_beams=2",
        ),
    ],
)
def test_bad_widths_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        beam_search(TableDecoder(np.full((3, 3), 1 / 3)), [0], 3, end_token_id=1, **changes)


@each_search
def test_logits_of_a_wrong_shape_are_refused(search):
    class Unsqueezed(TableDecoder):
        def step(self, ids, state):
            logits, state = super().step(ids, state)
            return logits[:, None], state

    with pytest.raises(ValueError, match=r"`decoder.step` must return.*\(rows, vocab.*1, 5\)"):
        run(search, Unsqueezed(np.full((5, 5), 0.2)), [0], 3)
