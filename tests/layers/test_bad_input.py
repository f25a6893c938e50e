"""Bad input is refused where it comes in: which argument, what was expected, what was received."""

import keras
import numpy as np
import pytest

from keras_transformer.layers import (
    AlibiBias,
    DecoderBlock,
    Dropout,
    EncoderBlock,
    FeedForward,
    GatedFeedForward,
    LayerScale,
    MultiHeadAttention,
    PositionalEncoding,
    PositionEmbedding,
    RelativePositionBias,
    RelativePositionEmbedding,
    RotaryEmbedding,
    StochasticDepth,
)

B, T, S, D, H, K = 2, 5, 7, 6, 3, 4


def zeros(*shape):
    return np.zeros(shape, "float32")


def ints(*shape):
    return np.zeros(shape, "int32")


def true(*shape):
    return np.ones(shape, bool)


def attention(**kwargs):
    layer = MultiHeadAttention(H, K, **kwargs)
    layer.build((None, None, D), (None, None, D))
    return layer


def segments_of_axes(segment_ids):
    x = zeros(B, 3, T, D)
    return MultiHeadAttention(H, K, attention_axes=2)(x, x, segment_ids=segment_ids)


def block(kind, *shapes):
    layer = kind(8, H)
    layer.build(*((None, None, width) for width in shapes))
    return layer


CONSTRUCTORS = {  # the call, and the argument and its value in the message
    "attention: use_bias": (lambda: MultiHeadAttention(H, K, use_bias="no"), "`use_bias`.*use_bias='no'"),
    "attention: use_gate": (lambda: MultiHeadAttention(H, K, use_gate="yes"), "`use_gate`.*use_gate='yes'"),
    "attention: flash": (lambda: MultiHeadAttention(H, K, flash_attention="yes"), "flash_attention='yes'"),
    "attention: dropout": (lambda: MultiHeadAttention(H, K, dropout="0.1"), "`dropout`.*dropout='0.1'"),
    "attention: no rate": (lambda: MultiHeadAttention(H, K, dropout=float("nan")), "`dropout`.*dropout=nan"),
    "attention: output_shape": (lambda: MultiHeadAttention(H, K, output_shape=(7, -2)), "output_shape=-2"),
    "attention: initializer": (lambda: MultiHeadAttention(H, K, kernel_initializer="xavier"), "initializer.*xavier"),
    "attention: unknown": (lambda: MultiHeadAttention(H, K, heads=3), "heads"),
    "block: dropout": (lambda: EncoderBlock(8, H, dropout=1.5), "`dropout`.*dropout=1.5"),
    "block: attention_dropout": (lambda: EncoderBlock(8, H, attention_dropout=-0.5), "attention_dropout=-0.5"),
    "block: epsilon": (lambda: DecoderBlock(8, H, layer_norm_epsilon=0.0), "layer_norm_epsilon=0.0"),
    "block: order": (lambda: DecoderBlock(8, H, normalize_first="pre"), "normalize_first='pre'"),
    "block: activation": (lambda: EncoderBlock(8, H, activation="rulu"), "activation.*rulu"),
    "feed-forward: dropout": (lambda: FeedForward(8, dropout=2.0), "`dropout`.*dropout=2.0"),
    "feed-forward: use_bias": (lambda: GatedFeedForward(8, use_bias="x"), "use_bias='x'"),
    "dropout: rate": (lambda: Dropout("a"), "`rate`.*rate='a'"),
    "dropout: noise_shape": (lambda: Dropout(0.1, noise_shape=(1, 5)), r"keras.layers.Dropout.*noise_shape=\(1, 5\)"),
    "stochastic depth: rate": (lambda: StochasticDepth("a"), "`rate`.*rate=a"),
    "layer scale: value": (lambda: LayerScale("a"), "`initial_value`.*initial_value='a'"),
    "sinusoids: wavelength": (lambda: PositionalEncoding(0), "`max_wavelength`.*max_wavelength=0"),
    "learned: length": (lambda: PositionEmbedding(2.5), "`sequence_length`.*sequence_length=2.5"),
    "rotary: wavelength": (lambda: RotaryEmbedding("a"), "`max_wavelength`.*max_wavelength='a'"),
    "rotary: scaling": (lambda: RotaryEmbedding(scaling_factor=0), "`scaling_factor`.*scaling_factor=0"),
    "rotary: original": (
        lambda: RotaryEmbedding(original_max_position_embeddings=-5),
        "original_max_position_embeddings=-5",
    ),
    "rotary: dynamic": (lambda: RotaryEmbedding(rope_type="dynamic", dynamic_length="a"), "dynamic_length=a"),
    "rotary: denominator": (lambda: RotaryEmbedding(denominator_dim=0), "denominator_dim=0"),
    "rotary: yarn": (lambda: RotaryEmbedding(1, rope_type="yarn"), "`max_wavelength` must be above 1.*=1"),
    "rotary: dim": (lambda: RotaryEmbedding(rotary_dim="4"), "`rotary_dim`.*rotary_dim=4"),
    "rotary: interleaved": (lambda: RotaryEmbedding(interleaved="x"), "interleaved='x'"),
    "linear: steepness": (lambda: AlibiBias(alibi_bias_max=-1), "`alibi_bias_max`.*alibi_bias_max=-1"),
    "buckets: number": (lambda: RelativePositionBias("a"), "`num_buckets`.*num_buckets=a"),
    "buckets: distance": (lambda: RelativePositionBias(8, 9.5), "`max_distance`.*max_distance=9.5"),
    "relative: width": (lambda: RelativePositionEmbedding(3, key_dim="a"), "`key_dim`.*key_dim=a"),
    "relative: per_head": (lambda: RelativePositionEmbedding(3, per_head="x"), "per_head='x'"),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors(name):
    make, message = CONSTRUCTORS[name]
    with pytest.raises(ValueError, match=message):
        make()


def attend(query=(B, T, D), value=(B, S, D), key=None, layer=None, **arguments):
    layer = attention() if layer is None else layer
    return layer(zeros(*query), zeros(*value), *([] if key is None else [zeros(*key)]), **arguments)


ATTENTION = {  # what is called, and what the message says
    "batches": (lambda: attend(value=(3, S, D)), r"`query`, `value` and `key`.*batch.*\(2, 5, 6\), \(3, 7, 6\)"),
    "batch of the key": (lambda: attend(key=(3, S, D)), r"same batch.*\(3, 7, 6\)"),
    "lengths of key and value": (lambda: attend(key=(B, T, D)), r"value's \(2, 7\) and key's \(2, 5\)"),
    "another width": (lambda: attend(query=(B, T, 8)), r"`query`.*width 6.*shape=\(2, 5, 8\)"),
    "another width of values": (lambda: attend(value=(B, S, 8)), r"`value`.*width 6.*shape=\(2, 7, 8\)"),
    "another rank": (lambda: attend((B, D), (B, S, D)), r"`query`.*rank 3.*shape=\(2, 6\)"),
    "a higher rank": (lambda: attend((B, 3, T, D), (B, 3, S, D)), r"`query`.*rank 3.*shape=\(2, 3, 5, 6\)"),
    "mask T x T": (lambda: attend(attention_mask=true(T, T)), r"= \(5, 7\).*shape=\(5, 5\)"),
    "mask S x T": (lambda: attend(attention_mask=true(S, T)), r"= \(5, 7\).*shape=\(7, 5\)"),
    "mask of another batch": (lambda: attend(attention_mask=true(3, T, S)), r"= \(2, 3\).*shape=\(3, 5, 7\)"),
    "mask of other heads": (lambda: attend(attention_mask=true(B, 2, T, S)), r"= \(2, 3\).*shape=\(2, 2, 5, 7\)"),
    "mask of heads alone": (lambda: attend(attention_mask=true(H, T, S)), r"= \(2, 3\).*shape=\(3, 5, 7\)"),
    "padding as attention mask": (lambda: attend(attention_mask=true(B, S)), r"shape=\(2, 7\).*`value_mask`"),
    "value mask of T": (lambda: attend(value_mask=true(B, T)), r"`value_mask`.*\(2, 7\).*shape=\(2, 5\)"),
    "query mask of S": (lambda: attend(query_mask=true(B, S)), r"`query_mask`.*\(2, 5\).*shape=\(2, 7\)"),
    "value mask of one place": (lambda: attend(value_mask=true(B, 1)), r"`value_mask`.*\(2, 7\).*shape=\(2, 1\)"),
    "query mask of one place": (lambda: attend(query_mask=true(B, 1)), r"`query_mask`.*\(2, 5\).*shape=\(2, 1\)"),
    "value mask of rank 1": (lambda: attend(value_mask=true(S)), r"`value_mask`.*shape=\(7,\)"),
    "segments of S": (lambda: attend(segment_ids=ints(B, S)), r"`segment_ids`.*\(2, 5\).*shape=\(2, 7\)"),
    "segments of queries alone": (lambda: attend(segment_ids=ints(B, T)), "`key_segment_ids` is needed.*5.*7 keys"),
    "segments of keys alone": (lambda: attend(key_segment_ids=ints(B, S)), "`key_segment_ids`.*segment_ids=None"),
    "segments that are floats": (lambda: attend(segment_ids=zeros(B, T)), "`segment_ids`.*integers.*dtype=float32"),
    "positions of S": (lambda: attend(positions=ints(B, S)), r"`positions`.*\(2, 5\).*shape=\(2, 7\)"),
    "positions of queries alone": (lambda: attend(positions=ints(1, T)), "`key_positions` is needed.*5.*7 keys"),
    "positions of a batch": (lambda: attend(positions=ints(3, T)), r"`positions`.*shape=\(3, 5\)"),
    "positions of rank 3": (lambda: attend(positions=ints(B, T, 1)), r"`positions`.*shape=\(2, 5, 1\)"),
    "positions that are floats": (lambda: attend(key_positions=zeros(B, S)), "`key_positions`.*dtype=float32"),
    "a tensor as cache": (lambda: attend(cache=zeros(B, S, H, K)), r"`cache` must be.*\(2, 7, 3, 4\)"),
    "a cache of other names": (lambda: attend(cache={"keys": zeros(1)}), "`cache` must be.*keys"),
    "a cache of another batch": (
        lambda: attend(cache=attention().make_cache(3, 9)),
        r"multiple.*shape \(2, 5, 6\) and a cache for the batch 3",
    ),
    "a cache too short": (lambda: attend(cache=attention().make_cache(B, 4)), r"length 4.*\(2, 5, 6\).*max_length"),
    "a cache of other heads": (
        lambda: attend(cache=MultiHeadAttention(2, K).make_cache(B, 9)),
        r"3 heads of keys of width 4.*\(2, 2, 9, 4\)",
    ),
    "a memory of another batch": (
        lambda: (lambda layer: layer(zeros(3, T, D), None, cache=layer.project_memory(zeros(B, S, D))))(attention()),
        r"multiple.*shape \(3, 5, 6\).*batch 2",
    ),
    "a cache of other values": (
        lambda: attend(cache=MultiHeadAttention(H, K, value_dim=5).make_cache(B, 9)),
        r"values of width 4.*values of the shape \(2, 3, 9, 5\)",
    ),
    "a cache of a negative length": (lambda: attention().make_cache(B, -3), "`max_length` must be at least 1.*=-3"),
    "a cache for no beams": (lambda: attention().make_cache(B, 9, 0), "`num_beams` must be at least 1.*=0"),
    "a memory of rank 2": (lambda: attention().project_memory(zeros(S, D)), r"`value` must have rank 3.*\(7, 6\)"),
    "a memory of another width": (lambda: attention().project_memory(zeros(B, S, 8)), r"the width 6.*\(2, 7, 8\)"),
    "a memory of two lengths": (
        lambda: attention().project_memory(zeros(B, S, D), zeros(B, T, D)),
        r"must be equal.*\(2, 7\).*\(2, 5\)",
    ),
    "a word for a causal mask": (lambda: attend(use_causal_mask="no"), "`use_causal_mask`.*use_causal_mask='no'"),
    "segments of one axis of two": (
        lambda: segments_of_axes(ints(B, T)),
        r"`segment_ids`.*\(6, 5\).*shape=\(2, 5\)",
    ),
    "a table for keys of another width": (
        lambda: attend(value=(B, S, 8), layer=MultiHeadAttention(H, K, position=PositionEmbedding(9))),
        r"`x` must have the width 6.*shape=\(2, 7, 8\).*queries and keys",
    ),
    "a memory before it is built": (
        lambda: MultiHeadAttention(H, K).project_memory(zeros(B, S, D)),
        "must be built.*built=False",
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    call, message = ATTENTION[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


BLOCKS = {
    "rank 2": (lambda: EncoderBlock(8, H)(zeros(B, D)), r"\(2, 6\)"),
    "another width": (lambda: block(EncoderBlock, D)(zeros(B, T, 8)), r"width 6.*\(2, 5, 8\)"),
    "padding of another length": (
        lambda: block(EncoderBlock, D)(zeros(B, T, D), padding_mask=true(B, S)),
        r"\(2, 5\).*shape=\(2, 7\)",
    ),
    "an attention mask of another length": (
        lambda: block(EncoderBlock, D)(zeros(B, T, D), attention_mask=true(T, S)),
        r"= \(5, 5\).*shape=\(5, 7\)",
    ),
    "an encoder of rank 2": (lambda: DecoderBlock(8, H)(zeros(B, T, D), zeros(B, D)), r"`value`.*\(2, 6\)"),
    "an encoder of another batch": (
        lambda: block(DecoderBlock, D, D)(zeros(B, T, D), zeros(3, S, D)),
        r"batch.*\(3, 7, 6\)",
    ),
    "the encoder's padding of T": (
        lambda: block(DecoderBlock, D, D)(zeros(B, T, D), zeros(B, S, D), encoder_padding_mask=true(B, T)),
        r"\(2, 7\).*shape=\(2, 5\)",
    ),
    "the decoder's padding of S": (
        lambda: block(DecoderBlock, D, D)(zeros(B, T, D), zeros(B, S, D), decoder_padding_mask=true(B, S)),
        r"\(2, 5\).*shape=\(2, 7\)",
    ),
    "the encoder's mask of T x T": (
        lambda: block(DecoderBlock, D, D)(zeros(B, T, D), zeros(B, S, D), encoder_attention_mask=true(T, T)),
        r"= \(5, 7\).*shape=\(5, 5\)",
    ),
    "an empty cache": (lambda: block(DecoderBlock, D)(zeros(B, T, D), cache={}), r"`cache`.*cache=\{\}"),
    "a cache before it is built": (lambda: DecoderBlock(8, H).make_cache(B, 9), "must be built.*built=False"),
    "a cache without the encoder": (lambda: block(DecoderBlock, D, D).make_cache(B, 9), "built with.*for without"),
    "a cache with an encoder": (
        lambda: block(DecoderBlock, D).make_cache(B, 9, zeros(B, S, D)),
        "built without.*for with it",
    ),
    "a feed-forward of rank 1": (lambda: FeedForward(8)(zeros(D)), r"`inputs`.*shape=\(6,\)"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name):
    call, message = BLOCKS[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


SCORES = {"linear": AlibiBias, "buckets": RelativePositionBias, "relative": lambda: RelativePositionEmbedding(3)}
PLACED = {"sinusoids": PositionalEncoding, "learned": lambda: PositionEmbedding(9), "rotary": RotaryEmbedding}


@pytest.mark.parametrize("part", PLACED)
@pytest.mark.parametrize("shape", [(S,), (1, S), (3, T), (B, 1)])
def test_positions_of_another_length(part, shape):
    received = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"`positions` must be.*\(5,\), \(1, 5\) or \(2, 5\).*shape={received}"):
        PLACED[part]()(zeros(B, T, D), positions=ints(*shape))


@pytest.mark.parametrize("part", PLACED)
def test_sequences_without_a_length(part):
    with pytest.raises(ValueError, match=r"(?s)shape=\(6,\)|rank 1"):
        PLACED[part]()(zeros(D))


@pytest.mark.parametrize("part", SCORES)
def test_queries_without_heads(part):
    with pytest.raises(ValueError, match=r"`query` must be of the shape \(B, T, H, K\).*shape=\(2, 5, 6\)"):
        SCORES[part]()(zeros(B, T, D), np.arange(T), np.arange(S))


@pytest.mark.parametrize("part", SCORES)
def test_positions_of_other_queries(part):
    with pytest.raises(ValueError, match=r"`query_positions`.*\(5,\).*shape=\(7,\)"):
        SCORES[part]()(zeros(B, T, H, K), np.arange(S), np.arange(S))


@pytest.mark.parametrize("axes", [("a", -1), (1, 7)])
def test_rotary_axes(axes):
    with pytest.raises(ValueError, match=f"out of range.*Received: .*={axes[0] if axes[0] == 'a' else axes[1]!r}|'a'"):
        RotaryEmbedding(sequence_axis=axes[0], feature_axis=axes[1])(zeros(B, T, D))


def test_an_unknown_width_is_refused_while_a_model_is_made():
    with pytest.raises(ValueError, match=r"last axis of `query` must be known.*\(None, None, None\)"):
        MultiHeadAttention(H, K)(*[keras.Input((None, None))] * 2)
