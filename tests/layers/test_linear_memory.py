"""Attention in blocks: against NumPy float64 and the plain path, with every mask, eager, as a graph and under XLA."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from masked_attention_numpy import masked_attention, masked_attention_gradients
from tiers import slow_but, slow_but_one_a_row

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's own path", allow_module_level=True)

import tensorflow as tf

from keras_transformer.layers.dropout import is_dropped, kept_scale
from keras_transformer.layers.linear_memory import linear_memory_attention
from keras_transformer.layers.masks import Visibility, causal

B, T, S, H, G, K, V = 2, 13, 17, 6, 3, 7, 11
RATE, SEED = 0.3, np.array([1706, -3762], "int32")
# float32 sums of at most T * 2 products of order 1, one after another in both directions.
TOLERANCE = 1e-5

MODES = {"eager": lambda f: f, "graph": tf.function, "XLA": lambda f: tf.function(f, jit_compile=True)}
XLA = pytest.param("XLA", marks=pytest.mark.integration)  # a compilation takes seconds
each_mode = pytest.mark.parametrize("mode", ["eager", "graph", XLA])
compiled_modes = pytest.mark.parametrize("mode", ["graph", XLA])
BLOCKS = [(7, 9), (4, 100), (100, 100)]


def random(*shape, seed=0, dtype="float32"):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(dtype)


def mask(*shape, seed=2):
    return np.random.default_rng((seed, *shape)).random(shape) < 0.7


QUERY, KEY, VALUE = random(B, T, H, K) / np.float32(K**0.5), random(B, S, G, K), random(B, S, G, V)
OUTPUT_GRADIENT = random(B, T, H, V)


def segments(length, *ends):
    return np.stack([np.searchsorted(end, np.arange(length), side="right") for end in ends]).astype("int32")


def window(query, key):
    return (key <= query) & (key > query - 4)


QUERY_SEGMENTS, KEY_SEGMENTS = segments(T, [3, 9], [5]), segments(S, [4, 10], [9])
PACKED = random(B, S, seed=3).argsort().astype("int32")  # positions in no order
AT, FROM = np.arange(T) + 4, np.arange(S)
MASKS = {  # what is said, and the same as one array that broadcasts to (B, H, T, S)
    "nothing": ({}, np.ones((1, 1, 1, 1), bool)),
    "attention": ({"attention_mask": mask(B, H, T, S)}, mask(B, H, T, S)),
    "attention, one head": ({"attention_mask": mask(B, 1, T, S)}, mask(B, 1, T, S)),
    "attention, one row": ({"attention_mask": mask(1, 1, T, S)}, mask(1, 1, T, S)),
    "attention, one query": ({"attention_mask": mask(B, 1, 1, S)}, mask(B, 1, 1, S)),
    "attention, one key": ({"attention_mask": mask(B, H, T, 1)}, mask(B, H, T, 1)),
    "query mask": ({"query_mask": mask(B, T)}, mask(B, T)[:, None, :, None]),
    "key mask": ({"key_mask": mask(B, S)}, mask(B, S)[:, None, None, :]),
    "segments": (
        {"query_segments": QUERY_SEGMENTS, "key_segments": KEY_SEGMENTS},
        QUERY_SEGMENTS[:, None, :, None] == KEY_SEGMENTS[:, None, None, :],
    ),
    "causal": (
        {"query_positions": AT.astype("int32"), "key_positions": FROM.astype("int32"), "patterns": (causal,)},
        (FROM <= AT[:, None])[None, None],
    ),
    "window, packed": (
        {"query_positions": PACKED[:, :T], "key_positions": PACKED[:1], "patterns": (window,)},
        window(PACKED[:, None, :T, None], PACKED[None, :1, None]),
    ),
}
MASKS["everything"] = (
    {k: v for name in ("attention, one head", "query mask", "key mask", "causal") for k, v in MASKS[name][0].items()}
    | {"query_segments": QUERY_SEGMENTS, "key_segments": KEY_SEGMENTS, "patterns": (causal, lambda q, k: q % 5 != k)},
    MASKS["attention, one head"][1]
    & MASKS["query mask"][1]
    & MASKS["key mask"][1]
    & MASKS["causal"][1]
    & MASKS["segments"][1]
    & (AT[:, None] % 5 != FROM),
)


class LearnedBias(keras.layers.Layer):
    """A number for each head and clipped distance."""

    def __init__(self):
        super().__init__()
        self.table = self.add_weight(shape=(2 * 6 + 1, H), initializer="glorot_uniform")

    def scores(self, query, query_positions, key_positions):
        distance = ops.expand_dims(key_positions, -2) - ops.expand_dims(query_positions, -1)
        bias = ops.take(self.table, ops.clip(distance, -6, 6) + 6, axis=0)
        return ops.moveaxis(bias, -1, -3)  # (H, T, S) or (B, H, T, S)


class LearnedVectors(LearnedBias):
    """Shaw et al. 2018: the product of the query with a vector for each clipped distance, and the bias."""

    def __init__(self):
        super().__init__()
        self.vectors = self.add_weight(shape=(2 * 6 + 1, K), initializer="glorot_uniform")

    def scores(self, query, query_positions, key_positions):
        products = ops.einsum("bthk,rk->bhtr", query, ops.cast(self.vectors, query.dtype))
        distance = ops.expand_dims(key_positions, -2) - ops.expand_dims(query_positions, -1)
        places = ops.one_hot(ops.clip(distance, -6, 6) + 6, 13, dtype=query.dtype)
        rows = "b" if len(places.shape) == 4 and places.shape[0] > 1 else ""
        places = places if rows else ops.reshape(places, places.shape[-3:])
        bias = super().scores(query, query_positions, key_positions)
        return ops.einsum(f"bhtr,{rows}tsr->bhts", products, places) + ops.cast(bias, query.dtype)


PARTS = {"no part": None, "bias": LearnedBias, "of the query": LearnedVectors}
each_part = pytest.mark.parametrize("part", PARTS)


def make(part):
    return PARTS[part]() if PARTS[part] else None


def visibility(said):
    return Visibility(**{k: v if k == "patterns" else tf.constant(v) for k, v in said.items()})


def kept(rate=RATE):
    indices = tf.reshape(tf.range(B * H * T * S), (B, H, T, S))
    return np.where(is_dropped(indices, rate, SEED), 0, kept_scale(rate))


def plain(query, key, value, visibility, position=None, dropout=None):
    """The whole matrices, by TensorFlow's own gradient."""
    scores = tf.einsum("bthk,bshk->bhts", query, tf.repeat(key, H // key.shape[2], axis=2))
    if position is not None:
        at = tf.range(T) if visibility.query_positions is None else visibility.query_positions
        of = tf.range(S) if visibility.key_positions is None else visibility.key_positions
        scores += position.scores(query, at, of)
    weights = masked_softmax(scores, visibility.mask())
    if dropout:
        weights *= tf.constant(kept(dropout[0]), weights.dtype)
    return tf.einsum("bhts,bshk->bthk", weights, tf.repeat(value, H // key.shape[2], axis=2))


def masked_softmax(scores, mask):
    if mask is None:
        return tf.nn.softmax(scores)
    return tf.where(mask, tf.nn.softmax(tf.where(mask, scores, scores.dtype.min / 2)), 0)


def run(attention, said, position=None, dropout=None, inputs=(QUERY, KEY, VALUE), mode="eager", **blocks):
    """The output, and the gradients of query, key, value and the part's weights, as NumPy arrays."""
    variables = [] if position is None else [w.value for w in position.trainable_weights]

    def step(query, key, value, output_gradient):
        with tf.GradientTape() as tape:
            tape.watch([query, key, value])
            output = attention(query, key, value, visibility(said), position, dropout, **blocks)
        sources = [query, key, value, *variables]
        return [output, *tape.gradient(output, sources, output_gradients=output_gradient)]

    tensors = [tf.constant(x) for x in inputs]
    found = MODES[mode](step)(*tensors, tf.cast(OUTPUT_GRADIENT, tensors[0].dtype))
    return [tf.convert_to_tensor(x).numpy() for x in found]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for name, one, other in zip(("output", "query", "key", "value", "first", "second"), found, expected):
        np.testing.assert_allclose(one, other, err_msg=name, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name, drops", slow_but_one_a_row(MASKS, [False, True]))
def test_equals_the_formula_in_numpy(name, drops):
    dropout = (RATE, SEED) if drops else None
    said, visible = MASKS[name]
    factors = 1.0 if dropout is None else kept()
    expected = [masked_attention(QUERY, KEY, VALUE, visible, kept=factors)[0]]
    expected += masked_attention_gradients(QUERY, KEY, VALUE, OUTPUT_GRADIENT, visible, kept=factors)[:3]
    for query_block, key_block in BLOCKS:
        found = run(linear_memory_attention, said, dropout=dropout, query_block=query_block, key_block=key_block)
        assert_equal(found, expected)


@pytest.mark.integration
@pytest.mark.parametrize("name, part", slow_but_one_a_row(MASKS, PARTS))
def test_equals_the_plain_path_with_scores_of_positions(name, part):
    said, position = MASKS[name][0], make(part)
    expected = run(plain, said, position, (RATE, SEED))
    assert_equal(run(linear_memory_attention, said, position, (RATE, SEED), query_block=4, key_block=5), expected)


@pytest.mark.integration
@compiled_modes
@pytest.mark.parametrize("part", slow_but(["of the query"], PARTS))
def test_equals_the_plain_path_when_compiled(part, mode):
    said, position = MASKS["everything"][0], make(part)
    expected = run(plain, said, position, (RATE, SEED))
    found = run(linear_memory_attention, said, position, (RATE, SEED), mode=mode, query_block=4, key_block=5)
    assert_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [None, (RATE, SEED)], ids=["whole", "dropped"])
@each_part
@pytest.mark.parametrize("name", MASKS)
@compiled_modes
def test_equals_the_plain_path_in_every_combination(mode, name, part, dropout):
    said, position = MASKS[name][0], make(part)
    expected = run(plain, said, position, dropout)
    found = run(linear_memory_attention, said, position, dropout, mode=mode, query_block=7, key_block=9)
    assert_equal(found, expected)


@pytest.mark.parametrize("groups", [1, 2, H])
def test_heads_that_share_keys_in_any_number(groups):
    inputs = QUERY, random(B, S, groups, K), random(B, S, groups, V)
    expected = run(plain, MASKS["key mask"][0], inputs=inputs)
    assert_equal(run(linear_memory_attention, MASKS["key mask"][0], inputs=inputs, query_block=4), expected)


@pytest.mark.integration
@compiled_modes
@pytest.mark.parametrize("name", ["attention", "attention, one query", "everything"])
def test_batch_and_lengths_may_be_unknown(name, mode):
    said = dict(MASKS[name][0])
    patterns = said.pop("patterns", ())
    names = list(said)

    def step(query, key, value, output_gradient, *masks):
        seen = Visibility(**dict(zip(names, masks)), patterns=patterns)
        with tf.GradientTape() as tape:
            tape.watch([query, key, value])
            output = linear_memory_attention(query, key, value, seen, dropout=(RATE, SEED), query_block=4, key_block=5)
        return [output, *tape.gradient(output, [query, key, value], output_gradients=output_gradient)]

    arrays = [tf.constant(x) for x in (QUERY, KEY, VALUE, OUTPUT_GRADIENT, *said.values())]
    signature = [tf.TensorSpec((None, None, *x.shape[2:]), x.dtype) for x in arrays[:4]]
    signature += [tf.TensorSpec([None] * x.shape.rank, x.dtype) for x in arrays[4:]]
    step = tf.function(step, input_signature=signature, jit_compile=mode == "XLA")
    assert step.get_concrete_function().structured_outputs[0].shape.as_list() == [None, None, H, V]
    assert_equal([x.numpy() for x in step(*arrays)], run(plain, MASKS[name][0], dropout=(RATE, SEED)))


@each_mode
def test_a_query_that_sees_nothing_gets_zero(mode):
    seen = np.ones((B, 1, T, S), bool)
    seen[0], seen[1, :, ::2] = False, False
    found = run(
        linear_memory_attention, {"attention_mask": seen}, LearnedVectors(), mode=mode, query_block=4, key_block=5
    )
    blind = ~seen[:, 0].any(axis=-1)
    assert (found[0][blind] == 0).all() and (found[1][blind] == 0).all()
    assert (np.abs(found[0][~blind]).max(axis=(1, 2)) > 0).all()
    assert all(np.isfinite(x).all() for x in found)
    assert (found[2][0] == 0).all() and (found[3][0] == 0).all()


@each_mode
def test_blocks_that_nobody_sees_are_not_computed(mode):
    said = {"query_positions": np.arange(T) - 2, "key_positions": np.arange(S), "patterns": (causal,)}
    key, value = KEY.copy(), VALUE.copy()
    key[:, 12:], value[:, 12:] = np.nan, np.nan  # after the last query, and where a block begins
    found = run(linear_memory_attention, said, inputs=(QUERY, key, value), mode=mode, query_block=7, key_block=6)
    assert all(np.isfinite(x).all() for x in found)


@each_mode
def test_keys_behind_a_query_change_nothing_at_all(mode):
    said = {"query_positions": np.arange(T), "key_positions": np.arange(S), "patterns": (causal,)}
    key, value = KEY.copy(), VALUE.copy()
    key[:, 7:], value[:, 7:] = random(B, S - 7, G, K, seed=9), random(B, S - 7, G, V, seed=9)
    options = {"dropout": (RATE, SEED), "mode": mode, "query_block": 5, "key_block": 4}
    one = run(linear_memory_attention, said, **options)[0]
    other = run(linear_memory_attention, said, inputs=(QUERY, key, value), **options)[0]
    np.testing.assert_array_equal(one[:, :7], other[:, :7])
    assert (one[:, 7:] != other[:, 7:]).any(axis=-1).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_against_float64(dtype):
    dtype = tf.as_dtype(dtype)
    inputs = [tf.cast(x, dtype) for x in (QUERY, KEY, VALUE)]
    given = [tf.cast(x, tf.float64).numpy() for x in (*inputs, tf.cast(OUTPUT_GRADIENT, dtype))]
    said, visible = MASKS["everything"]
    found = run(linear_memory_attention, said, inputs=inputs, query_block=4, key_block=5)
    expected = [masked_attention(*given[:3], visible)[0], *masked_attention_gradients(*given, visible)[:3]]
    assert all(x.dtype == dtype for x in found)
    found = [x.astype("float64") for x in found]
    rounding = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 1e-12}[dtype.name]
    for one, other in zip(found, expected):  # each rounded once, from float32
        np.testing.assert_allclose(one, other, rtol=rounding, atol=min(TOLERANCE, rounding))


def test_weights_of_a_part_are_cast_in_the_gradient_as_they_were_before():
    class Attention(keras.layers.Layer):
        def __init__(self, function, position):
            super().__init__(dtype="mixed_bfloat16")
            self.function, self.position = function, position
            self.built = True

        def call(self, query, key, value):
            return self.function(query, key, value, Visibility(), self.position)

    position, found = LearnedVectors(), {}
    for function in (linear_memory_attention, plain):
        with tf.GradientTape() as tape:
            output = Attention(function, position)(QUERY, KEY, VALUE)
            loss = tf.reduce_sum(tf.cast(output, tf.float32) * OUTPUT_GRADIENT)
        found[function] = tape.gradient(loss, position.trainable_weights[1].value)
    # Sums of thousands of bfloat16 on the plain path.
    np.testing.assert_allclose(found[linear_memory_attention], found[plain], rtol=0.05, atol=0.3)


def test_there_is_no_second_gradient():
    query = tf.constant(QUERY)
    with tf.GradientTape() as outer:
        outer.watch(query)
        with tf.GradientTape() as inner:
            inner.watch(query)
            output = linear_memory_attention(query, KEY, VALUE, Visibility())
        gradient = inner.gradient(output, query)
    with pytest.raises(LookupError, match="linear_memory_attention has no second-order gradients"):
        outer.gradient(gradient, query)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"must divide those of `query`, 6. Received: 4 heads of keys"):
        linear_memory_attention(QUERY, random(B, S, 4, K), random(B, S, 4, V), Visibility())


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["ours, XLA", "ours"])
def test_a_step_at_length_16384_takes_less_than_2_gb(contender):
    script = Path(__file__).parents[2] / "benchmarks" / "long_attention.py"
    command = [sys.executable, script, "--steps", "1", "--process", contender, "16384"]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert result["peak_memory_mb"] < 2e9 / 2**20
