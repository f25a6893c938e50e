"""Patterns: what each sees, the laws they obey, and that they survive being written down."""

import dataclasses
import inspect
import json
from pathlib import Path

import keras
import numpy as np
import patterns_numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_transformer.layers import MultiHeadAttention, patterns
from keras_transformer.layers.masks import Visibility
from keras_transformer.layers.patterns import (
    And,
    AxialColumn,
    AxialRow,
    Blocks,
    Causal,
    Convolutional,
    Fixed,
    Local,
    Not,
    Or,
    Pattern,
    Prefix,
    SlidingWindow,
    Strided,
)

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS.parents[1] / "shared" / "golden"
LENGTH = 29

CASES = [  # a pattern and the same in the reference
    (Causal(), patterns_numpy.causal),
    *((SlidingWindow(size), patterns_numpy.sliding_window) for size in (1, 2, 7, 100)),
    *((Local(size), patterns_numpy.local) for size in (1, 2, 7, 100)),
    *((Strided(stride), patterns_numpy.strided) for stride in (1, 2, 7, 100)),
    *((Fixed(*sizes), patterns_numpy.fixed) for sizes in ((1, 1), (7, 1), (7, 3), (5, 5), (100, 2))),
    *((Prefix(length), patterns_numpy.prefix) for length in (0, 1, 11, 100)),
    *((Blocks(size), patterns_numpy.blocks) for size in (1, 2, 7, 100)),
    *((AxialRow(*grid), patterns_numpy.axial_row) for grid in ((7, 5), (0, 3), (11, 1), (100, 3))),
    *((AxialColumn(*grid), patterns_numpy.axial_column) for grid in ((7, 5), (0, 3), (11, 1), (100, 3))),
    *(
        (Convolutional(*window), patterns_numpy.convolutional)
        for window in ((7, 5, 3), (7, 5, 2), (3, 5, 1), (0, 7, 3, 2), (2, 5, 2, 3), (5, 3, 11), (100, 5, 3))
    ),
]
one_of_each = pytest.mark.parametrize(
    "pattern",
    [
        Causal(),
        SlidingWindow(5),
        Local(5),
        Strided(5),
        Fixed(5, 2),
        Prefix(11),
        Blocks(5),
        AxialRow(7, 5),
        AxialColumn(7, 5),
        Convolutional(7, 5, 3),
        Convolutional(3, 5, 2, dilation=2),
    ],
    ids=repr,
)


def block(pattern, query_positions, key_positions):
    """bool `(T, S)`, of NumPy."""
    query, key = (np.asarray(positions, "int32") for positions in (query_positions, key_positions))
    return ops.convert_to_numpy(pattern(query[:, None], key[None, :]))


def square(pattern, length=LENGTH):
    return block(pattern, range(length), range(length))


def test_all_patterns_are_here():
    found = {value for value in vars(patterns).values() if inspect.isclass(value) and issubclass(value, Pattern)}
    without_a_definition = {Pattern, patterns.Pair, And, Or, Not, patterns.TextThenImage}
    assert found - without_a_definition == {type(pattern) for pattern, _ in CASES}


@pytest.mark.parametrize("pattern, definition", CASES, ids=lambda x: getattr(x, "__name__", repr(x)))
def test_each_sees_what_its_definition_says(pattern, definition):
    expected = patterns_numpy.matrix(definition, LENGTH, *dataclasses.astuple(pattern))
    np.testing.assert_array_equal(square(pattern), expected)


of_dalle = pytest.mark.parametrize(
    "name, pattern",
    [
        ("full", Causal()),
        ("axial_row", AxialRow(7, 4)),
        ("axial_col", AxialColumn(7, 4)),
        ("conv3", Convolutional(7, 4, 3)),
        ("conv5", Convolutional(7, 4, 5)),
        ("conv3_dil2", Convolutional(7, 4, 3, dilation=2)),
    ],
)


@pytest.fixture(scope="module")
def dalle():
    path = GOLDEN / "dalle_attention.npz"
    if not path.exists():
        pytest.skip(f"the golden arrays are not at {path}")
    with np.load(path) as file:
        assert json.loads(str(file["meta"]))["text_len_with_bos"] == 7
        return dict(file)


@of_dalle
def test_reach_of_dalle_pytorch(dalle, name, pattern):
    reach = dalle[f"out/{name}_reach"]
    assert reach.shape == (22, 22)
    np.testing.assert_array_equal(square(pattern, 22), reach)


@of_dalle
def test_attention_of_dalle_pytorch(dalle, name, pattern):
    """Text of 7 and the 15 first of 16 tokens of an image, 2 heads of width 6."""
    layer, x = MultiHeadAttention(2, 6, use_bias=False, use_output_bias=True, pattern=pattern), dalle["in/x"]
    layer.build(x.shape, x.shape)
    query, key, value = dalle[f"w/{name}.to_qkv.weight"].T.reshape(16, 3, 2, 6).swapaxes(0, 1)
    output = dalle[f"w/{name}.to_out.0.weight"].T.reshape(2, 6, 16)
    layer.set_weights([query, key, value, output, dalle[f"w/{name}.to_out.0.bias"]])
    # Ten times what their float32 differs from float64, 5e-7.
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x, x)), dalle[f"out/{name}"], atol=5e-6)
    if f"out/{name}_masked" in dalle:  # the mask of the text hides it from the image; padding itself may see anything
        mask = np.concatenate([dalle["in/text_mask"], np.ones((2, 15), bool)], axis=1)
        found = ops.convert_to_numpy(layer(x, x, value_mask=mask))
        np.testing.assert_allclose(found[mask], dalle[f"out/{name}_masked"][mask], atol=5e-6)


@pytest.mark.parametrize("name, pattern", [("attn0", Causal()), ("attn1", Local(4))])
def test_dense_and_banded_layers_of_gpt_neo(name, pattern):
    path = GOLDEN / "gpt3_gptneo.npz"
    if not path.exists():
        pytest.skip(f"the golden arrays are not at {path}")
    with np.load(path) as file:
        weights = file[f"out/{name}"]
    length = weights.shape[-1]
    assert length > 8
    np.testing.assert_array_equal(np.broadcast_to(square(pattern, length), weights.shape), weights > 0)


def test_the_banded_layer_by_hand():
    assert np.flatnonzero(square(Local(4), 11)[8]).tolist() == [5, 6, 7, 8]


def test_sliding_window_is_that_of_keras():
    x = np.random.default_rng(0).normal(size=(2, 11, 5)).astype("float32")
    theirs = keras.layers.MultiHeadAttention(2, 3, sliding_window=4)
    plain = keras.layers.MultiHeadAttention(2, 3)
    theirs.build(x.shape, x.shape)
    plain.build(x.shape, x.shape)
    plain.set_weights(theirs.get_weights())
    mask = square(SlidingWindow(4), 11)
    for causal, ours in ((False, mask), (True, mask & square(Causal(), 11))):
        expected = theirs(x, x, use_causal_mask=causal)
        found = plain(x, x, attention_mask=ours[None])
        # The same sums in another order.
        np.testing.assert_allclose(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), atol=1e-6)


# ---- laws


def same(one, other, length=LENGTH):
    np.testing.assert_array_equal(square(one, length), square(other, length))


def test_patterns_in_terms_of_each_other():
    same(Causal() & SlidingWindow(5), Local(5))
    same(Prefix(0), Causal())
    same(Strided(1), Causal())
    same(Fixed(5, 5), Causal())
    same(Fixed(1, 1), Causal())
    same(Blocks(LENGTH), Causal() | ~Causal())
    same(AxialRow(0, 5), Causal() & Blocks(5))
    same(AxialColumn(0, 5), Strided(5))
    same(Convolutional(7, 5, 1), Prefix(7) & Causal() & (AxialRow(7, 5) & AxialColumn(7, 5)))
    same(AxialColumn(7, 1), Causal())
    # In an image of one column a window is the last few cells.
    same(Convolutional(7, 1, 3), Causal() & (Local(3) | AxialRow(7, 1)))


def test_two_steps_of_the_sparse_transformer_reach_everything_before():
    # Child et al. 2019, section 4.2: what the factors are for.
    for pattern in (Local(6) | Strided(5), (Causal() & Blocks(5)) | Fixed(5, 1)):
        one_step = square(pattern).astype(int)
        assert one_step.sum() < square(Causal()).sum()
        np.testing.assert_array_equal(one_step @ one_step > 0, square(Causal()))


@pytest.mark.parametrize(
    "pattern, shift",
    [(Causal(), 3), (SlidingWindow(5), 3), (Local(5), 3), (Strided(5), 3), (Blocks(5), 10), (Fixed(5, 2), 10)],
    ids=repr,
)
@pytest.mark.parametrize("times", [1, 7, 10**7])
def test_translation(pattern, shift, times):
    moved = np.arange(LENGTH) + shift * times
    np.testing.assert_array_equal(block(pattern, moved, moved), square(pattern))


def test_only_patterns_of_the_distance_are_the_same_under_any_translation():
    moved = np.arange(LENGTH) + 3
    for pattern in (Blocks(5), Fixed(5, 2), Prefix(5), AxialRow(7, 5)):
        assert not np.array_equal(block(pattern, moved, moved), square(pattern))


def test_translation_of_the_prefix():
    moved = np.arange(LENGTH) + 3
    seen = block(Prefix(8), moved, moved)
    np.testing.assert_array_equal(seen, square(Prefix(5)))


@pytest.mark.parametrize("pattern", [AxialRow(7, 5), AxialColumn(7, 5), Convolutional(7, 5, 3)], ids=repr)
def test_translation_of_the_image(pattern):
    cells = np.arange(7, LENGTH)
    np.testing.assert_array_equal(block(pattern, cells + 15, cells + 15), block(pattern, cells, cells))
    longer_text = dataclasses.replace(pattern, text_length=11)
    np.testing.assert_array_equal(block(longer_text, cells + 4, cells + 4), block(pattern, cells, cells))


def test_prefixes_of_different_lengths_in_one_batch():
    lengths = np.array([2, 0, 7])
    positions = np.arange(11) - lengths[:, None]
    seen = ops.convert_to_numpy(Prefix(0)(positions[:, :, None], positions[:, None, :]))
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(seen[row], square(Prefix(int(length)), 11))


sizes = st.integers(1, 11)
leaves = st.one_of(
    st.builds(Causal),
    *(st.builds(kind, sizes) for kind in (SlidingWindow, Local, Strided, Blocks)),
    st.builds(Prefix, st.integers(0, 11)),
    st.builds(lambda stride, rest: Fixed(stride + rest, stride), sizes, st.integers(0, 5)),
    *(st.builds(kind, st.integers(0, 11), sizes) for kind in (AxialRow, AxialColumn)),
    st.builds(Convolutional, st.integers(0, 11), sizes, sizes, st.integers(1, 3)),
)
any_pattern = st.recursive(
    leaves,
    lambda inner: st.one_of(st.builds(And, inner, inner), st.builds(Or, inner, inner), st.builds(Not, inner)),
    max_leaves=5,
)
quick = settings(max_examples=40, deadline=None, derandomize=True)
# Lengths that do not change: each new shape is compiled anew on JAX.
some_positions = st.lists(st.integers(0, LENGTH - 1), min_size=5, max_size=5)
other_positions = st.lists(st.integers(0, LENGTH - 1), min_size=7, max_size=7)


@quick
@given(any_pattern, some_positions, other_positions)
def test_any_block_is_the_pattern_of_its_positions(pattern, queries, keys):
    found = block(pattern, queries, keys)
    np.testing.assert_array_equal(found, square(pattern)[np.ix_(queries, keys)])


@quick
@given(any_pattern, any_pattern)
def test_combinations_are_those_of_sets(a, b):
    first, second = square(a), square(b)
    np.testing.assert_array_equal(square(a & b), first & second)
    np.testing.assert_array_equal(square(a | b), first | second)
    np.testing.assert_array_equal(square(~a), ~first)
    same(~(a & b), ~a | ~b)
    same(~(a | b), ~a & ~b)
    same(a & a, a)
    same(a | a, a)
    same(~~a, a)
    same(a & (a | b), a)


@quick
@given(any_pattern)
def test_what_is_written_down_comes_back(pattern):
    written = keras.saving.serialize_keras_object(pattern)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(written)))
    assert again == pattern and hash(again) == hash(pattern) and type(again) is type(pattern)
    assert type(pattern).from_config(pattern.get_config()) == pattern
    assert eval(repr(pattern), dict(vars(patterns))) == pattern
    assert patterns.get(written) == pattern == patterns.get(pattern)


@quick
@given(leaves, leaves)
def test_equal_patterns_look_equal(a, b):
    assert (a == b) == (repr(a) == repr(b))


def test_repr_is_what_one_writes():
    a, b, c = Causal(), Local(3), Fixed(5, 2)
    assert repr(a & (b | ~c)) == "Causal() & (Local(size=3) | ~Fixed(stride=5, summary_size=2))"
    assert repr(~(a & b) & c) == "~(Causal() & Local(size=3)) & Fixed(stride=5, summary_size=2)"
    assert Local(3) != Local(4) and Local(3) != SlidingWindow(3) and a & b != b & a


# ---- tensors


@one_of_each
@pytest.mark.parametrize("shapes", [((2, 1, 5, 1), (1, 1, 1, 7)), ((5, 1), (2, 1, 1, 7)), ((7,), (7,)), ((), ())])
def test_positions_broadcast(pattern, shapes):
    rng = np.random.default_rng(0)
    query, key = (np.asarray(rng.integers(0, LENGTH, shape), "int32") for shape in shapes)
    seen = pattern(query, key)
    assert keras.backend.standardize_dtype(seen.dtype) == "bool"
    np.testing.assert_array_equal(ops.convert_to_numpy(seen), square(pattern)[query, key])


@one_of_each
@pytest.mark.parametrize("dtypes", [("uint8", "uint8"), ("int64", "int32"), ("int32", "int64"), ("int8", "uint32")])
def test_any_integers_will_do(pattern, dtypes):
    query, key = (np.arange(LENGTH).astype(dtype) for dtype in dtypes)
    seen = ops.convert_to_numpy(pattern(query[:, None], key[None, :]))
    np.testing.assert_array_equal(seen, square(pattern))


def test_plain_numbers_will_do():
    assert bool(Local(3)(5, 3)) and not bool(Local(3)(5, 2))


@one_of_each
def test_nothing_larger_than_the_block_is_made(pattern):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("sizes are read from TensorFlow's graph")
    import tensorflow as tf

    positions = tf.TensorSpec((5, 1), "int32"), tf.TensorSpec((1, 7), "int32")
    graph = tf.function(lambda q, k: (pattern & ~pattern)(q, k)).get_concrete_function(*positions).graph
    outputs = [output.shape.num_elements() for op in graph.get_operations() for output in op.outputs]
    assert max(outputs) == 5 * 7


@one_of_each
def test_compiled(pattern):
    query, key = np.arange(5)[:, None] + 10, np.arange(LENGTH)[None, :]
    expected = square(pattern)[10:15]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = [tf.function(pattern.__call__, jit_compile=jit) for jit in (False, True)]
        free = tf.TensorSpec((None, None), "int64")
        compiled.append(tf.function(pattern.__call__, input_signature=(free, free)))
    elif keras.backend.backend() == "jax":
        import jax

        compiled = [jax.jit(pattern)]
    else:
        pytest.skip("PyTorch runs it as it is")
    for function in compiled:
        np.testing.assert_array_equal(ops.convert_to_numpy(function(query, key)), expected)


@one_of_each
def test_symbolic(pattern):
    query, key = keras.Input((5, 1), dtype="int32"), keras.Input((1, 7), dtype="int32")
    seen = (pattern & ~~pattern)(query, key)
    assert (seen.shape, seen.dtype) == ((None, 5, 7), "bool")
    rng = np.random.default_rng(0)
    positions = [rng.integers(0, LENGTH, shape).astype("int32") for shape in ((3, 5, 1), (3, 1, 7))]
    found = ops.convert_to_numpy(keras.Model([query, key], seen)(positions))
    np.testing.assert_array_equal(found, square(pattern)[positions[0], positions[1]])


@one_of_each
def test_as_part_of_what_a_call_says(pattern):
    positions = np.stack([np.arange(7), np.arange(7) + 11]).astype("int32")
    keys = np.arange(13, dtype="int32")
    mask = Visibility(query_positions=positions, key_positions=keys, patterns=(pattern, Causal())).mask()
    assert tuple(mask.shape) == (2, 1, 7, 13)
    for row in range(2):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mask)[row, 0], square(pattern & Causal())[np.ix_(positions[row], keys)]
        )


@keras.saving.register_keras_serializable(package="keras_transformer_tests")
class HoldsPattern(keras.layers.Layer):
    def __init__(self, pattern=None, **kwargs):
        super().__init__(**kwargs)
        self.pattern = patterns.get(pattern)

    def call(self, inputs):
        positions = ops.arange(inputs.shape[1])
        return ops.cast(self.pattern(positions[:, None], positions[None, :]), inputs.dtype) @ inputs

    def get_config(self):
        return {**super().get_config(), "pattern": keras.saving.serialize_keras_object(self.pattern)}


def test_a_layer_holds_one(tmp_path):
    pattern = Causal() & (SlidingWindow(3) | ~Convolutional(2, 3, 2, dilation=2))
    model = keras.Sequential([keras.Input((11, 3)), HoldsPattern(pattern)])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.layers[-1].pattern == pattern
    x = np.random.default_rng(0).normal(size=(2, 11, 3)).astype("float32")
    expected = square(pattern, 11).astype("float32") @ x
    np.testing.assert_allclose(ops.convert_to_numpy(again(x)), expected, atol=1e-5)
    assert HoldsPattern.from_config(HoldsPattern(None).get_config()).pattern is None


# ---- refusals


@pytest.mark.parametrize("kind", [SlidingWindow, Local, Strided, Blocks])
@pytest.mark.parametrize("value", [0, -3, 2.5, True, None, "5"])
def test_sizes_are_positive_integers(kind, value):
    (name,) = (field.name for field in dataclasses.fields(kind))
    with pytest.raises(ValueError, match=f"`{name}` must be an integer of at least 1. Received: {name}={value!r}"):
        kind(value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Prefix(-1), "`length` must be an integer of at least 0. Received: length=-1"),
        (lambda: Prefix(1.0), "`length` must be an integer of at least 0. Received: length=1.0"),
        (lambda: Fixed(0, 1), "`stride` must be an integer of at least 1. Received: stride=0"),
        (lambda: Fixed(3, 0), "`summary_size` must be an integer of at least 1. Received: summary_size=0"),
        (lambda: Fixed(3, 4), "`summary_size` must be at most `stride`.* Received: summary_size=4, stride=3"),
        (lambda: AxialRow(-1, 4), "`text_length` must be an integer of at least 0. Received: text_length=-1"),
        (lambda: AxialRow(7, 0), "`image_width` must be an integer of at least 1. Received: image_width=0"),
        (lambda: AxialColumn(7, "4"), "`image_width` must be an integer of at least 1. Received: image_width='4'"),
        (lambda: Convolutional(7.5, 4, 3), "`text_length` must be an integer of at least 0. Received: text_length=7.5"),
        (lambda: Convolutional(7, 4, 0), "`kernel_size` must be an integer of at least 1. Received: kernel_size=0"),
        (lambda: Convolutional(7, 4, (3, 3)), r"`kernel_size` must be an .* Received: kernel_size=\(3, 3\)"),
        (lambda: Convolutional(7, 4, 3, 0), "`dilation` must be an integer of at least 1. Received: dilation=0"),
        (lambda: And(Causal(), 3), "`right` must be a pattern, such as .* Received: right=3"),
        (lambda: Or("full", Causal()), "`left` must be a pattern, such as .* Received: left='full'"),
        (lambda: Not(None), "`pattern` must be a pattern, such as .* Received: pattern=None"),
        (lambda: patterns.get("causal"), "`pattern` must be None or a pattern, .* Received: pattern='causal'"),
        (lambda: Causal()(np.arange(3.0), np.arange(3)), "`query_positions` must be integers. Received: dtype=float"),
        (lambda: Causal()(np.arange(3), np.ones(3, bool)), "`key_positions` must be integers. Received: dtype=bool"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_and_or_not_of_python_are_refused():
    with pytest.raises(TypeError, match=r"A pattern is neither true nor false: Causal\(\). Combine patterns by `&`"):
        Causal() and SlidingWindow(3)
    with pytest.raises(TypeError, match=r"neither true nor false: SlidingWindow\(size=3\)"):
        not SlidingWindow(3)
    with pytest.raises(TypeError, match="unsupported operand type.* for &: 'Causal' and 'bool'"):
        Causal() & True
    with pytest.raises(TypeError, match=r"unsupported operand type.* for \|: 'Causal' and 'int'"):
        Causal() | 3


def test_patterns_are_values():
    pattern = Local(3)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'size'"):
        pattern.size = 4
    assert {Local(3): "found"}[pattern] == "found"
