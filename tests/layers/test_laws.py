"""Laws that hold whatever the shapes: causality, padding, batch, order, cached decoding, rows with nothing to see."""

import functools
import itertools

import keras
import numpy as np
import pytest
from autodiff import gradients, weight_gradients
from contract_cases import normal, padding, randomised
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops
from tiers import slow_but

from keras_transformer.layers import (
    AlibiBias,
    DecoderBlock,
    EncoderBlock,
    GatedFeedForward,
    LayerScale,
    MultiHeadAttention,
    PositionalEncoding,
    PositionEmbedding,
    RelativePositionBias,
    RelativePositionEmbedding,
    RotaryEmbedding,
    SandwichNorm,
    StochasticDepth,
    attention,
    cached_attention,
)

BACKEND = keras.backend.backend()
LONGEST = 24
POSITIONS = {
    "none": lambda: None,
    "sinusoids": PositionalEncoding,
    "learned": lambda: PositionEmbedding(LONGEST, initializer="normal"),
    "rotary": RotaryEmbedding,
    "buckets": lambda: RelativePositionBias(6, 5, embeddings_initializer="normal"),
    "linear": AlibiBias,
    "relative": lambda: RelativePositionEmbedding(2, embeddings_initializer="normal"),
    "relative of each head": lambda: RelativePositionEmbedding(
        3, bidirectional=False, beyond="zero", per_head=True, embeddings_initializer="normal"
    ),
}
DTYPES = ["float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16"]
MEMORY = (5, 9)  # length and width of what a `DecoderBlock` attends to, where it does


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """Takes back what `choose_path` and `choose_block` did."""
    monkeypatch.setattr(attention, "LONG", attention.LONG)
    for module in (attention, cached_attention):
        monkeypatch.setattr(module, "BLOCK", module.BLOCK)


def choose_path(is_long):
    """On TensorFlow all sequences from `LONG` on are attended to block by block: those of this example, or none."""
    attention.LONG = 1 if is_long else 1 << 40


def choose_block(size):
    """A cache of more than `size` places is read so many at a time."""
    for module in (attention, cached_attention):
        module.BLOCK = size


each_position = pytest.mark.parametrize("position", POSITIONS)
sizes = st.integers(1, 5)


def examples(count):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# Strategies return functions without arguments that build what was drawn: Keras uses Python's `random` where it makes
# an initializer, which Hypothesis does not allow while drawing.


@st.composite
def attentions(draw, position=None, dtypes=("float32",), dropout=0.0):
    """A built `MultiHeadAttention` of random sizes for sequences of one width, and that width."""
    groups, width = draw(sizes), draw(st.integers(2, 11))
    position = draw(st.sampled_from(list(POSITIONS))) if position is None else position
    arguments = {
        "num_heads": groups * draw(st.integers(1, 3)),
        "key_dim": 2 * draw(sizes),
        "value_dim": draw(st.integers(1, 7)),
        "num_key_value_heads": groups,
        "use_gate": draw(st.booleans()),
        "use_bias": draw(st.booleans()),
        "sliding_window": draw(st.none() | st.integers(1, 6)),
        "dtype": draw(st.sampled_from(dtypes)),
    }
    is_long = draw(st.booleans())

    def made():
        choose_path(is_long)
        layer = MultiHeadAttention(position=POSITIONS[position](), dropout=dropout, **arguments)
        layer.build((None, None, width), (None, None, width))
        return randomised(layer), width

    return made


@st.composite
def blocks(draw, kind, position=None, dtypes=("float32",), dropout=0.0):
    """A built block and its width; a `DecoderBlock` attends to a memory or not."""
    width, has_parts, gated = draw(st.integers(2, 11)), draw(st.booleans()), draw(sizes)
    has_memory = kind is DecoderBlock and draw(st.booleans())
    position = draw(st.sampled_from(list(POSITIONS))) if position is None else position
    arguments = {
        "intermediate_dim": draw(sizes),
        "num_heads": draw(sizes),
        "key_dim": 2 * draw(sizes),
        "normalize_first": draw(st.booleans()),
        "dtype": draw(st.sampled_from(dtypes)),
    }
    is_long = draw(st.booleans())

    def made():
        choose_path(is_long)
        parts = {}
        if has_parts:
            parts = {
                "residual": SandwichNorm([LayerScale(0.5), StochasticDepth(dropout)]),
                "normalization": keras.layers.RMSNormalization(),
                "feed_forward": GatedFeedForward(gated),
            }
        layer = kind(position=POSITIONS[position](), dropout=dropout, **arguments, **parts)
        layer.build((None, None, width), *[(None, *MEMORY)] * has_memory)
        return randomised(layer), width

    return made


def causal_layers(**kwargs):
    return attentions(**kwargs) | blocks(DecoderBlock, **kwargs)


def any_layers(**kwargs):
    return causal_layers(**kwargs) | blocks(EncoderBlock, **kwargs)


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def self_attention(layer, x, mask, **kwargs):
    """Of attention or a block to itself."""
    if isinstance(layer, MultiHeadAttention):
        return layer(x, x, value_mask=mask, **kwargs)
    if isinstance(layer, DecoderBlock):
        if attends_to_memory(layer):
            kwargs["encoder_padding_mask"] = padding(MEMORY[0], *[3] * x.shape[0])
            if kwargs.get("cache") is None:
                kwargs["encoder_sequence"] = memory_of(x.shape[0])
        return layer(x, decoder_padding_mask=mask, **kwargs)
    return layer(x, padding_mask=mask, **kwargs)


def attends_to_memory(layer):
    return isinstance(layer, DecoderBlock) and layer._cross_attention_layer is not None


def memory_of(batch):
    """The same for each row, so that a row is the same alone."""
    return np.tile(normal(1, *MEMORY, seed=7), (batch, 1, 1))


def states(layer):
    """What a call may change: the states of random numbers."""
    return [ops.convert_to_numpy(v) for v in layer.non_trainable_variables]


def repeatable(layer, function, before):
    """`function` with the same random numbers each time."""

    @functools.wraps(function)
    def call(*args):
        for variable, value in zip(layer.non_trainable_variables, before):
            variable.assign(value)
        return function(*args)

    return call


def compiled(function):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


# ---- causality


def check_causality(data, jit):
    # JAX's random numbers would need their state handed through the jit.
    dropout = 0.0 if jit and BACKEND == "jax" else data.draw(st.sampled_from([0.0, 0.4]))
    layer, width = data.draw(causal_layers(dtypes=DTYPES, dropout=dropout))()
    batch, length = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 7))
    cut = data.draw(st.integers(1, length - 1))
    mask = padding(length, *data.draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch)))
    mask = data.draw(st.sampled_from([None, mask]))
    row_of_ids = st.lists(st.integers(0, 2), min_size=length, max_size=length)  # an id may come again
    segments = data.draw(st.none() | st.lists(row_of_ids, min_size=batch, max_size=batch))
    with_scores = data.draw(st.booleans())
    check_causality_of(layer, (batch, length, width), cut, mask, dropout > 0, with_scores, jit, segments)


def check_causality_of(layer, shape, cut, mask, training, with_scores, jit, segments=None):
    """What comes from `cut` on changes nothing before it, and no gradient of what comes before reaches it."""
    arguments = {"use_causal_mask": True, "training": training, "return_attention_scores": with_scores}
    if segments is not None:
        arguments["segment_ids"] = np.array(segments, "int32")
    x, other = normal(*shape), normal(*shape, seed=1)
    before = states(layer)

    def results(x):
        found = keras.tree.flatten(self_attention(layer, x, mask, **arguments))
        output, *scores = (ops.cast(y, "float32") for y in found)
        return [output[:, :cut], *(y[:, :, :cut] for y in scores)]

    call = compiled(results) if jit else results
    expected, found = (
        repeatable(layer, call, before)(ops.convert_to_tensor(x)),
        repeatable(layer, call, before)(
            ops.convert_to_tensor(np.concatenate([x[:, :cut], other[:, cut:]], 1)),
        ),
    )
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(numpy(a), numpy(b))

    def loss(x):
        return sum(ops.sum(ops.square(y)) for y in results(x))

    (gradient,) = gradients(repeatable(layer, compiled(loss) if jit else loss, before), x)
    assert np.isfinite(gradient).all()
    assert (gradient[:, cut:] == 0).all()
    return gradient


@examples(8)
@given(st.data())
def test_no_query_sees_what_comes_after_it(data):
    check_causality(data, jit=False)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(BACKEND == "torch", reason="there is no jit to turn on")
@examples(2)
@given(st.data())
def test_no_query_sees_what_comes_after_it_under_jit(data):
    check_causality(data, jit=True)


@pytest.mark.slow
@examples(100)
@given(st.data())
def test_no_query_sees_what_comes_after_it_at_length(data):
    check_causality(data, jit=False)


def check_mixes(position, dtype, kinds, jit):
    """Each mix of dropout, scores and padding, one size for all."""
    for kind, dropout, with_scores, padded in itertools.product(kinds, [0.0, 0.4], [False, True], [False, True]):
        has_memory = padded and kind is DecoderBlock
        if dropout and jit and BACKEND == "jax":  # as above
            continue
        for is_long in [False, True] if BACKEND == "tensorflow" and not with_scores else [False]:
            choose_path(is_long)
            if kind is MultiHeadAttention:
                layer = kind(2, 4, dropout=dropout, position=POSITIONS[position](), dtype=dtype)
                layer.build((None, None, 6), (None, None, 6))
            else:
                layer = kind(7, 2, dropout=dropout, key_dim=4, position=POSITIONS[position](), dtype=dtype)
                layer.build((None, None, 6), *[(None, *MEMORY)] * has_memory)
            mask = padding(5, 5, 2, 0) if padded else None
            gradient = check_causality_of(randomised(layer), (3, 5, 6), 3, mask, dropout > 0, with_scores, jit)
            assert np.abs(gradient[0, :3]).max() > 0


each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.mark.slow
@each_dtype
@each_position
def test_no_query_sees_what_comes_after_it_in_any_mix(position, dtype):
    check_mixes(position, dtype, [MultiHeadAttention, DecoderBlock], jit=False)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="there is no jit to turn on")
@each_dtype
@each_position
def test_no_query_sees_what_comes_after_it_in_any_mix_under_jit(position, dtype):
    check_mixes(position, dtype, [MultiHeadAttention, DecoderBlock], jit=True)


# ---- padding, batch, order


@examples(6)
@given(any_layers(), st.integers(1, 3), st.integers(1, 6), st.integers(1, 9), st.booleans())
def test_padding_changes_nothing_real(drawn, batch, length, more, in_front):
    (layer, width), arguments = drawn(), {}
    x, pads = normal(batch, length, width), 3 * normal(batch, more, width, seed=1)
    real = np.arange(length + more) < length
    expected = numpy(self_attention(layer, x, None, **arguments))
    padded = np.concatenate([x, pads], 1)
    if in_front:
        real, padded = real[::-1], np.concatenate([pads, x], 1)
        # A pad has no position; the learned table has no row for a negative one.
        arguments = {**arguments, "positions": np.maximum(np.arange(-more, length), 0)[None]}
    found = numpy(self_attention(layer, padded, np.tile(real, (batch, 1)), **arguments))
    np.testing.assert_allclose(found[:, real], expected, atol=1e-5)


@examples(8)
@given(any_layers(), st.integers(2, 4), st.integers(1, 6), st.data())
def test_a_row_is_the_same_alone_and_in_a_batch(drawn, batch, length, data):
    (layer, width), arguments = drawn(), {}
    x = normal(batch, length, width)
    mask = padding(length, *data.draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch)))
    together = numpy(self_attention(layer, x, mask, **arguments))
    for row in range(batch):
        alone = numpy(self_attention(layer, x[row : row + 1], mask[row : row + 1], **arguments))
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)


@examples(8)
@given(any_layers(position="none"), st.integers(1, 3), st.data())
def test_without_positions_order_is_carried_through(drawn, batch, data):
    layer, width = drawn()
    if isinstance(layer, MultiHeadAttention):
        layer.sliding_window = None
    arguments = {} if isinstance(layer, EncoderBlock) else {"use_causal_mask": False}
    length = data.draw(st.integers(2, 7))
    order = data.draw(st.permutations(range(length)))
    x, mask = normal(batch, length, width), padding(length, *[length - 1] * batch)
    expected = numpy(self_attention(layer, x, mask, **arguments))
    found = numpy(self_attention(layer, x[:, order], mask[:, order], **arguments))
    np.testing.assert_allclose(found, expected[:, order], atol=1e-5)


# ---- decoding with a cache


def by_name(results, is_block, with_scores):
    """Output and scores of a call, in a dict, and the cache if there is one."""
    output, *others = results if isinstance(results, tuple) else (results,)
    scores = others.pop(0) if with_scores else {}
    scores = scores if is_block or not with_scores else {"self": scores}
    return {"output": numpy(output), **{name: numpy(x) for name, x in scores.items()}}, *others


@each_position
@examples(3)
@given(st.data())
def test_every_split_into_prefill_and_steps_gives_the_same(position, data):
    check_split(data, position)


@pytest.mark.slow
@examples(100)
@given(st.data())
def test_every_split_into_prefill_and_steps_gives_the_same_at_length(data):
    check_split(data, None)


def check_split(data, position):
    layer, width = data.draw(causal_layers(position=position))()
    is_block, with_scores = isinstance(layer, DecoderBlock), data.draw(st.booleans())
    batch, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 8))
    room = data.draw(st.integers(0, 5))
    choose_block(data.draw(st.sampled_from([2, 3, 64])))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, length - 1)))))
    x, arguments = normal(batch, length, width), {"use_causal_mask": True, "return_attention_scores": with_scores}
    expected, *_ = by_name(self_attention(layer, x, None, **arguments), is_block, with_scores)
    cache = layer.make_cache(batch, length + room, *[memory_of(batch)] * attends_to_memory(layer))
    parts = []
    for start, end in zip([0, *cuts], [*cuts, length]):
        if start < end:
            results = self_attention(layer, x[:, start:end], None, cache=cache, **arguments)
            part, cache = by_name(results, is_block, with_scores)
            parts.append(part)
    found = {name: np.concatenate([part[name] for part in parts], 1 if name == "output" else 2) for name in expected}
    if with_scores:
        assert (found["self"][..., length:] == 0).all()
        found["self"] = found["self"][..., :length]
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


# ---- queries with nothing to attend to

B, T, S, D = 2, 5, 7, 6
BLIND = {  # the second row of the batch, or a query of it, sees nothing
    "rank 2": {"attention_mask": np.arange(T)[:, None] != np.full(S, 3)},
    "rank 3": {"attention_mask": (np.arange(B) != 1)[:, None, None] & np.ones((T, S), bool)},
    "rank 4": {"attention_mask": (np.arange(B) != 1)[:, None, None, None] & np.ones((1, T, S), bool)},
    "value mask": {"value_mask": padding(S, 4, 0)},
    "key mask": {"key_mask": padding(S, 7, 0)},
    "query mask": {"query_mask": padding(T, 5, 0)},
    "two that exclude each other": {"value_mask": padding(S, 7, 3), "key_mask": ~padding(S, 0, 3)},
    "segments": {
        "segment_ids": np.array([[1] * T, [1] * T], "int32"),
        "key_segment_ids": np.array([[1] * S, [2] * S], "int32"),
    },
    "positions": {"positions": np.array([[9] * T, [-1] * T]), "key_positions": np.tile(np.arange(S), (B, 1))},
}
IN_MEMORY = [name for name in BLIND if name not in ("segments", "key mask", "two that exclude each other")]


def blind_rows(name):
    rows = np.zeros((B, T), bool)
    if name == "rank 2":
        rows[:, 3] = True
    else:
        rows[1] = True
    return rows


def check_blind(layer, call, rows, with_scores, dtype):
    """Sums and scores of `rows` are exactly zero, and gradients of all weights and inputs finite."""
    query, value = normal(len(rows), T, D), normal(B, S, D)
    results = call(query, value)
    output, *others = results if isinstance(results, tuple) else (results,)
    bias = numpy(ops.cast(layer.output_dense.bias, layer.compute_dtype))
    np.testing.assert_array_equal(numpy(output)[rows], np.tile(bias, (rows.sum(), 1)))
    assert (np.abs(numpy(output) - bias)[~rows].max(axis=-1) > 1e-4).all()
    if with_scores:
        scores = np.moveaxis(numpy(others[0]), 2, 1)
        assert (scores[rows] == 0).all() and (scores[~rows].sum(-1) > 0.9).all()

    def loss(query, value):
        results = call(query, value)
        output = results[0] if isinstance(results, tuple) else results
        return ops.sum(ops.square(ops.cast(output, "float32")))

    for_query, for_value = gradients(loss, query, value)
    assert np.isfinite(for_query).all() and np.isfinite(for_value).all()
    assert (for_query[rows] == 0).all()
    for gradient in weight_gradients(layer.trainable_weights, lambda: loss(query, value)):
        assert np.isfinite(gradient.astype("float32")).all()


@st.composite
def seeing_attentions(draw, dropout=0.0):
    groups, repeats = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    position, dtype = draw(st.sampled_from(list(POSITIONS))), draw(st.sampled_from(DTYPES))
    value_dim, is_long = draw(st.sampled_from([3, 4])), draw(st.booleans())

    def made():
        choose_path(is_long)
        layer = MultiHeadAttention(
            groups * repeats,
            4,
            value_dim=value_dim,
            num_key_value_heads=groups,
            position=POSITIONS[position](),
            dropout=dropout,
            dtype=dtype,
        )
        layer.build((None, None, D), (None, None, D))
        return randomised(layer)

    return made


@pytest.mark.parametrize("mask", BLIND)
@examples(3)
@given(seeing_attentions(), st.booleans())
def test_what_sees_nothing_is_zero(mask, drawn, with_scores):
    layer = drawn()
    arguments = {**BLIND[mask], "use_causal_mask": mask == "positions"}
    if mask == "positions" and isinstance(layer.position, PositionEmbedding):
        return  # whose table has no row for a position of -1

    def call(query, value):
        return layer(query, value, return_attention_scores=with_scores, **arguments)

    check_blind(layer, call, blind_rows(mask), with_scores, layer.compute_dtype)


@examples(5)
@given(st.data(), st.booleans())
def test_what_sees_nothing_is_zero_with_dropout(data, with_scores):
    layer = data.draw(seeing_attentions(dropout=0.1))()
    mask = data.draw(st.sampled_from(sorted(set(BLIND) - {"positions"})))
    query, value, rows = normal(B, T, D), normal(B, S, D), blind_rows(mask)
    arguments = {"training": True, "return_attention_scores": with_scores, **BLIND[mask]}

    def loss(query, value):
        output, *_ = keras.tree.flatten(layer(query, value, **arguments))
        return ops.sum(ops.square(ops.cast(output, "float32")))

    output, *scores = keras.tree.flatten(layer(query, value, **arguments))
    for found in scores:
        assert (np.moveaxis(numpy(found), 2, 1)[rows] == 0).all()
    bias = numpy(ops.cast(layer.output_dense.bias, layer.compute_dtype))
    np.testing.assert_array_equal(numpy(output)[rows], np.tile(bias, (rows.sum(), 1)))
    assert all(np.isfinite(gradient).all() for gradient in gradients(loss, query, value))


@pytest.mark.parametrize("mask", IN_MEMORY)
@examples(2)
@given(seeing_attentions(), st.booleans(), st.integers(1, 3))
def test_what_sees_nothing_of_a_memory_is_zero(mask, drawn, with_scores, beams):
    layer = drawn()
    of_queries = {"rank 3", "rank 4", "query mask"}
    arguments = {
        name: np.repeat(x, beams, axis=0) if mask in of_queries or name == "positions" else x
        for name, x in BLIND[mask].items()
    }
    if mask == "positions" and isinstance(layer.position, PositionEmbedding):
        return

    def call(query, value):
        memory = layer.project_memory(value)
        return layer(
            query,
            None,
            cache=memory,
            return_attention_scores=with_scores,
            use_causal_mask=mask == "positions",
            **arguments,
        )

    check_blind(layer, call, np.repeat(blind_rows(mask), beams, axis=0), with_scores, layer.compute_dtype)


@examples(5)
@given(seeing_attentions(), st.booleans())
def test_what_sees_nothing_of_a_cache_is_zero(drawn, with_scores):
    """A left-padded prompt: its first positions, and all of the second row, see nothing."""
    layer = drawn()
    mask = ~padding(S, 3, S)

    def call(query, value):
        return layer(
            query,
            value[:, :T],
            value_mask=mask,
            cache=layer.make_cache(B, S),
            use_causal_mask=True,
            return_attention_scores=with_scores,
        )

    rows = np.tile(np.arange(T) < 3, (B, 1))
    rows[1] = True
    check_blind(layer, call, rows, with_scores, layer.compute_dtype)


# ---- large activations and much padding in half precision

LARGE = {
    "attention": lambda **kw: MultiHeadAttention(3, 4, num_key_value_heads=1, use_gate=True, **kw),
    "encoder": lambda **kw: EncoderBlock(17, 3, **kw),
    "encoder, norm first": lambda **kw: EncoderBlock(17, 3, normalize_first=True, position=RotaryEmbedding(), **kw),
    "decoder": lambda **kw: DecoderBlock(17, 3, dropout=0.1, position=RelativePositionBias(), **kw),
    "decoder of parts": lambda **kw: DecoderBlock(
        17,
        3,
        normalization=keras.layers.RMSNormalization(),
        feed_forward=GatedFeedForward(17),
        residual=SandwichNorm(LayerScale(0.1)),
        **kw,
    ),
}
half = pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])


@half
@pytest.mark.parametrize("name", slow_but(["attention", "encoder, norm first", "decoder of parts"], LARGE))
@pytest.mark.parametrize("is_long", [False, True] if BACKEND == "tensorflow" else [False])
def test_large_activations_and_much_padding_in_half_precision(name, dtype, is_long):
    choose_path(is_long)
    layer, width, length = LARGE[name](dtype=dtype), 12, 60
    x, memory = 100 * normal(B, length, width), 100 * normal(B, length + 10, width, seed=1)
    mask = padding(length, length // 10, 0)
    upstream = ops.convert_to_tensor(normal(B, length, width, seed=2) * mask[..., None])
    if isinstance(layer, MultiHeadAttention):
        arguments = (x, x), {"value_mask": mask}
    elif isinstance(layer, EncoderBlock):
        arguments = (x,), {"padding_mask": mask}
    else:
        masks = {"decoder_padding_mask": mask, "encoder_padding_mask": padding(length + 10, 7, 0)}
        arguments = (x, memory), masks

    def loss():
        y = ops.cast(layer(*arguments[0], **arguments[1], training=True), "float32")
        return ops.sum(y * upstream) / mask.sum()

    assert np.isfinite(ops.convert_to_numpy(loss()))
    weights = layer.trainable_weights
    for weight, gradient in zip(weights, weight_gradients(weights, loss)):
        assert np.isfinite(gradient).all(), weight.path
    assert len(weights) >= 8


@pytest.mark.parametrize("position", POSITIONS)
def test_a_product_beyond_float16_is_a_large_score(position):
    layer = MultiHeadAttention(2, 4, position=POSITIONS[position](), dtype="float16")
    layer.build((None, None, 8), (None, None, 8))
    for dense in (layer.query_dense, layer.key_dense):
        dense.kernel.assign(np.full(dense.kernel.shape, 1 / 8))
    x = np.full((B, T, 8), 200.0, "float32")  # so that scores are 4 x 200 x 200 / 2 = 80,000
    output, scores = layer(x, x, use_causal_mask=True, return_attention_scores=True)
    assert np.isfinite(numpy(output)).all()
    np.testing.assert_allclose(numpy(scores).sum(-1), 1, atol=1e-2)
