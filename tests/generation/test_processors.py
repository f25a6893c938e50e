"""Each processor against its twin, and what all of them have in common."""

import keras
import numpy as np
import processors_numpy as twins
import pytest
from keras import ops

from keras_transformer.generation import (
    ForcedPrefix,
    LogitsProcessor,
    MinLength,
    MinP,
    NoRepeatNGram,
    RepetitionPenalty,
    SearchContext,
    SuppressTokens,
    Temperature,
    TopK,
    TopP,
)

N, V, L, END = 6, 13, 11, 5

CASES = {
    "temperature": [(Temperature(t), twins.temperature(t)) for t in (0.3, 1, 2.5)],
    "top_k": [(TopK(k), twins.top_k(k)) for k in (1, 3, V, 50)],
    "top_p": [(TopP(p), twins.top_p(p)) for p in (1e-6, 0.3, 0.9, 0.999, 1)],
    "min_p": [(MinP(p), twins.min_p(p)) for p in (1e-6, 0.2, 1)],
    "repetition_penalty": [(RepetitionPenalty(p), twins.repetition_penalty(p)) for p in (0.7, 1, 1.2)],
    "no_repeat_ngram": [(NoRepeatNGram(n), twins.no_repeat_ngram(n)) for n in (1, 2, 3, L + 3)],
    "min_length": [(MinLength(n), twins.min_length(n)) for n in (0, 1, 4, 5, 99)],
    "suppress": [(SuppressTokens(ids), twins.suppress(ids)) for ids in ([], [3, END], list(range(V)))],
}
PAIRS = [pytest.param(*pair, id=f"{name}-{pair[0]!r}") for name, pairs in CASES.items() for pair in pairs]


def logits_of(seed=0, scale=3.0, rows=N):
    return np.random.default_rng(seed).normal(0, scale, (rows, V)).astype("float32")


def history(seed=0, few=3):
    """Of few different tokens, so that n-grams return."""
    return np.random.default_rng(seed).integers(0, few, (N, L)).astype("int32")


def context_of(step, token_ids, num_beams=2):
    return SearchContext(ops.convert_to_tensor(step, "int32"), END, num_beams, ops.convert_to_tensor(token_ids))


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("processor, twin", PAIRS)
@pytest.mark.parametrize("step", [0, 1, 3, L])
def test_is_its_twin(processor, twin, step):
    logits, token_ids = logits_of(), history()
    found = numpy(processor(ops.convert_to_tensor(logits), context_of(step, token_ids)))
    expected = [twin(row.astype("float64"), ids[:step], END) for row, ids in zip(logits, token_ids, strict=True)]
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # one rounding or two


@pytest.mark.parametrize("processor, twin", PAIRS)
def test_serialises(processor, twin):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(processor))
    assert copy == processor and hash(copy) == hash(processor) and repr(copy) == repr(processor)


@pytest.mark.parametrize("processor, twin", PAIRS)
def test_what_is_after_the_step_does_not_count(processor, twin):
    logits, token_ids = ops.convert_to_tensor(logits_of()), history()
    other = np.where(np.arange(L) < 4, token_ids, (token_ids + 1) % V)
    found = [numpy(processor(logits, context_of(4, ids))) for ids in (token_ids, other)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("processor, twin", PAIRS)
def test_a_row_without_probability_stays_so_and_no_neighbour_notices(processor, twin):
    logits = logits_of()
    rows = logits.copy()
    rows[1] = -np.inf
    found, expected = (numpy(processor(ops.convert_to_tensor(x), context_of(3, history()))) for x in (rows, logits))
    assert np.all(found[1] == -np.inf)
    np.testing.assert_array_equal(np.delete(found, 1, 0), np.delete(expected, 1, 0))


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_nucleus_is_the_smallest_set(top_p, scale):
    """By its definition, at the size of a real vocabulary."""
    logits = np.random.default_rng(1).normal(0, scale, (3, 32_003)).astype("float32")
    kept = numpy(TopP(top_p)(ops.convert_to_tensor(logits), None)) > -np.inf
    for row, which in zip(logits.astype("float64"), kept, strict=True):
        p = twins.softmax(row)
        # float32 sums of 32,003 probabilities, and logits that differ by less than 6e-8 of their range
        assert p[which].sum() >= top_p - 1e-5
        assert p[which].sum() - p[which].min() < top_p + 1e-5
        assert row[which].min() >= row[~which].max(initial=-np.inf)


def test_equals_at_the_edge_stay_whatever_their_order():
    logits = ops.log(ops.convert_to_tensor(np.array([[0.2, 0.4, 0.2, 0.2], [0.2, 0.2, 0.2, 0.4]], "float32")))
    for processor in (TopP(0.5), TopK(2), MinP(0.5 - 1e-6)):
        np.testing.assert_array_equal(numpy(processor(logits, None)), numpy(logits))


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_each_sentence_has_its_prefix(step):
    prefixes, lengths, num_beams = np.array([[7, 1, 12], [4, 4, 4], [0, 2, 3]]), [3, 0, 2], 2
    logits = logits_of()
    found = numpy(
        ForcedPrefix(prefixes, lengths)(ops.convert_to_tensor(logits), context_of(step, history(), num_beams))
    )
    for row in range(N):
        ids, length = prefixes[row // num_beams], lengths[row // num_beams]
        expected = twins.prefix(ids[:length])(logits[row], [0] * step, END)
        np.testing.assert_array_equal(found[row], expected.astype("float32"))


def test_a_prefix_is_whole_unless_lengths_say_otherwise_and_may_be_empty():
    logits = ops.convert_to_tensor(logits_of(rows=2))
    context = context_of(1, history()[:2], num_beams=1)
    whole = numpy(ForcedPrefix([[1, 2], [3, 4]])(logits, context))
    assert whole.argmax(-1).tolist() == [2, 4] and np.isfinite(whole).sum() == 2
    nothing = ForcedPrefix(np.zeros((2, 0), "int32"))(logits, context)
    np.testing.assert_array_equal(numpy(nothing), numpy(logits))


def test_processors_are_equal_if_they_do_the_same():
    class Own(LogitsProcessor):
        def __init__(self, bonus):
            object.__setattr__(self, "bonus", bonus)

    assert MinLength(3) == MinLength(3) and hash(MinLength(3)) == hash(MinLength(3)) and MinLength(3) != MinLength(4)
    assert SuppressTokens(np.array([3, 4])) == SuppressTokens([3, 4])
    for one, other in [(ForcedPrefix([[1]]), ForcedPrefix([[2]])), (Own(1), Own(2))]:
        assert one == one and one != other and len({one, other}) == 2


def test_a_prefix_serialises():
    prefix = ForcedPrefix([[1, 2], [3, 4]], [2, 1])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(prefix))
    np.testing.assert_array_equal(copy.prefix_ids, prefix.prefix_ids)
    np.testing.assert_array_equal(copy.prefix_lengths, prefix.prefix_lengths)
    with_none = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ForcedPrefix([[1]])))
    assert with_none.prefix_lengths is None


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Temperature(0), r"`temperature` of Temperature must be.*temperature=0\. In place of 0 use greedy"),
        (lambda: Temperature(-1.0), r"temperature=-1.0"),
        (lambda: Temperature(float("nan")), r"temperature=nan"),
        (lambda: Temperature("hot"), r"temperature='hot'"),
        (lambda: TopK(0), r"`top_k` of TopK must be an integer of at least 1. Received: top_k=0"),
        (lambda: TopK(2.0), r"top_k=2.0"),
        (lambda: TopP(0.0), r"`top_p` of TopP must be a probability above 0.*top_p=0.0"),
        (lambda: TopP(1.1), r"top_p=1.1"),
        (lambda: MinP(0), r"`min_p` of MinP.*min_p=0"),
        (lambda: MinP(True), r"min_p=True"),
        (lambda: RepetitionPenalty(0.0), r"`repetition_penalty` of.*repetition_penalty=0.0\. Use 1"),
        (lambda: NoRepeatNGram(0), r"`no_repeat_ngram_size` of NoRepeatNGram.*no_repeat_ngram_size=0"),
        (lambda: MinLength(-1), r"`min_length` of MinLength.*min_length=-1"),
        (lambda: SuppressTokens([3, -1]), r"`suppress_tokens` of SuppressTokens.*\[3, -1\]"),
        (lambda: SuppressTokens(3), r"suppress_tokens=3"),
        (lambda: ForcedPrefix([1, 2]), r"`prefix_ids` of ForcedPrefix must have the shape.*\(2,\)"),
        (lambda: ForcedPrefix([[1, 2]], [[2]]), r"`prefix_lengths` of ForcedPrefix must have the shape.*\(1, 1\)"),
        (lambda: ForcedPrefix([[1.5]]), r"`prefix_ids` of ForcedPrefix must be integers.*1.5"),
        (lambda: ForcedPrefix([[1, 2]], [3]), r"`prefix_lengths` of ForcedPrefix must be at most 2.*\[3\]"),
        (lambda: ForcedPrefix([[1, 2]], [1, 1]), r"one for each of the 1 rows.*\[1, 1\]"),
        (lambda: ForcedPrefix([[-1]]), r"`prefix_ids` of ForcedPrefix must be at least 0.*-1"),
    ],
)
def test_what_has_no_meaning_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "processor, message",
    [
        (SuppressTokens([V]), rf"`suppress_tokens` of SuppressTokens must be below {V}.*\({V},\)"),
        (ForcedPrefix([[V], [0], [0]]), f"must be below {V}, the size of the vocabulary. Received: {V}"),
        (ForcedPrefix([[1], [2]]), "a row for each sentence. Received: 2 rows for 3 sentences"),
    ],
)
def test_what_does_not_fit_the_logits_is_refused(processor, message):
    with pytest.raises(ValueError, match=message):
        processor(ops.convert_to_tensor(logits_of()), context_of(0, history()))


def test_the_base_asks_for_a_call():
    with pytest.raises(NotImplementedError):
        LogitsProcessor()(None, None)
