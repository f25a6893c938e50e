"""Encoder and decoder blocks and the feed-forward network: against NumPy and KerasHub, and as Keras layers."""

import inspect

import attention_numpy
import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer import layers
from keras_transformer.layers import DecoderBlock, EncoderBlock, FeedForward, ProjectionGlorotUniform

B, T, S, H, F, D, E = 2, 5, 7, 3, 13, 15, 17  # E: the width of the encoder, where it is another
# float32 against float64 (or another order of sums) through three sublayers with outputs of order 1.
TOLERANCE = 2e-5


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def random(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("float32")


def randomised(layer, seed=1):
    """The layer, built, with no weight at an initial value that hides something, such as a bias of zero."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, w.shape[0] ** -0.5, w.shape) for w in layer.get_weights()])
    return layer


def encoder(**kwargs):
    layer = EncoderBlock(F, H, **kwargs)
    layer.build((None, None, D))
    return randomised(layer)


def decoder(memory_dim=D, **kwargs):
    layer = DecoderBlock(F, H, **kwargs)
    layer.build((None, None, D), None if memory_dim is None else (None, None, memory_dim))
    return randomised(layer)


def padding(length, *real):
    return np.arange(length) < np.array(real)[:, None]


def mask(*shape):
    """Each query keeps the first key, which is real in all tests, and after it in time to none."""
    drawn = np.random.default_rng(shape).random(shape) < 0.6
    drawn[..., 0] = True
    return drawn


each_order = pytest.mark.parametrize("normalize_first", [False, True])


@each_order
def test_encoder_equals_the_paper_in_numpy(normalize_first):
    layer, x, real, allowed = encoder(normalize_first=normalize_first), random(B, T, D), padding(T, 5, 3), mask(B, T, T)
    found = numpy(layer(x, padding_mask=real, attention_mask=allowed))
    expected = attention_numpy.encoder_block(
        x, layer.get_weights(), (allowed & real[:, None])[:, None], normalize_first
    )
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@each_order
@pytest.mark.parametrize("memory_dim", [D, E])
def test_decoder_equals_the_paper_in_numpy(memory_dim, normalize_first):
    layer = decoder(memory_dim, normalize_first=normalize_first)
    x, memory = random(B, T, D), random(B, S, memory_dim)
    real, memory_real = padding(T, 5, 3), padding(S, 4, 7)
    allowed, memory_allowed = mask(B, T, T), mask(B, T, S)
    found = layer(
        x,
        memory,
        decoder_padding_mask=real,
        decoder_attention_mask=allowed,
        encoder_padding_mask=memory_real,
        encoder_attention_mask=memory_allowed,
    )
    expected = attention_numpy.decoder_block(
        x,
        memory,
        layer.get_weights(),
        (allowed & real[:, None])[:, None],
        (memory_allowed & memory_real[:, None])[:, None],
        normalize_first,
    )
    np.testing.assert_allclose(numpy(found), expected, atol=TOLERANCE)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_feed_forward_is_two_products(activation):
    layer = FeedForward(F, activation=activation)
    layer.build((None, None, D))
    w1, b1, w2, b2 = randomised(layer).get_weights()
    x = random(B, T, D)
    inner = numpy(keras.activations.get(activation)(x @ w1 + b1))
    np.testing.assert_allclose(numpy(layer(x)), inner @ w2 + b2, atol=TOLERANCE)


@pytest.fixture
def hub():
    return pytest.importorskip("keras_hub", reason="keras_hub is not installed").layers


@pytest.mark.parametrize(
    "name, ours",
    [
        ("TransformerEncoder", layers.EncoderBlock),
        ("TransformerDecoder", layers.DecoderBlock),
        ("PositionEmbedding", layers.PositionEmbedding),
        ("RotaryEmbedding", layers.RotaryEmbedding),
    ],
)
@pytest.mark.parametrize("method", ["__init__", "call"])
def test_the_signatures_begin_with_those_of_keras_hub(hub, name, ours, method):
    def arguments(kind):
        found = inspect.signature(getattr(kind, method)).parameters
        return [(name, p.default) for name, p in found.items() if name != "kwargs" and "attention_cache" not in name]

    theirs = arguments(getattr(hub, name))
    assert len(theirs) >= 3 and arguments(ours)[: len(theirs)] == theirs


ENCODER_MASKS = {
    "none": {},
    "padding": {"padding_mask": padding(T, 5, 3)},
    "attention": {"attention_mask": mask(B, T, T)},
    "both": {"padding_mask": padding(T, 5, 3), "attention_mask": mask(B, T, T)},
}


@each_order
@pytest.mark.parametrize("masks", ENCODER_MASKS)
def test_encoder_equals_keras_hub_with_its_weights(hub, masks, normalize_first):
    arguments = {"activation": "gelu", "normalize_first": normalize_first, "layer_norm_epsilon": 1e-3}
    theirs, ours = hub.TransformerEncoder(F, H, **arguments), EncoderBlock(F, H, **arguments)
    theirs.build((B, T, D))
    ours.build((B, T, D))
    ours.set_weights(randomised(theirs).get_weights())
    x = random(B, T, D)
    expected, expected_scores = theirs(x, return_attention_scores=True, **ENCODER_MASKS[masks])
    found, scores = ours(x, return_attention_scores=True, **ENCODER_MASKS[masks])
    np.testing.assert_allclose(numpy(found), numpy(expected), atol=TOLERANCE)
    np.testing.assert_allclose(numpy(scores), numpy(expected_scores), atol=TOLERANCE)


DECODER_MASKS = {
    "none": {},
    "padding": {"decoder_padding_mask": padding(T, 5, 3)},
    "attention": {"decoder_attention_mask": mask(B, T, T)},
    "both": {"decoder_padding_mask": padding(T, 5, 3), "decoder_attention_mask": mask(B, T, T)},
    "not causal": {"use_causal_mask": False, "decoder_padding_mask": padding(T, 5, 3)},
    "memory": {
        "decoder_padding_mask": padding(T, 5, 3),
        "encoder_padding_mask": padding(S, 4, 7),
        "encoder_attention_mask": mask(B, T, S),
    },
}


@each_order
@pytest.mark.parametrize(
    "masks, has_memory", [*((masks, True) for masks in DECODER_MASKS), ("none", False), ("both", False)]
)
def test_decoder_equals_keras_hub_with_its_weights(hub, masks, has_memory, normalize_first):
    arguments = {"activation": "gelu", "normalize_first": normalize_first, "layer_norm_epsilon": 1e-3}
    theirs, ours = hub.TransformerDecoder(F, H, **arguments), DecoderBlock(F, H, **arguments)
    shapes = ((B, T, D), (B, S, E) if has_memory else None)
    theirs.build(*shapes)
    ours.build(*shapes)
    ours.set_weights(randomised(theirs).get_weights())
    inputs = (random(B, T, D), random(B, S, E)) if has_memory else (random(B, T, D),)
    expected = numpy(theirs(*inputs, **DECODER_MASKS[masks]))
    np.testing.assert_allclose(numpy(ours(*inputs, **DECODER_MASKS[masks])), expected, atol=TOLERANCE)


@each_order
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_gradients_equal_those_of_keras_hub(hub, kind, normalize_first):
    arguments = {"activation": "gelu", "normalize_first": normalize_first}
    real = padding(T, 5, 3)
    if kind == "encoder":
        layers = hub.TransformerEncoder(F, H, **arguments), EncoderBlock(F, H, **arguments)
        inputs, masks = (random(B, T, D),), {"padding_mask": real}
    else:
        layers = hub.TransformerDecoder(F, H, **arguments), DecoderBlock(F, H, **arguments)
        inputs = random(B, T, D), random(B, S, E)
        masks = {"decoder_padding_mask": real, "encoder_padding_mask": padding(S, 4, 7)}
    counted = ops.convert_to_tensor((random(B, T, D, D)[..., 0] * real[..., None]).astype("float32"))
    found = []
    for layer in layers:
        layer.build(*(x.shape for x in inputs))
        weights = randomised(layer).get_weights()

        def loss(*weights, layer=layer):
            y, _ = layer.stateless_call(weights, [], *map(ops.convert_to_tensor, inputs), **masks)
            return ops.sum(y * counted)

        found.append(gradients(loss, *weights))
    assert len(found[0]) == len(found[1]) == (16 if kind == "encoder" else 26)
    for variable, theirs, ours in zip(layers[1].weights, *found):
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * scale, err_msg=variable.path)


def test_scores_are_asked_for():
    x, memory = random(B, T, D), random(B, S, D)
    output, scores = encoder()(x, padding_mask=padding(T, 5, 3), return_attention_scores=True)
    plain = numpy(encoder()(x, padding_mask=padding(T, 5, 3)))  # by a fused kernel, where there is one
    np.testing.assert_allclose(numpy(output), plain, atol=1e-6)
    assert tuple(scores.shape) == (B, H, T, T) and (numpy(scores)[1, :, :, 3:] == 0).all()
    output, scores = decoder()(x, memory, return_attention_scores=True)
    np.testing.assert_allclose(numpy(output), numpy(decoder()(x, memory)), atol=1e-6)
    assert tuple(scores["self"].shape) == (B, H, T, T) and tuple(scores["cross"].shape) == (B, H, T, S)
    for weights in scores.values():
        np.testing.assert_allclose(numpy(weights).sum(-1), 1, atol=1e-6)  # a softmax of at most 7 float32 numbers
    assert set(decoder(None)(x, return_attention_scores=True)[1]) == {"self"}


def test_a_decoder_steps_with_a_cache():
    layer, x, memory = decoder(E), random(2 * B, T, D), random(B, S, E)
    real = padding(S, 4, 7)
    repeated = {"encoder_sequence": np.repeat(memory, 2, axis=0), "encoder_padding_mask": np.repeat(real, 2, axis=0)}
    expected, expected_scores = layer(x, **repeated, return_attention_scores=True)
    cache, outputs, scores = layer.make_cache(2 * B, S, memory), [], []
    for piece in (slice(0, 2), slice(2, 3), slice(3, 5)):
        output, score, cache = layer(x[:, piece], encoder_padding_mask=real, cache=cache, return_attention_scores=True)
        outputs.append(numpy(output))
        scores.append(numpy(score["cross"]))
    np.testing.assert_allclose(np.concatenate(outputs, 1), numpy(expected), atol=1e-5)
    np.testing.assert_allclose(np.concatenate(scores, 2), numpy(expected_scores["cross"]), atol=1e-5)


def test_attention_to_an_encoder_is_decided_when_built():
    x, memory = random(B, T, D), random(B, S, D)
    with pytest.raises(ValueError, match="was built with `encoder_sequence` and is called without it"):
        decoder()(x)
    with pytest.raises(ValueError, match="was built without `encoder_sequence` and is called with it"):
        decoder(None)(x, memory)


@pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
def test_a_width_below_the_number_of_heads_is_refused(block):
    with pytest.raises(ValueError, match="at least `num_heads`.*Received: width=2, num_heads=3"):
        block(F, H).build((None, None, 2))


@pytest.mark.parametrize("value", [0, -3, 2.5])
def test_feed_forward_refuses_a_bad_width(value):
    with pytest.raises(ValueError, match=f"`intermediate_dim` must be a positive.*intermediate_dim={value}"):
        FeedForward(value)


CONFIG = {
    "intermediate_dim": F,
    "num_heads": H,
    "dropout": 0.3,
    "activation": "gelu",
    "layer_norm_epsilon": 1e-3,
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "normalize_first": True,
    "attention_dropout": 0.2,
    "name": "block",
    "dtype": "mixed_bfloat16",
}


@pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
def test_config_is_the_constructor(block):
    layer = block(**CONFIG)
    clone = block.from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    for name in set(CONFIG) - {"activation", "kernel_initializer", "bias_initializer", "dtype"}:
        assert getattr(clone, name) == CONFIG[name]
    assert clone.activation is keras.activations.gelu and clone.dtype_policy.name == "mixed_bfloat16"
    layer(random(B, T, D))
    assert clone.get_config() == layer.get_config()  # neither build nor call changes it


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_symbolic_shapes_and_dtypes_are_the_real_ones(dtype):
    compute = dtype.removeprefix("mixed_")
    x, memory = keras.Input((None, D), dtype=compute), keras.Input((None, D), dtype=compute)
    for layer, symbolic_inputs, inputs in (
        (encoder(dtype=dtype), (x,), (random(B, T, D),)),
        (decoder(dtype=dtype), (x, memory), (random(B, T, D), random(B, S, D))),
    ):
        symbolic = layer(*symbolic_inputs, return_attention_scores=True)
        real = layer(*inputs, return_attention_scores=True)
        symbolic, real = keras.tree.flatten(symbolic), keras.tree.flatten(real)
        assert [len(a.shape) for a in symbolic] == [len(b.shape) for b in real]
        for a, b in zip(symbolic, real):
            assert all(m in (None, n) for m, n in zip(a.shape, b.shape))
            assert a.dtype == keras.backend.standardize_dtype(b.dtype) == compute
        assert symbolic[0].shape == (None, None, D)


def test_symbolic_scores_have_the_lengths_of_both_sequences():
    x, memory = keras.Input((T, D), batch_size=B), keras.Input((S, E), batch_size=B)
    output, scores = DecoderBlock(F, H)(x, memory, return_attention_scores=True)
    assert output.shape == (B, T, D)
    assert {name: score.shape for name, score in scores.items()} == {"self": (B, H, T, T), "cross": (B, H, T, S)}
    assert EncoderBlock(F, H)(x, return_attention_scores=True)[1].shape == (B, H, T, T)
    assert EncoderBlock(F, H).compute_output_shape((None, T, D)) == (None, T, D)
    assert DecoderBlock(F, H).compute_output_shape((B, T, D), (B, S, E)) == (B, T, D)
    assert DecoderBlock(F, H).compute_output_shape((B, None, D)) == (B, None, D)


@pytest.mark.parametrize("has_memory", [False, True])
def test_a_functional_model_is_saved_and_loaded(tmp_path, has_memory):
    ids, memory = keras.Input((None,), dtype="int32"), keras.Input((None, E))
    x = keras.layers.Embedding(11, D, mask_zero=True)(ids)
    x = EncoderBlock(F, H, kernel_initializer=ProjectionGlorotUniform())(x)
    x = DecoderBlock(F, H)(x, memory) if has_memory else DecoderBlock(F, H)(x)
    model = randomised(keras.Model([ids, memory] if has_memory else ids, x))
    data = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    data = [data, random(B, S, E)] if has_memory else data
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(data)), numpy(model(data)))


def test_keras_masks_of_the_inputs_count():
    ids, memory_ids = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]]), np.array([[9, 0, 0, 0, 0, 0, 0], [1] * 7])
    embedding = keras.layers.Embedding(11, D, mask_zero=True)
    x, memory = numpy(embedding(ids)), numpy(embedding(memory_ids))
    real, memory_real = ids > 0, memory_ids > 0
    layer = encoder()
    found = numpy(layer(embedding(ids)))
    np.testing.assert_allclose(found[real], numpy(layer(x, padding_mask=real))[real], atol=TOLERANCE)
    layer = decoder()
    found = numpy(layer(embedding(ids), embedding(memory_ids)))
    expected = numpy(layer(x, memory, decoder_padding_mask=real, encoder_padding_mask=memory_real))
    np.testing.assert_allclose(found[real], expected[real], atol=TOLERANCE)
    assert np.abs(expected - numpy(layer(x, memory)))[real].max() > 1e-3


def test_keras_masks_reach_the_next_block():
    ids = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    first, second = encoder(), randomised(encoder(), seed=2)
    model = keras.Sequential([keras.layers.Embedding(11, D, mask_zero=True), first, second])
    found = numpy(model(ids))
    x = numpy(model.layers[0](ids))
    expected = numpy(second(first(x, padding_mask=ids > 0), padding_mask=ids > 0))
    np.testing.assert_allclose(found[ids > 0], expected[ids > 0], atol=TOLERANCE)


@pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
@pytest.mark.parametrize("functional", [False, True])
def test_keras_masks_leave_the_block(block, functional):
    ids, real = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]]), padding(T, 3, 5)
    layers = keras.layers.Embedding(11, D, mask_zero=True), block(F, H), keras.layers.GlobalAveragePooling1D()
    if functional:
        inputs = x = keras.Input((None,), dtype="int32")
        for layer in layers:
            x = layer(x)
        model = keras.Model(inputs, x)
    else:
        model = keras.Sequential(layers)
    found = numpy(model(ids))
    states = numpy(layers[1](numpy(layers[0](ids)), **{f"{'decoder_' * (block is DecoderBlock)}padding_mask": real}))
    expected = (states * real[..., None]).sum(1) / real.sum(1)[:, None]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


# A product of D numbers rounded to 11 or 8 bits, and a few of those: measured 3e-3 and 2e-2.
@pytest.mark.parametrize("dtype, tolerance", [("mixed_float16", 1e-2), ("mixed_bfloat16", 8e-2)])
@each_order
def test_half_precision_is_near_float32(dtype, tolerance, normalize_first):
    x, memory, real = random(B, T, D), random(B, S, D), padding(T, 5, 0)
    for full, half, inputs, masks in (
        (encoder, encoder, (x,), {"padding_mask": real}),
        (decoder, decoder, (x, memory), {"decoder_padding_mask": real, "encoder_padding_mask": padding(S, 4, 7)}),
    ):
        expected = numpy(full(normalize_first=normalize_first)(*inputs, **masks))
        layer = half(normalize_first=normalize_first, dtype=dtype)
        found = layer(*inputs, **masks)
        assert keras.backend.standardize_dtype(found.dtype) == dtype.removeprefix("mixed_")
        assert {w.dtype for w in layer.weights} == {"float32"}
        assert np.abs(numpy(found) - expected).max() < tolerance  # NaN would not be


def test_dropout_is_for_training_and_has_a_place_of_its_own_on_attention():
    x = random(B, T, D)
    plain = numpy(encoder()(x, training=True))
    np.testing.assert_array_equal(numpy(encoder(dropout=0.5, attention_dropout=0.5)(x)), plain)
    assert np.abs(numpy(encoder(dropout=0.5)(x, training=True)) - plain).max() > 1e-2
    assert np.abs(numpy(encoder(attention_dropout=0.5)(x, training=True)) - plain).max() > 1e-3
    none = encoder(dropout=0.5, attention_dropout=0.0)
    assert (none._self_attention_layer.dropout, encoder(dropout=0.5)._self_attention_layer.dropout) == (0.0, 0.5)


# To three heads of 13 (queries, keys and values together are one matrix), from them, and a matrix as it is.
@pytest.mark.parametrize("shape, fans", [((17, 3, 13), 17 + 3 * 39), ((3, 13, 17), 39 + 17), ((17, 39), 17 + 39)])
def test_projections_start_as_wide_as_matrices(shape, fans):
    values = numpy(ProjectionGlorotUniform(seed=3)(shape))
    limit = np.sqrt(6 / fans)
    assert 0.95 * limit < np.abs(values).max() <= limit
    clone = ProjectionGlorotUniform.from_config(ProjectionGlorotUniform(seed=3).get_config())
    np.testing.assert_array_equal(numpy(clone(shape)), values)
