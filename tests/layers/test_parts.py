"""Blocks made of parts that are handed in: against papers and golden arrays, their weights, and as Keras objects."""

import json
from inspect import signature
from pathlib import Path

import keras
import numpy as np
import parts_numpy
import pytest
from keras import ops

from keras_transformer.layers import (
    DecoderBlock,
    EncoderBlock,
    FeedForward,
    GatedFeedForward,
    LayerScale,
    MultiHeadAttention,
    PreNorm,
    SandwichNorm,
    StochasticDepth,
    gelu_tanh,
)

B, T, S, H, K, F, D, E = 2, 5, 7, 3, 11, 19, 13, 17
TOLERANCE = 2e-5  # float32 against float64 through three sublayers with outputs of order 1
GOLDEN = Path(__file__).parents[3] / "shared" / "golden"

takes_position = pytest.mark.skipif(
    "position" not in signature(MultiHeadAttention).parameters, reason="MultiHeadAttention takes no `position`"
)
takes_segments = pytest.mark.skipif(
    "segment_ids" not in signature(MultiHeadAttention.call).parameters, reason="attention takes no `segment_ids`"
)


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def random(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


def randomised(layer):
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(0, w.shape[0] ** -0.5, w.shape) for w in layer.get_weights()])
    return layer


def padding(length, *real):
    return np.arange(length) < np.array(real)[:, None]


def golden(name):
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"the golden arrays are not at {path}")
    with np.load(path) as arrays:
        file = {key: arrays[key] for key in arrays.files}
    return file, json.loads(str(file.pop("meta")))


def t5_parts(heads=H, key_dim=K, intermediate_dim=F):
    """T5 v1.1: no biases, RMSNorm before each sublayer, a width of heads of its own, gated feed-forward."""
    return {
        "attention": MultiHeadAttention(heads, key_dim, use_bias=False),
        "feed_forward": GatedFeedForward(intermediate_dim, activation=gelu_tanh, use_bias=False),
        "normalization": keras.layers.RMSNormalization(epsilon=1e-6),
        "residual": PreNorm(),
    }


def decoder(memory_dim=E, **kwargs):
    layer = DecoderBlock(F, H, **kwargs)
    layer.build((None, None, D), None if memory_dim is None else (None, None, memory_dim))
    return randomised(layer)


def test_the_parts_of_t5_equal_its_paper():
    layer, x, memory = decoder(**t5_parts()), random(B, T, D), random(B, S, E)
    real, memory_real = padding(T, 5, 3), padding(S, 4, 7)
    found = layer(x, memory, decoder_padding_mask=real, encoder_padding_mask=memory_real)
    expected = parts_numpy.t5_decoder_block(
        *(np.asarray(a, "float64") for a in (x, memory)),
        [np.asarray(w, "float64") for w in layer.get_weights()],
        np.tri(T, dtype=bool) & real[:, None, None],
        memory_real[:, None, None],
    )
    np.testing.assert_allclose(numpy(found), expected, atol=TOLERANCE)


def test_the_parts_of_nanogpt_equal_its_golden_logits():
    """Pre-norm decoder blocks without any bias, exact GELU, one table for input and output."""
    file, meta = golden("nanogpt_nobias")
    config, weights = meta["config"], {key[len("w/transformer.") :]: w for key, w in file.items() if key[0] == "w"}
    width, heads = config["n_embd"], config["n_head"]
    norm = keras.layers.LayerNormalization(center=False, epsilon=1e-5)
    states = weights["wte.weight"][file["in/idx"]] + weights["wpe.weight"][: file["in/idx"].shape[1]]
    for index in range(config["n_layer"]):
        block = DecoderBlock(
            4 * width,
            heads,
            attention=MultiHeadAttention(heads, width // heads, use_bias=False),
            feed_forward=FeedForward(4 * width, activation="gelu", use_bias=False),
            normalization=norm,
            residual=PreNorm(),
        )
        block.build(states.shape)
        mine = {key.split(".", 2)[2]: w for key, w in weights.items() if key.startswith(f"h.{index}.")}
        to_heads = [m.T.reshape(width, heads, -1) for m in np.split(mine["attn.c_attn.weight"], 3)]
        from_heads = mine["attn.c_proj.weight"].T.reshape(heads, -1, width)
        network = [mine["mlp.c_fc.weight"].T, mine["mlp.c_proj.weight"].T]
        block.set_weights([*to_heads, from_heads, mine["ln_1.weight"], *network, mine["ln_2.weight"]])
        states = block(states)
    norm.build(states.shape)
    norm.set_weights([weights["ln_f.weight"]])
    logits = numpy(norm(states)) @ weights["wte.weight"].T
    np.testing.assert_allclose(logits, file["out/logits"], rtol=0, atol=2e-5)  # of up to 6, through 3 blocks


@keras.saving.register_keras_serializable(package="tests")
class Table(keras.layers.Layer):
    """A position part: a number for each head and distance, through a table of buckets of distances."""

    def __init__(self, buckets, **kwargs):
        super().__init__(**kwargs)
        self.buckets = buckets

    def build_for_attention(self, num_heads, key_dim):
        self.table = self.add_weight(name="table", shape=(max(self.buckets) + 1, num_heads), initializer="normal")
        self.built = True

    def scores(self, query, query_positions, key_positions):
        distance = key_positions[..., None, :] - query_positions[..., :, None]
        bucket = ops.take(ops.convert_to_tensor(self.buckets, "int32"), distance + len(self.buckets) // 2, axis=0)
        scores = ops.moveaxis(ops.take(self.table, bucket, axis=0), -1, -3)
        return scores if len(scores.shape) == 4 else scores[None]

    def get_build_config(self):
        return None

    def get_config(self):
        return {**super().get_config(), "buckets": list(self.buckets)}


BUCKETS = [0, 1, 2, 3, 4, 5, 6] + [7] * 8  # distances -7 to 7


@takes_position
def test_one_position_table_is_shared_and_not_used_across():
    table = Table(BUCKETS)
    blocks = [DecoderBlock(F, H, position=table) for _ in range(2)]
    for block in blocks:
        block.build((None, None, D), (None, None, D))
    assert all(block.position is table and block._self_attention_layer.position is table for block in blocks)
    assert all(block._cross_attention_layer.position is None for block in blocks)
    model = keras.Sequential([EncoderBlock(F, H, position=table), EncoderBlock(F, H, position=table)])
    plain = keras.Sequential([EncoderBlock(F, H), EncoderBlock(F, H)])
    for stack in (model, plain):
        stack.build((None, None, D))
    assert len(model.weights) == len(plain.weights) + 1


@takes_position
def test_a_shared_position_table_stays_shared_when_saved(tmp_path):
    table, inputs = Table(BUCKETS), keras.Input((None, D))
    x = EncoderBlock(F, H, position=table)(inputs)
    model = keras.Model(inputs, DecoderBlock(F, H, position=table)(x))
    randomised(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    first, second = loaded.layers[1:]
    assert first._self_attention_layer.position is second._self_attention_layer.position
    assert len(loaded.weights) == len(model.weights)
    x = random(B, T, D)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


@takes_position
def test_t5_of_such_blocks_equals_its_golden_states():
    """T5 v1.1, encoder and decoder up to the states; it does not scale scores by `K^-0.5`, so its queries grow here."""
    file, meta = golden("t5_v11")
    config, weights = meta["config"], {key[2:]: w for key, w in file.items() if key.startswith("w/")}
    heads, key_dim, width = config["num_heads"], config["d_kv"], config["d_model"]
    parts = t5_parts(heads, key_dim, config["d_ff"])
    norm = keras.layers.RMSNormalization(epsilon=config["layer_norm_epsilon"])
    norm.build((None, None, width))

    def attention(name):
        query, key, value = (weights[f"{name}.{x}.weight"].T.reshape(width, heads, key_dim) for x in "qkv")
        return [query * key_dim**0.5, key, value, weights[f"{name}.o.weight"].T.reshape(heads, key_dim, width)]

    def network(name):
        return [weights[f"{name}.DenseReluDense.{x}.weight"].T for x in ("wi_0", "wi_1", "wo")]

    def gain(name):
        return [weights[f"{name}.layer_norm.weight"]]

    def stack(kind, name, direction, x, *memory, **masks):
        table = Table(file[f"out/bucket_{direction}_8_20"].tolist())
        for index in range(2):
            block = kind(config["d_ff"], heads, position=table, **parts)
            block.build(x.shape, *(m.shape for m in memory))
            layer = f"{name}.block.{index}.layer"
            arrays = attention(f"{layer}.0.SelfAttention")
            if memory:
                arrays += gain(f"{layer}.0") + attention(f"{layer}.1.EncDecAttention") + gain(f"{layer}.1")
                arrays += network(f"{layer}.2") + gain(f"{layer}.2")
            else:
                arrays += gain(f"{layer}.0") + gain(f"{layer}.1") + network(f"{layer}.1")
            table.table.assign(weights[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"])
            own = [variable for variable in block.weights if variable is not table.table]
            assert len(own) == len(arrays)
            for variable, array in zip(own, arrays):
                variable.assign(array)
            x = block(x, *memory, **masks)
        norm.set_weights([weights[f"{name}.final_layer_norm.weight"]])
        return norm(x)

    real = file["in/attention_mask"].astype(bool)
    embedding = weights["shared.weight"]
    states = stack(EncoderBlock, "encoder", "bidir", embedding[file["in/input_ids"]], padding_mask=real)
    expected = file["out/encoder"]
    np.testing.assert_allclose(numpy(states)[real], expected[real], rtol=0, atol=10 * meta["noise"]["encoder"])
    target = embedding[file["in/decoder_input_ids"]]
    hidden = stack(DecoderBlock, "decoder", "causal", target, states, encoder_padding_mask=real)
    logits = numpy(hidden) @ weights["lm_head.weight"].T
    np.testing.assert_allclose(logits, file["out/logits"], rtol=0, atol=10 * meta["noise"]["logits"])


@takes_segments
def test_packed_rows_are_their_segments():
    layer, x = EncoderBlock(F, H), random(B, T, D)
    segments = np.array([[0, 0, 1, 1, 1]] * B)
    found = numpy(layer(x, segment_ids=segments))
    expected = np.concatenate([numpy(layer(x[:, :2])), numpy(layer(x[:, 2:]))], axis=1)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    layer, memory = decoder(), random(B, S, E)
    memory_segments = np.array([[0, 0, 0, 1, 1, 1, 1]] * B)
    found = numpy(layer(x, memory, segment_ids=segments, encoder_segment_ids=memory_segments))
    pieces = [numpy(layer(x[:, :2], memory[:, :3])), numpy(layer(x[:, 2:], memory[:, 3:]))]
    np.testing.assert_allclose(found, np.concatenate(pieces, axis=1), atol=TOLERANCE)


@takes_position
@pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
def test_positions_reach_the_part(block):
    layer, x = block(F, H, position=Table(BUCKETS)), random(B, T, D)
    expected = numpy(layer(x))
    np.testing.assert_allclose(numpy(layer(x, positions=np.arange(T))), expected, atol=1e-6)
    assert np.abs(numpy(layer(x, positions=np.array([[0, 1, 2, 0, 1]]))) - expected).max() > 1e-4


def test_segments_of_the_encoder_need_those_of_the_decoder():
    with pytest.raises(ValueError, match="Received: segment_ids=None. Pass `segment_ids` too"):
        decoder()(random(B, T, D), random(B, S, E), encoder_segment_ids=np.zeros((B, S), "int32"))


def test_the_width_of_a_head_is_free():
    layer = EncoderBlock(F, H, key_dim=K)
    assert tuple(layer(random(B, T, D)).shape) == (B, T, D)
    assert [tuple(w.shape) for w in layer.weights[:2]] == [(D, H, K), (H, K)]
    narrow = EncoderBlock(F, H, key_dim=K)
    assert tuple(narrow(random(B, T, 2)).shape) == (B, T, 2)  # fewer than heads


def test_parts_are_patterns_that_stay_untouched():
    parts = t5_parts()
    parts["feed_forward"].build((None, None, D))
    before = {name: part.get_config() for name, part in parts.items()}
    layer, x = EncoderBlock(F, H, **parts), random(B, T, D)
    assert not layer.weights
    layer(x)
    assert {name: part.get_config() for name, part in parts.items()} == before
    assert not ({id(w) for w in parts["feed_forward"].weights} & {id(w) for w in layer.weights})
    assert len(layer.weights) == 4 + 1 + 1 + 3
    for name in parts:
        assert type(getattr(layer, name)) is type(parts[name])


def test_a_part_works_under_the_policy_of_the_block():
    layer = EncoderBlock(F, H, dtype="mixed_bfloat16", **{**t5_parts(), "residual": SandwichNorm(LayerScale(0.1))})
    output = layer(random(B, T, D))
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    assert {sublayer.compute_dtype for sublayer in layer._flatten_layers()} == {"bfloat16"}


ALL_PARTS = {
    **t5_parts(),
    "residual": SandwichNorm([LayerScale(0.1), StochasticDepth(0.2)]),
    "key_dim": 5,
    "attention_dropout": 0.2,
}


@pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
def test_config_round_trips_with_every_part(block):
    layer = block(F, H, **ALL_PARTS)
    config = layer.get_config()
    json.dumps(config)
    clone = block.from_config(config)
    assert clone.get_config() == config
    layer(random(B, T, D))
    assert layer.get_config() == config
    assert type(clone.feed_forward) is GatedFeedForward and clone.feed_forward.activation is gelu_tanh
    by_config = block(F, H, feed_forward=keras.saving.serialize_keras_object(ALL_PARTS["feed_forward"]))
    assert by_config.feed_forward.get_config() == clone.feed_forward.get_config()


class Subclassed(keras.Model):
    def __init__(self, memory, **kwargs):
        super().__init__(**kwargs)
        self.memory = memory
        self.embedding = keras.layers.Embedding(11, D, mask_zero=True)
        self.encoder = EncoderBlock(F, H, **ALL_PARTS)
        self.decoder = DecoderBlock(F, H, **ALL_PARTS)

    def call(self, ids, training=None):
        x = self.embedding(ids)
        states = self.encoder(x, training=training)
        return self.decoder(x, states, training=training) if self.memory else self.decoder(states, training=training)

    def get_config(self):
        return {**super().get_config(), "memory": self.memory}


@pytest.mark.parametrize("memory", [True, False])
def test_a_subclassed_model_is_saved_and_loaded(tmp_path, memory):
    model, ids = Subclassed(memory), np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    model(ids)
    randomised(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Subclassed": Subclassed})
    np.testing.assert_array_equal(numpy(loaded(ids)), numpy(model(ids)))


@pytest.mark.integration
def test_every_weight_has_a_gradient_and_fit_runs_without_a_warning():
    model, ids = Subclassed(True), np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model(ids)
    before = model.get_weights()
    model.fit(ids, random(B, T, D), epochs=3, verbose=0)
    after = model.get_weights()
    moved = {w.path: np.abs(a - b).max() > 0 for w, a, b in zip(model.weights, before, after) if w.trainable}
    assert all(moved.values()), moved


ERRORS = {
    "attention": (
        keras.layers.MultiHeadAttention(2, 3),
        "of the class keras_transformer.MultiHeadAttention.*type keras.MultiHead.*use_bias=False",
    ),
    "feed_forward": (
        "gelu",
        "of the class keras.Layer.*feed_forward='gelu', of the type builtins.str.*GatedFeedForward",
    ),
    "normalization": (keras.layers.RMSNormalization, "of the class keras.Layer.*RMSNormalization.*epsilon=1e-6"),
    "residual": (
        True,
        r"of the class keras_transformer.Residual.*residual=True, of the type builtins.bool.*SandwichNorm\(\)",
    ),
    "position": (3, "of the class keras.Layer.*position=3, of the type builtins.int.*RotaryEmbedding"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_unknown_part_is_refused(name):
    value, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"`{name}` must be an object {message}"):
        EncoderBlock(F, H, **{name: value})


def test_a_layer_that_knows_no_positions_is_refused():
    with pytest.raises(ValueError, match="`position` must have one of the methods add, rotate, scores.*Dense"):
        EncoderBlock(F, H, position=keras.layers.Dense(3))


@takes_position
def test_a_position_within_attention_is_refused():
    with pytest.raises(ValueError, match="Hand it in as `position`"):
        EncoderBlock(F, H, attention=MultiHeadAttention(H, K, position=Table(BUCKETS)))


@pytest.mark.parametrize("width", [1, 7])
def test_a_part_that_changes_the_width_is_refused(width):
    layer = EncoderBlock(F, H, feed_forward=keras.layers.Dense(width))
    with pytest.raises(ValueError, match=f"Received: feedforward of width {width} for {D}"):
        layer.call(layer(random(B, T, D)))
    layer = EncoderBlock(F, H, attention=MultiHeadAttention(H, K, output_shape=width))
    with pytest.raises(ValueError, match=f"Received: self_attention of width {width} for {D}"):
        layer(random(B, T, D))


@pytest.mark.parametrize("name", ["intermediate_dim", "num_heads", "key_dim"])
@pytest.mark.parametrize("value", [0, -3, 2.5, True])
def test_sizes_are_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer. Received: {name}={value}"):
        EncoderBlock(**{"intermediate_dim": F, "num_heads": H, name: value})
