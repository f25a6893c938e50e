"""Multi-head attention: against NumPy and Keras, and the laws of masks and caches."""

import itertools

import attention_numpy
import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer.layers import MultiHeadAttention

B, T, S, H, D, K, V = 2, 5, 7, 3, 11, 13, 17
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a fact about TensorFlow")
# float32 sums of at most 51 products of order 1 err by a few 1e-7 each; four such sums follow one another.
TOLERANCE = 1e-5


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def random(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("float32")


def randomised(layer, seed=1):
    """The layer, built, with no weight at an initial value that hides something, such as a bias of zero."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, w.shape[0] ** -0.5, w.shape) for w in layer.get_weights()])
    return layer


def attention(source_dim=D, **kwargs):
    layer = MultiHeadAttention(H, K, **kwargs)
    layer.build((None, None, D), (None, None, source_dim))
    return randomised(layer)


def mask(*shape, seed=2):
    """Each query of the masks of all tests keeps the last key, except where a test takes it away."""
    drawn = np.random.default_rng((seed, *shape)).random(shape) < 0.6
    drawn[..., -1] = True
    return drawn


CAUSAL = np.tri(T, S, dtype=bool)
MASKS = {  # the call arguments, and the same as one mask that broadcasts to (B, H, T, S)
    "none": ({}, np.ones((1, 1, T, S), bool)),
    "rank 2": ({"attention_mask": mask(T, S)}, mask(T, S)[None, None]),
    "rank 3": ({"attention_mask": mask(B, T, S)}, mask(B, T, S)[:, None]),
    "rank 4": ({"attention_mask": mask(B, H, T, S)}, mask(B, H, T, S)),
    "rank 4, one head": ({"attention_mask": mask(B, 1, T, S)}, mask(B, 1, T, S)),
    "causal": ({"use_causal_mask": True}, CAUSAL[None, None]),
    "value mask": ({"value_mask": mask(B, S)}, mask(B, S)[:, None, None]),
    "key mask": ({"key_mask": mask(B, S)}, mask(B, S)[:, None, None]),
    "query mask": ({"query_mask": mask(B, T)}, mask(B, T)[:, None, :, None]),
    "all": (
        {
            "attention_mask": mask(B, T, S),
            "value_mask": mask(B, S),
            "key_mask": mask(B, S, seed=3),
            "query_mask": mask(B, T),
            "use_causal_mask": True,
        },
        (mask(B, T, S) & mask(B, S)[:, None] & mask(B, S, seed=3)[:, None] & mask(B, T)[..., None] & CAUSAL)[:, None],
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_equals_the_formula_in_numpy(name):
    arguments, together = MASKS[name]
    layer = attention(source_dim=19, value_dim=V)
    query, value, key = random(B, T, D), random(B, S, 19), random(B, S, 19, seed=5)
    output, scores = layer(query, value, key, return_attention_scores=True, **arguments)
    expected, expected_scores = attention_numpy.multi_head_attention(query, value, layer.get_weights(), key, together)
    np.testing.assert_allclose(numpy(scores), expected_scores, atol=TOLERANCE)
    np.testing.assert_allclose(numpy(output), expected, atol=TOLERANCE)
    np.testing.assert_allclose(numpy(layer(query, value, key, **arguments)), expected, atol=TOLERANCE)


SIZES = [
    {"value_dim": V},
    {"use_bias": False},
    {"output_shape": 23},
    {"value_dim": V, "output_shape": (23,), "use_bias": False},
]


@pytest.mark.parametrize("name, arguments", [*((name, {}) for name in MASKS), *(("all", sizes) for sizes in SIZES)])
def test_equals_keras_with_its_weights(name, arguments):
    if keras.backend.backend() == "jax" and arguments.get("value_dim"):
        pytest.skip("on JAX, Keras's own layer fails where values are not as wide as keys")
    call, together = MASKS[name]
    query, value, key = random(B, T, D), random(B, S, 19), random(B, S, 2, seed=5)
    theirs = keras.layers.MultiHeadAttention(H, K, **arguments)
    ours = MultiHeadAttention(H, K, **arguments)
    for layer in (theirs, ours):
        layer.build(query.shape, value.shape, key.shape)
    ours.set_weights(randomised(theirs).get_weights())
    assert [w.path.split("/")[-2:] for w in ours.weights] == [w.path.split("/")[-2:] for w in theirs.weights]
    expected, expected_scores = theirs(query, value, key, return_attention_scores=True, **call)
    output, scores = ours(query, value, key, return_attention_scores=True, **call)
    alive = np.broadcast_to(together.any(-1), (B, H, T))  # Keras answers other rows in two ways
    np.testing.assert_allclose(numpy(scores)[alive], numpy(expected_scores)[alive], atol=TOLERANCE)
    np.testing.assert_allclose(numpy(output)[alive.all(1)], numpy(expected)[alive.all(1)], atol=TOLERANCE)
    fused = numpy(theirs(query, value, key, **call))  # Keras's path without scores
    np.testing.assert_allclose(numpy(output)[alive.all(1)], fused[alive.all(1)], atol=TOLERANCE)


def test_keras_masks_of_the_inputs_count():
    query_ids = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    value_ids = np.array([[9, 8, 7, 6, 5, 4, 3], [2, 1, 0, 0, 0, 0, 0]])
    embedding = keras.layers.Embedding(11, D, mask_zero=True)
    embedding.build()
    theirs = keras.layers.MultiHeadAttention(H, K)
    theirs.build((B, T, D), (B, S, D))
    ours = attention()
    theirs.set_weights(ours.get_weights())
    # Keras takes the masks off its inputs: each layer gets its own.
    expected = numpy(theirs(embedding(query_ids), embedding(value_ids)))
    found, scores = ours(embedding(query_ids), embedding(value_ids), return_attention_scores=True)
    np.testing.assert_allclose(numpy(found)[query_ids > 0], expected[query_ids > 0], atol=TOLERANCE)
    assert (numpy(scores)[1, :, :, 2:] == 0).all() and (numpy(scores)[0, :, :3] > 0).all()


def test_a_keras_weight_file_loads(tmp_path):
    def model(kind):
        query, value = keras.Input((T, D)), keras.Input((S, 19))
        return keras.Model([query, value], kind(H, K, name="attention")(query, value))

    theirs, ours = model(keras.layers.MultiHeadAttention), model(MultiHeadAttention)
    randomised(theirs).save_weights(tmp_path / "keras.weights.h5")
    ours.load_weights(tmp_path / "keras.weights.h5")
    for a, b in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert len(ours.get_weights()) == 8


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("with_scores", [False, True])
@pytest.mark.parametrize("name", ["attention_mask", "value_mask", "query_mask"])
def test_a_query_with_nothing_to_attend_to_is_zero(name, with_scores, dtype):
    masked = np.ones({"attention_mask": (B, T, S), "value_mask": (B, S), "query_mask": (B, T)}[name], bool)
    masked[1] = False
    layer = attention(dtype=dtype)
    query, value = random(B, T, D), random(B, S, D)
    results = layer(query, value, return_attention_scores=with_scores, **{name: masked})
    output = results[0] if with_scores else results
    if with_scores:
        assert (numpy(results[1])[1] == 0).all() and (numpy(results[1])[0] > 0).all()
    bias = numpy(ops.cast(layer.get_weights()[-1], dtype))
    np.testing.assert_array_equal(numpy(output)[1], np.tile(bias, (T, 1)))

    def loss(query, value):
        return ops.sum(ops.square(ops.cast(layer(query, value, **{name: masked}), "float32")))

    for gradient in gradients(loss, query, value):
        assert np.isfinite(gradient).all()
        assert (gradient[1] == 0).all() and (gradient[0] != 0).any()


def test_no_query_sees_what_comes_after_it():
    layer, x = attention(), random(B, S, D)
    before = numpy(layer(x, x, use_causal_mask=True))
    for position in range(S):
        changed = x.copy()
        changed[:, position] += 3.0
        after = numpy(layer(changed, changed, use_causal_mask=True))
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert (np.abs(after - before)[:, position:].max(axis=(0, 2)) > 1e-3).all()


def test_no_gradient_flows_from_what_comes_after():
    layer, x = attention(), random(B, S, D)
    for position in range(S):
        (gradient,) = gradients(lambda x: ops.sum(layer(x, x, use_causal_mask=True)[:, position]), x)  # noqa: B023
        assert (gradient[:, position + 1 :] == 0).all()
        assert (np.abs(gradient[:, : position + 1]).max(axis=(0, 2)) > 0).all()


def splits(length):
    """Every way to cut a sequence into consecutive pieces, as lists of slices."""
    for cuts in itertools.product([False, True], repeat=length - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), length]
        yield [slice(a, b) for a, b in itertools.pairwise(edges)]


def test_every_split_into_prefill_and_steps_gives_the_same():
    layer, tokens, length = attention(), 4, S
    x = random(B, tokens, D)
    expected, expected_scores = layer(x, x, use_causal_mask=True, return_attention_scores=True)
    count = 0
    for pieces in splits(tokens):
        cache, outputs, scores = layer.make_cache(B, length), [], []
        shapes = {name: tuple(value.shape) for name, value in cache.items()}
        for piece in pieces:
            output, score, cache = layer(
                x[:, piece], x[:, piece], use_causal_mask=True, return_attention_scores=True, cache=cache
            )
            outputs.append(numpy(output))
            scores.append(numpy(score))
        np.testing.assert_allclose(np.concatenate(outputs, 1), numpy(expected), atol=TOLERANCE)
        scores = np.concatenate(scores, 2)
        np.testing.assert_allclose(scores[..., :tokens], numpy(expected_scores), atol=TOLERANCE)
        assert (scores[..., tokens:] == 0).all()
        assert int(cache["position"]) == tokens
        assert shapes == {name: tuple(value.shape) for name, value in cache.items()}
        count += 1
    assert count == 8


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_projected_memory_equals_attention_to_it(masked, rows):
    layer = attention(source_dim=19, value_dim=V)
    query, value, key = random(B * rows, T, D), random(B, S, 19), random(B, S, 19, seed=5)
    value_mask = mask(B, S) if masked else None
    memory = layer.project_memory(value, key)
    output, scores, cache = layer(query, None, value_mask=value_mask, return_attention_scores=True, cache=memory)
    expected, expected_scores = layer(
        query,
        np.repeat(value, rows, axis=0),
        np.repeat(key, rows, axis=0),
        value_mask=None if value_mask is None else np.repeat(value_mask, rows, axis=0),
        return_attention_scores=True,
    )
    np.testing.assert_allclose(numpy(output), numpy(expected), atol=TOLERANCE)
    np.testing.assert_allclose(numpy(scores), numpy(expected_scores), atol=TOLERANCE)
    for name in ("key", "value"):
        np.testing.assert_array_equal(numpy(cache[name]), numpy(memory[name]))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float16", "float32"])
@pytest.mark.parametrize("name", ["rank 2", "rank 3", "rank 4", "value mask", "key mask", "query mask"])
def test_numbers_serve_as_masks(name, dtype):
    arguments, _ = MASKS[name]
    layer, query, value = attention(), random(B, T, D), random(B, S, D)
    expected = numpy(layer(query, value, **arguments))
    numbers = {key: (3 * m).astype(dtype) for key, m in arguments.items()}
    np.testing.assert_array_equal(numpy(layer(query, value, **numbers)), expected)


def test_dropout_is_for_training():
    query, value = random(B, T, D), random(B, S, D)
    plain, dropping = attention(), attention(dropout=0.5)
    np.testing.assert_array_equal(numpy(dropping(query, value)), numpy(plain(query, value)))
    first, scores = dropping(query, value, training=True, return_attention_scores=True)
    assert np.abs(numpy(first) - numpy(plain(query, value))).max() > 1e-3
    np.testing.assert_allclose(numpy(scores).sum(-1), 1, atol=1e-6)  # the weights before dropout


def test_symbolic_shapes_and_dtypes_are_the_real_ones():
    query, value = keras.Input((None, D), dtype="float16"), keras.Input((None, 19), dtype="float16")
    layer = MultiHeadAttention(H, K, value_dim=V, output_shape=23, dtype="float16")
    symbolic = layer(query, value, return_attention_scores=True)
    real = layer(random(B, T, D), random(B, S, 19), return_attention_scores=True)
    assert [x.shape for x in symbolic] == [(None, None, 23), (None, H, None, None)]
    assert [tuple(x.shape) for x in real] == [(B, T, 23), (B, H, T, S)]
    assert {keras.backend.standardize_dtype(x.dtype) for x in (*symbolic, *real)} == {"float16"}


@on_tensorflow
def test_graph_and_xla_equal_eager():
    import tensorflow as tf

    layer, query, value = attention(), random(B, T, D), random(B, S, D)
    expected = numpy(layer(query, value, attention_mask=mask(T, S), use_causal_mask=True))
    for jit_compile in (False, True):
        call = tf.function(layer, jit_compile=jit_compile)
        found = numpy(call(query, value, attention_mask=mask(T, S), use_causal_mask=True))
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_config_is_the_constructor():
    arguments = {
        "num_heads": H,
        "key_dim": K,
        "value_dim": V,
        "dropout": 0.3,
        "use_bias": False,
        "output_shape": (23,),
        "seed": 5,
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "bias_constraint": keras.constraints.NonNeg(),
        "activity_regularizer": keras.regularizers.L1(0.2),
        "name": "attention",
        "dtype": "bfloat16",
    }
    layer = MultiHeadAttention(**arguments)
    clone = MultiHeadAttention.from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    assert (clone.num_heads, clone.key_dim, clone.value_dim, clone.dropout) == (H, K, V, 0.3)
    assert float(clone.kernel_regularizer.l2) == pytest.approx(0.1)
    clone.build((None, None, D), (None, None, D))
    assert float(clone.query_dense.activity_regularizer.l1) == pytest.approx(0.2)


def test_kernels_of_one_layer_differ():
    layer = MultiHeadAttention(H, K)
    layer.build((B, T, D), (B, S, D))
    query, _, key, _, value, *_ = layer.get_weights()
    assert min(np.abs(query - key).max(), np.abs(query - value).max(), np.abs(key - value).max()) > 0.01


@pytest.mark.parametrize("argument", ["num_heads", "key_dim", "value_dim"])
@pytest.mark.parametrize("value", [0, -2, 2.5, "3"])
def test_sizes_must_be_positive_integers(argument, value):
    sizes = {"num_heads": H, "key_dim": K, argument: value}
    with pytest.raises(ValueError, match=f"`{argument}` must be a positive integer.*Received: {argument}={value}"):
        MultiHeadAttention(**sizes)


@pytest.mark.parametrize("shape", [(S,), (1, B, H, T, S)])
def test_masks_of_other_ranks_are_refused(shape):
    with pytest.raises(ValueError, match=f"`attention_mask` must have.*Received: shape=\\({shape[0]},.*padding_mask"):
        attention()(random(B, T, D), random(B, S, D), attention_mask=np.ones(shape, bool))


@pytest.mark.parametrize("name", ["attention_mask", "value_mask", "query_mask"])
def test_complex_masks_are_refused(name):
    shape = {"attention_mask": (T, S), "value_mask": (B, S), "query_mask": (B, T)}[name]
    with pytest.raises(ValueError, match=f"`{name}` must be a bool, integer or float.*Received: dtype=complex64"):
        attention()(random(B, T, D), random(B, S, D), **{name: np.ones(shape, "complex64")})


@on_tensorflow
def test_string_masks_are_refused():
    with pytest.raises(ValueError, match="`attention_mask` must be a bool, integer or float.*Received: dtype=string"):
        attention()(random(B, T, D), random(B, S, D), attention_mask=np.full((T, S), "yes"))


@pytest.mark.parametrize("name, shapes", {"query": ((B, D), (B, S, D)), "value": ((B, T, D), (B, D))}.items())
def test_inputs_of_rank_2_are_refused(name, shapes):
    with pytest.raises(ValueError, match=f"`{name}` must have the shape.*Received: shape=\\({B}, {D}\\)"):
        MultiHeadAttention(H, K)(*(random(*shape) for shape in shapes))


def test_projections_honour_lora_and_int8():
    layer, x = attention(), random(B, T, D)
    layer(x, x)
    plain = numpy(layer(x, x))
    layer.query_dense.enable_lora(2)
    layer.query_dense.lora_kernel_b.assign(np.ones(layer.query_dense.lora_kernel_b.shape))
    with_lora = numpy(layer(x, x))
    assert np.abs(with_lora - plain).max() > 1e-3
    layer = attention()
    layer(x, x)
    before = numpy(layer(x, x))
    layer.value_dense.quantize("int8")
    after = numpy(layer(x, x))
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()  # 8 bits of one of four products


@pytest.mark.parametrize("shapes", [((2, 0, 8), (2, 5, 8)), ((2, 5, 8), (2, 0, 8)), ((0, 5, 8), (0, 5, 8))])
@pytest.mark.parametrize("flash_attention", [None, True])
def test_nothing_to_attend_with_or_to(shapes, flash_attention):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the backend's own kernels")
    layer = MultiHeadAttention(2, 4, flash_attention=flash_attention)
    found = ops.convert_to_numpy(layer(*(np.zeros(shape, "float32") for shape in shapes)))
    np.testing.assert_array_equal(found, np.zeros(shapes[0]))


def test_segments_of_inputs_with_more_axes_are_those_of_their_rows():
    x = np.random.default_rng(3).normal(size=(2, 3, 5, 8)).astype("float32")
    segment_ids = np.array([[1, 1, 2, 2, 2]] * 3 + [[1, 2, 2, 2, 2]] * 3, "int32")
    layer, rows = MultiHeadAttention(2, 4, attention_axes=2), MultiHeadAttention(2, 4)
    found = layer(x, x, segment_ids=segment_ids, use_causal_mask=True)
    flat = x.reshape(6, 5, 8)
    rows.build(flat.shape, flat.shape)
    rows.set_weights(layer.get_weights())
    expected = rows(flat, flat, segment_ids=segment_ids, use_causal_mask=True)
    # the same products of 8 numbers, in another shape
    np.testing.assert_allclose(ops.convert_to_numpy(found).reshape(6, 5, 8), ops.convert_to_numpy(expected), atol=1e-6)
