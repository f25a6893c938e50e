"""`MultiHeadAttention` in the place of Keras's own: every argument, the same weights, the same numbers and errors."""

import inspect

import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer.layers import MultiHeadAttention, patterns

B, T, S, H, D, K, V = 2, 5, 7, 6, 11, 13, 17
P, Q = 3, 4  # further axes of images
TOLERANCE = 1e-5


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def random(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("float32")


def mask(*shape, seed=2):
    """Every query keeps its last key: Keras answers a query without any in two ways."""
    drawn = np.random.default_rng((seed, *shape)).random(shape) < 0.6
    drawn[..., -1] = True
    return drawn


def twins(theirs, ours, *shapes, seed=1):
    rng = np.random.default_rng(seed)
    for layer in (theirs, ours):
        layer.build(*shapes)
    theirs.set_weights([rng.normal(0, 0.3, w.shape) for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    assert [w.path.split("/")[-2:] for w in ours.weights] == [w.path.split("/")[-2:] for w in theirs.weights]
    return theirs, ours


def test_the_signatures_begin_with_those_of_keras():
    for method in ("__init__", "build", "call"):
        theirs = inspect.signature(getattr(keras.layers.MultiHeadAttention, method)).parameters
        ours = inspect.signature(getattr(MultiHeadAttention, method)).parameters
        theirs = {name: p.default for name, p in theirs.items() if name != "kwargs"}
        assert list(theirs.items()) == [(name, p.default) for name, p in ours.items()][: len(theirs)]


def test_the_config_of_keras_makes_the_same_layer():
    arguments = {
        "value_dim": V,
        "dropout": 0.1,
        "use_bias": False,
        "output_shape": 7,
        "attention_axes": 1,
        "sliding_window": 3,
        "kernel_regularizer": "l2",
        "use_gate": True,
        "seed": 5,
        "dtype": "mixed_bfloat16",
        "name": "theirs",
        "trainable": False,
    }
    theirs = keras.layers.MultiHeadAttention(H, K, **arguments)
    ours = MultiHeadAttention.from_config(theirs.get_config())
    expected, found = theirs.get_config(), ours.get_config()
    assert {name: found[name] for name in expected} == expected


SEQUENCES = {
    "gate": ({"use_gate": True}, {}),
    "gate, value_dim, no bias": ({"use_gate": True, "value_dim": V, "use_bias": False}, {}),
    "window": ({"sliding_window": 2}, {}),
    "causal window": ({"sliding_window": 3}, {"use_causal_mask": True}),
    "window and mask": ({"sliding_window": 4}, {"attention_mask": mask(B, T, T)}),
    "output of two axes": ({"output_shape": (2, 3)}, {}),
    "flash not asked for": ({"flash_attention": False}, {"use_causal_mask": True}),
}


def skip_what_keras_cannot(arguments):
    if keras.backend.backend() == "jax" and arguments.get("value_dim"):
        pytest.skip("on JAX, Keras's own layer fails where values are not as wide as keys")


@pytest.mark.parametrize("name", SEQUENCES)
def test_equals_keras_on_sequences(name):
    arguments, call = SEQUENCES[name]
    skip_what_keras_cannot(arguments)
    x, value = random(B, T, D), random(B, T, D, seed=3)
    theirs, ours = twins(
        keras.layers.MultiHeadAttention(H, K, **arguments), MultiHeadAttention(H, K, **arguments), x.shape, value.shape
    )
    if "attention_mask" in call:
        call = {"attention_mask": call["attention_mask"] | np.eye(T, dtype=bool)}  # nobody is left with nothing
    expected, expected_scores = theirs(x, value, return_attention_scores=True, **call)
    output, scores = ours(x, value, return_attention_scores=True, **call)
    np.testing.assert_allclose(numpy(scores), numpy(expected_scores), atol=TOLERANCE)
    np.testing.assert_allclose(numpy(output), numpy(expected), atol=TOLERANCE)
    np.testing.assert_allclose(numpy(ours(x, value, **call)), numpy(expected), atol=TOLERANCE)
    assert ours.compute_output_shape(x.shape, value.shape) == theirs.compute_output_shape(x.shape, value.shape)


IMAGES = {  # attention_axes, query's dims, value's dims, attention masks
    "all axes": (None, (T, P), (S, P), [(T, P, S, P), (B, T, P, S, P), (B, H, T, P, S, P), (B, 1, T, P, S, P)]),
    "rows": (2, (T, P), (T, S), [(P, S), (B, P, S), (B, T, H, P, S), (B, 1, 1, P, S)]),
    "columns": ((1,), (T, P), (S, P), [(T, S), (B, T, S), (B, P, H, T, S)]),
    "rows, counted from behind": (-2, (T, P), (T, S), [(B, T, 1, P, S)]),
    "two of three": ((1, 3), (T, P, Q), (S, P, Q), [(T, Q, S, Q), (B, P, H, T, Q, S, Q)]),
    "two in the other order": ((2, 1), (T, P), (Q, S), [(P, T, S, Q)]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_equals_keras_on_attention_axes(name):
    axes, query_dims, value_dims, masks = IMAGES[name]
    gate = name in ("all axes", "columns")
    query, value = random(B, *query_dims, D), random(B, *value_dims, 19)
    theirs = keras.layers.MultiHeadAttention(H, K, value_dim=V, attention_axes=axes, use_gate=gate)
    ours = MultiHeadAttention(H, K, value_dim=V, attention_axes=axes, use_gate=gate)
    twins(theirs, ours, query.shape, value.shape)
    for shape in (None, *masks):
        attention_mask = None if shape is None else mask(*shape)
        expected, expected_scores = theirs(query, value, attention_mask=attention_mask, return_attention_scores=True)
        output, scores = ours(query, value, attention_mask=attention_mask, return_attention_scores=True)
        assert tuple(scores.shape) == tuple(expected_scores.shape)
        np.testing.assert_allclose(numpy(scores), numpy(expected_scores), atol=TOLERANCE)
        np.testing.assert_allclose(numpy(output), numpy(expected), atol=TOLERANCE)
        np.testing.assert_allclose(
            numpy(ours(query, value, attention_mask=attention_mask)), numpy(output), atol=TOLERANCE
        )


@pytest.mark.parametrize("value_mask", [mask(B, T, S), mask(B, S)], ids=["one for each place", "one for each key"])
def test_padding_and_order_go_by_the_attended_axis(value_mask):
    layer = MultiHeadAttention(H, K, attention_axes=2)
    query, value = random(B, T, P, D), random(B, T, S, D)
    output, scores = layer(query, value, value_mask=value_mask, use_causal_mask=True, return_attention_scores=True)
    alone = MultiHeadAttention(H, K)
    alone.build((None, P, D), (None, S, D))
    alone.set_weights(layer.get_weights())
    for t in range(T):
        of_row = value_mask if value_mask.ndim == 2 else value_mask[:, t]
        expected, expected_scores = alone(
            query[:, t], value[:, t], value_mask=of_row, use_causal_mask=True, return_attention_scores=True
        )
        np.testing.assert_allclose(numpy(output)[:, t], numpy(expected), atol=TOLERANCE)
        np.testing.assert_allclose(numpy(scores)[:, t], numpy(expected_scores), atol=TOLERANCE)


@pytest.mark.parametrize("groups, gate", [(1, False), (2, True), (3, False), (6, True)])
def test_equals_keras_with_grouped_queries(groups, gate):
    query, value, key = random(B, T, D), random(B, S, D), random(B, S, D, seed=4)
    theirs = keras.layers.GroupQueryAttention(K, H, groups, use_gate=gate)
    ours = MultiHeadAttention(H, K, num_key_value_heads=groups, use_gate=gate)
    twins(theirs, ours, query.shape, value.shape, key.shape)
    for call in ({}, {"attention_mask": mask(B, T, S)}, {"use_causal_mask": True}, {"value_mask": mask(B, S)}):
        expected, expected_scores = theirs(query, value, key, return_attention_scores=True, **call)
        output, scores = ours(query, value, key, return_attention_scores=True, **call)
        np.testing.assert_allclose(numpy(scores), numpy(expected_scores), atol=TOLERANCE)
        np.testing.assert_allclose(numpy(output), numpy(expected), atol=TOLERANCE)
        np.testing.assert_allclose(numpy(ours(query, value, key, **call)), numpy(expected), atol=TOLERANCE)


def test_a_cache_holds_the_heads_of_keys_and_values_alone():
    layer, x = MultiHeadAttention(H, K, value_dim=V, num_key_value_heads=2), random(B, T, D)
    expected = numpy(layer(x, x, use_causal_mask=True))
    cache, outputs = layer.make_cache(B, S), []
    assert tuple(cache["key"].shape) == (B, 2, S, K) and tuple(cache["value"].shape) == (B, 2, S, V)
    for t in range(T):
        output, cache = layer(x[:, t : t + 1], x[:, t : t + 1], use_causal_mask=True, cache=cache)
        outputs.append(numpy(output))
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, atol=TOLERANCE)


def test_what_a_cache_does_not_hold_yet_is_not_seen_without_causality_either():
    layer, x = MultiHeadAttention(H, K), random(B, T, D)
    output, _ = layer(x, x, cache=layer.make_cache(B, S))
    np.testing.assert_allclose(numpy(output), numpy(layer(x, x)), atol=TOLERANCE)


def test_regularizers_and_constraints_count_as_in_keras():
    arguments = {
        "kernel_regularizer": "l2",
        "bias_regularizer": "l1",
        "activity_regularizer": keras.regularizers.L2(0.3),
        "kernel_constraint": "non_neg",
        "bias_constraint": keras.constraints.MaxNorm(0.1),
        "use_gate": True,
    }
    x, value = random(B, T, D), random(B, S, D)
    theirs, ours = twins(
        keras.layers.MultiHeadAttention(H, K, **arguments), MultiHeadAttention(H, K, **arguments), x.shape, value.shape
    )
    np.testing.assert_allclose(numpy(ours(x, value)), numpy(theirs(x, value)), atol=TOLERANCE)
    expected = sorted(float(numpy(loss)) for loss in theirs.losses)
    assert len(expected) == 15  # of five projections: kernel, bias, result
    np.testing.assert_allclose(sorted(float(numpy(loss)) for loss in ours.losses), expected, rtol=1e-5)
    assert [type(w.constraint) for w in ours.weights] == [type(w.constraint) for w in theirs.weights]


def test_a_map_of_dtype_policies_reaches_the_projections():
    policies = keras.dtype_policies.DTypePolicyMap()
    policies["attention/value"] = keras.DTypePolicy("mixed_bfloat16")
    layer = MultiHeadAttention(H, K, dtype=policies, name="attention")
    layer.build((B, T, D), (B, S, D))
    assert layer.value_dense.compute_dtype == "bfloat16" and layer.query_dense.compute_dtype == "float32"
    assert keras.backend.standardize_dtype(layer(random(B, T, D), random(B, S, D)).dtype) == "float32"


def test_packed_rows_are_as_the_sequences_alone():
    layer = MultiHeadAttention(H, K)
    first, second = random(B, 3, D), random(B, 4, D, seed=5)
    packed, segments = np.concatenate([first, second], 1), np.repeat([[4, 1]], [3, 4], axis=1).repeat(B, 0)
    together, scores = layer(packed, packed, segment_ids=segments, use_causal_mask=True, return_attention_scores=True)
    np.testing.assert_allclose(numpy(together)[:, :3], numpy(layer(first, first, use_causal_mask=True)), atol=TOLERANCE)
    np.testing.assert_allclose(
        numpy(together)[:, 3:], numpy(layer(second, second, use_causal_mask=True)), atol=TOLERANCE
    )
    assert (numpy(scores)[:, :, :3, 3:] == 0).all() and (numpy(scores)[:, :, 3:, :3] == 0).all()


def test_packed_rows_attend_across_to_their_own_segment():
    layer = MultiHeadAttention(H, K)
    query, value = random(B, T, D), random(B, S, D)
    of_queries, of_keys = np.array([[1, 1, 2, 2, 2]] * B), np.array([[1, 1, 1, 1, 2, 2, 0]] * B)
    output = numpy(layer(query, value, segment_ids=of_queries, key_segment_ids=of_keys))
    np.testing.assert_allclose(output[:, :2], numpy(layer(query[:, :2], value[:, :4])), atol=TOLERANCE)
    np.testing.assert_allclose(output[:, 2:], numpy(layer(query[:, 2:], value[:, 4:6])), atol=TOLERANCE)


def test_a_pattern_goes_by_positions():
    layer = MultiHeadAttention(H, K, pattern=patterns.Prefix(3))
    query, value = random(B, T, D), random(B, S, D)
    _, scores = layer(query, value, return_attention_scores=True)
    causal = np.tri(T, S, dtype=bool)
    np.testing.assert_array_equal((numpy(scores) > 0)[1, 2], causal | (np.arange(S) < 3))
    later = np.arange(S)[None] + 2  # of the prefix, one key is left
    _, scores = layer(query, value, key_positions=later, return_attention_scores=True)
    np.testing.assert_array_equal((numpy(scores) > 0)[1, 2], (later <= np.arange(T)[:, None]) | (later < 3))
    again = MultiHeadAttention.from_config(layer.get_config())
    assert again.pattern == patterns.Prefix(3)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_large_activations_and_much_padding_in_half_precision(dtype):
    layer = MultiHeadAttention(4, 32, dtype=dtype)
    x, padding = 100 * random(B, 50, 128), np.arange(50) < np.array([[5], [3]])
    layer.build(x.shape, x.shape)

    def loss(x, *weights):
        output, _ = layer.stateless_call(weights, [], x, x, value_mask=padding, query_mask=padding)
        return ops.mean(ops.square(ops.cast(output, "float32"))) / 1e4

    weights = [numpy(w) for w in layer.trainable_variables]
    output = numpy(layer(x, x, value_mask=padding, query_mask=padding))
    assert np.isfinite(output).all()
    for gradient in gradients(loss, x, *weights):
        assert np.isfinite(gradient).all()


def test_flash_attention_keeps_the_constraints_of_keras():
    with pytest.raises(ValueError, match="Dropout is not supported when flash attention is enabled.*dropout=0.1"):
        MultiHeadAttention(H, K, dropout=0.1, flash_attention=True)
    layer = MultiHeadAttention(H, K, flash_attention=True)
    with pytest.raises(ValueError, match="scores is not supported when flash attention is enabled"):
        layer(random(B, T, D), random(B, S, D), return_attention_scores=True)


BAD_ARGUMENTS = {
    "sliding_window": (0, "`sliding_window` must be a positive integer.*Received: sliding_window=0"),
    "num_key_value_heads": (4, "multiple of `num_key_value_heads`.*num_heads=6, num_key_value_heads=4"),
    "attention_axes": ("all", "`attention_axes` must be an int, a list or a tuple.*Received: attention_axes=all"),
    "output_shape": (2.5, "`output_shape` must be an int, a list or a tuple.*Received: output_shape=2.5"),
    "dropout": (1.5, "`dropout` must be a rate.*Received: dropout=1.5"),
    "position": ("rotary", "`position` must be.*position='rotary'"),
    "pattern": (3, "`pattern` must.*pattern=3"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(name):
    value, message = BAD_ARGUMENTS[name]
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(H, K, **{name: value})


BAD_CALLS = {
    "axes out of range": ({"attention_axes": 3}, {}, r"attention_axes=\(3,\) with inputs of rank 3"),
    "mask of T x T": ({}, {"attention_mask": mask(T, T)}, r"\(\*T, \*S\) = \(5, 7\). Received: shape=\(5, 5\)"),
    "transposed mask": ({}, {"attention_mask": mask(B, S, T)}, r"Received: shape=\(2, 7, 5\)"),
    "padding of the query": ({}, {"value_mask": mask(B, T)}, r"`value_mask` must.*\(2, 7\). Received: shape=\(2, 5\)"),
    "padding of the value": ({}, {"query_mask": mask(B, S)}, r"`query_mask` must.*\(2, 5\). Received: shape=\(2, 7\)"),
    "attention mask as padding": ({}, {"key_mask": mask(B, T, S)}, r"`key_mask` must.*Received: shape=\(2, 5, 7\)"),
    "key of another length": ({}, {"key": random(B, T, D)}, r"must be equal. Received: value's \(2, 7\).*\(2, 5\)"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_refused(name):
    arguments, call, message = BAD_CALLS[name]
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(H, K, **arguments)(random(B, T, D), random(B, S, D), **call)


def test_bad_caches_are_refused():
    layer, x = MultiHeadAttention(H, K), random(B, T, D)
    layer(x, x)
    with pytest.raises(ValueError, match="`key_positions` is needed.*Received: `positions` for 5 queries, and 7 keys"):
        layer(x, x, cache=layer.make_cache(B, S), positions=np.arange(T)[None])
    with pytest.raises(ValueError, match=r"holds one segment a row.*Received: segment_ids=.*\[\[0,? 1,? 2,? 3,? 4\]\]"):
        layer(x, x, cache=layer.make_cache(B, S), segment_ids=np.arange(T)[None], key_segment_ids=np.arange(S)[None])
    with pytest.raises(ValueError, match="`value` may be None only with a `cache` of `project_memory`"):
        layer(x, None)
    images = MultiHeadAttention(H, K)
    image = random(B, T, P, D)
    images(image, image)
    with pytest.raises(ValueError, match=r"A `cache` is for sequences.*Received: a query of shape \(2, 5, 3, 11\)"):
        images(image, image, cache=images.make_cache(B, S))
