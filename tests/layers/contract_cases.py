"""The public layers, each with every argument of its constructor away from the default, and what to call them with.

As a script, `python contract_cases.py FILE` writes what all of them return on the current backend.
"""

import sys
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer import layers
from keras_transformer.layers import patterns

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
B, T, S, H, G, D, E, F, K, V = 2, 5, 7, 6, 3, 11, 17, 19, 13, 23
NOT_LAYERS = {
    "PostNorm": "a wiring, given to a block as `residual`",
    "PreNorm": "a wiring",
    "SandwichNorm": "a wiring",
    "Residual": "the base of the wirings",
    "ProjectionGlorotUniform": "an initializer",
    "TokenDropout": "ids to ids, see test_token_dropout.py",
    "allowed_transitions": "a function of labels",
    "split_label": "a function of a label",
    "gelu_tanh": "an activation",
    "patterns": "a module of functions of positions",
}
KEY_BIAS = "the same number is added to all scores of a query, to which the softmax is blind"


class Case(NamedTuple):
    layer: Any
    arguments: Callable[[], dict]  # of the constructor; made anew for each layer, since some are layers
    inputs: dict  # tensors of the call, the first one positional; may be nested
    call: Mapping = MappingProxyType({})  # other arguments of the call
    unreached: Mapping = MappingProxyType({})  # ends of paths of weights without a gradient: why


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("float32")


def padding(length, *real):
    return np.arange(length) < np.array(real)[:, None]


def drawn_mask(*shape):
    drawn = np.random.default_rng(shape).random(shape) < 0.7
    drawn[..., 0] = True
    return drawn


SEGMENTS = np.array([[1, 1, 1, 2, 2], [3, 3, 0, 0, 0]], "int32")
SEGMENTS_OF_SOURCES = np.array([[1, 1, 2, 2, 2, 0, 0], [3, 3, 3, 3, 0, 0, 0]], "int32")
PLACES = {"query_positions": np.arange(3, 3 + T, dtype="int32"), "key_positions": np.arange(S, dtype="int32")}
PACKED_PLACES = {
    "query_positions": np.array([[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]], "int32"),
    "key_positions": np.array([[0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 4]], "int32"),
}


def attention_arguments():
    return {
        "num_heads": H,
        "key_dim": K,
        "value_dim": V,
        "dropout": 0.1,
        "output_shape": (29,),
        "sliding_window": 4,
        "flash_attention": False,
        "kernel_initializer": "he_normal",
        "bias_initializer": keras.initializers.Constant(0.3),
        "kernel_regularizer": keras.regularizers.L2(0.01),
        "bias_regularizer": keras.regularizers.L1(0.02),
        "activity_regularizer": keras.regularizers.L2(0.03),
        "kernel_constraint": keras.constraints.MaxNorm(3.0),
        "bias_constraint": keras.constraints.NonNeg(),
        "use_gate": True,
        "seed": 5,
        "num_key_value_heads": G,
        "position": layers.RotaryEmbedding(rotary_dim=4),
        "pattern": patterns.Prefix(2) | patterns.Strided(2),
    }


def block_arguments():
    return {
        "intermediate_dim": F,
        "num_heads": G,
        "dropout": 0.2,
        "activation": "gelu",
        "layer_norm_epsilon": 1e-3,
        "kernel_initializer": "he_normal",
        "bias_initializer": "ones",
        "normalize_first": True,
        "attention_dropout": 0.3,
        "key_dim": 4,
        "position": layers.RelativePositionBias(num_buckets=6, max_distance=5),
    }


def block_of_parts():
    return {
        "intermediate_dim": F,
        "num_heads": G,
        "position": layers.RotaryEmbedding(),
        "attention": layers.MultiHeadAttention(H, 4, num_key_value_heads=G, use_bias=False, use_gate=True),
        "feed_forward": layers.GatedFeedForward(F, activation=layers.gelu_tanh, use_bias=False),
        "normalization": keras.layers.RMSNormalization(epsilon=1e-5),
        "residual": layers.SandwichNorm([layers.LayerScale(0.5), layers.StochasticDepth(0.25, seed=2)]),
    }


def cache(heads, width):
    """Of `T + 3` places, of which 2 are written."""
    is_written = (np.arange(T + 3) < 2).astype("float32")[:, None]
    key, value = (normal(B, heads, T + 3, width, seed=seed) * is_written for seed in range(2))
    return {"key": key, "value": value, "position": np.array(2, "int32")}


SOURCES = {"query": normal(B, T, D), "value": normal(B, S, E), "key": normal(B, S, D, seed=1)}
DECODED = {"decoder_sequence": normal(B, T, D), "encoder_sequence": normal(B, S, E)}

CASES = {
    "attention": Case(layers.MultiHeadAttention, attention_arguments, SOURCES),
    "attention of masks and scores": Case(
        layers.MultiHeadAttention,
        lambda: {"num_heads": H, "key_dim": K, "position": layers.AlibiBias()},
        {
            **SOURCES,
            "query_mask": padding(T, 5, 2),
            "value_mask": padding(S, 4, 7),
            "key_mask": padding(S, 7, 5),
            "attention_mask": drawn_mask(B, H, T, S),
        },
        {"return_attention_scores": True},
        {"key/bias": KEY_BIAS},
    ),
    "attention over an axis": Case(
        layers.MultiHeadAttention,
        lambda: {
            **{"num_heads": H, "key_dim": K, "attention_axes": (2,), "output_shape": (3, 2)},
            **{"use_bias": False, "use_output_bias": True},
        },
        {"query": normal(B, 3, T, D), "value": normal(B, 3, S, E)},
        {"return_attention_scores": True, "use_causal_mask": True},
    ),
    "attention of packed rows": Case(
        layers.MultiHeadAttention,
        lambda: {
            "num_heads": G,
            "key_dim": K,
            "position": layers.RelativePositionEmbedding(2, embeddings_initializer="normal"),
        },
        {
            "query": normal(B, T, D),
            "value": normal(B, T, D, seed=1),
            "segment_ids": SEGMENTS,
            "key_segment_ids": SEGMENTS,
            "positions": PACKED_PLACES["query_positions"],
            "key_positions": PACKED_PLACES["query_positions"],
        },
        {"use_causal_mask": True},
        {"key/bias": KEY_BIAS},
    ),
    "attention with a cache": Case(
        layers.MultiHeadAttention,
        lambda: {"num_heads": H, "key_dim": K, "position": layers.PositionEmbedding(17, initializer="normal")},
        {"query": normal(B, T, D), "value": normal(B, T, D, seed=1), "cache": cache(H, K)},
        {"use_causal_mask": True, "return_attention_scores": True},
        {},
    ),
    "attention block by block": Case(
        layers.MultiHeadAttention,
        lambda: {
            "num_heads": H,
            "key_dim": K,
            "flash_attention": ON_TENSORFLOW or None,  # elsewhere the kernels are a GPU's
            "position": layers.RelativePositionBias(6, 5, embeddings_initializer="normal"),
            "pattern": patterns.Prefix(2) | patterns.Strided(2),
        },
        {**SOURCES, "value_mask": padding(S, 4, 7), "attention_mask": drawn_mask(T, S)},
        {"use_causal_mask": True},
        {"key/bias": KEY_BIAS},
    ),
    "encoder block": Case(
        layers.EncoderBlock,
        block_arguments,
        {"inputs": normal(B, T, D), "padding_mask": padding(T, 5, 3), "attention_mask": drawn_mask(B, T, T)},
        {"return_attention_scores": True},
        {"self_attention_layer/key/bias": KEY_BIAS},
    ),
    "encoder block of parts": Case(
        layers.EncoderBlock,
        block_of_parts,
        {"inputs": normal(B, T, D), "segment_ids": SEGMENTS, "positions": PACKED_PLACES["query_positions"] + 3},
    ),
    "decoder block": Case(
        layers.DecoderBlock,
        block_arguments,
        {
            **DECODED,
            "decoder_padding_mask": padding(T, 5, 3),
            "encoder_padding_mask": padding(S, 4, 7),
            "decoder_attention_mask": drawn_mask(B, T, T),
            "encoder_attention_mask": drawn_mask(T, S),
        },
        {"return_attention_scores": True},
        {"self_attention/key/bias": KEY_BIAS, "cross_attention/key/bias": KEY_BIAS},
    ),
    "decoder block of parts": Case(
        layers.DecoderBlock,
        block_of_parts,
        {
            **DECODED,
            "segment_ids": SEGMENTS,
            "encoder_segment_ids": SEGMENTS_OF_SOURCES,
            "positions": PACKED_PLACES["query_positions"] + 3,
        },
        {"use_causal_mask": False},
    ),
    "decoder block with a cache": Case(
        layers.DecoderBlock,
        block_arguments,
        {
            "decoder_sequence": normal(B, T, D),
            "cache": {"self": cache(G, 4)},
            "positions": np.arange(T, dtype="int32") + np.array([[1], [2]], "int32"),
            "key_positions": np.arange(T + 3, dtype="int32") - np.array([[1], [0]], "int32"),
        },
        {"return_attention_scores": True},
    ),
    "feed-forward": Case(
        layers.FeedForward,
        lambda: {
            "intermediate_dim": F,
            "activation": "gelu",
            "dropout": 0.2,
            "kernel_initializer": "he_normal",
            "bias_initializer": "ones",
        },
        {"inputs": normal(B, T, D)},
    ),
    "feed-forward without biases": Case(
        layers.FeedForward, lambda: {"intermediate_dim": F, "use_bias": False}, {"inputs": normal(B, 3, T, D)}
    ),
    "gated feed-forward": Case(
        layers.GatedFeedForward,
        lambda: {
            "intermediate_dim": F,
            "activation": layers.gelu_tanh,
            "dropout": 0.2,
            "use_bias": False,
            "kernel_initializer": "he_normal",
            "bias_initializer": "ones",
        },
        {"inputs": normal(B, T, D)},
    ),
    "dropout": Case(layers.Dropout, lambda: {"rate": 0.3, "seed": 5}, {"inputs": normal(B, T, D)}),
    "stochastic depth": Case(layers.StochasticDepth, lambda: {"rate": 0.3, "seed": 5}, {"inputs": normal(B, T, D)}),
    "layer scale": Case(layers.LayerScale, lambda: {"initial_value": 0.1}, {"inputs": normal(B, T, D)}),
    "sinusoids": Case(
        layers.PositionalEncoding,
        lambda: {"max_wavelength": 500.0, "interleaved": False},
        {"inputs": normal(B, T, D), "positions": PACKED_PLACES["query_positions"]},
    ),
    "learned positions": Case(
        layers.PositionEmbedding,
        lambda: {"sequence_length": 29, "initializer": "normal"},
        {"inputs": normal(B, T, D)},
        {"start_index": 3},
    ),
    "learned positions, given": Case(
        layers.PositionEmbedding,
        lambda: {"sequence_length": 29},
        {"inputs": normal(B, T, D), "positions": PACKED_PLACES["query_positions"]},
    ),
    "rotary, yarn": Case(
        layers.RotaryEmbedding,
        lambda: {
            "max_wavelength": 500,
            "scaling_factor": 2.0,
            "rope_type": "yarn",
            "beta_fast": 9.0,
            "beta_slow": 2.0,
            "original_max_position_embeddings": 64,
            "truncate": False,
            "sequence_axis": 3,
            "feature_axis": 1,
        },
        {"inputs": normal(B, 2 * T, 3, S)},
        {"start_index": 3},
    ),
    "rotary, dynamic": Case(
        layers.RotaryEmbedding,
        lambda: {
            "scaling_factor": 2.0,
            "rope_type": "dynamic",
            "denominator_dim": 14,
            "rotary_dim": 6,
            "interleaved": True,
            "dynamic_length": 8192,
        },
        {"inputs": normal(B, T, H, K), "positions": PACKED_PLACES["query_positions"]},
    ),
    "conditional random field": Case(
        layers.CRF,
        lambda: {"num_labels": D, "allowed": (np.arange(D + 1)[:, None] + np.arange(D + 1) != 7).tolist()},
        {"inputs": normal(B, T, D), "padding_mask": padding(T, 3, 5)},
    ),
    "linear biases": Case(
        layers.AlibiBias, lambda: {"num_heads": H, "alibi_bias_max": 5}, {"query": normal(B, T, H, K), **PLACES}
    ),
    "buckets": Case(
        layers.RelativePositionBias,
        lambda: {
            "num_buckets": 6,
            "max_distance": 5,
            "bidirectional": False,
            "num_heads": H,
            "embeddings_initializer": "normal",
        },
        {"query": normal(B, T, H, K), **PLACES},
    ),
    "buckets of packed rows": Case(
        layers.RelativePositionBias,
        lambda: {"num_buckets": 8, "max_distance": 11},
        {"query": normal(B, T, H, K), **PACKED_PLACES},
    ),
    "relative vectors": Case(
        layers.RelativePositionEmbedding,
        lambda: {
            "max_distance": 11,
            "bidirectional": False,
            "beyond": "zero",
            "per_head": True,
            "num_heads": H,
            "key_dim": K,
            "embeddings_initializer": "normal",
        },
        {"query": normal(B, T, H, K), **PLACES},
    ),
    "relative vectors of packed rows": Case(
        layers.RelativePositionEmbedding, lambda: {"max_distance": 2}, {"query": normal(B, T, H, K), **PACKED_PLACES}
    ),
}


def constructor(kind):
    """The arguments of the constructor of a layer and of its bases in the library: name to default."""
    arguments: dict[str, Any] = {}
    for base in kind.__mro__:
        if base.__module__.startswith("keras_transformer.") and "__init__" in vars(base):
            found = signature(base.__init__).parameters.values()
            named = {p.name: p.default for p in found if p.kind is Parameter.POSITIONAL_OR_KEYWORD and p.name != "self"}
            arguments = {**named, **arguments}
    return arguments


def make(case, **kwargs):
    return case.layer(**case.arguments(), **kwargs)


def cast(inputs, dtype):
    return keras.tree.map_structure(
        lambda x: ops.cast(x, dtype) if x.dtype == "float32" else ops.convert_to_tensor(x), inputs
    )


def call(layer, case, inputs, **kwargs):
    first, *_ = case.inputs
    others = {name: value for name, value in inputs.items() if name != first}
    return layer(inputs[first], **others, **case.call, **kwargs)


def randomised(layer, seed=1):
    """The layer, with no weight at an initial value that hides something, such as a bias of zero."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        drawn = rng.normal(0, weight.shape[0] ** -0.5, weight.shape)
        weight.assign(drawn + 1 if weight.name in ("gamma", "scale") else drawn)
    return layer


def built(name, dtype="float32", **kwargs):
    case = CASES[name]
    layer = make(case, dtype=dtype, **kwargs)
    call(layer, case, cast(case.inputs, layer.compute_dtype))
    return randomised(layer)


def outputs(results):
    """All that a call returned, as float64 NumPy arrays."""
    return [ops.convert_to_numpy(x).astype("float64") for x in keras.tree.flatten(results)]


if __name__ == "__main__":
    found = {}
    for name, case in CASES.items():
        for training in (False, True):
            keras.utils.set_random_seed(3)
            layer = built(name)
            takes = "training" in signature(layer.call).parameters
            results = call(layer, case, cast(case.inputs, "float32"), **({"training": training} if takes else {}))
            for index, x in enumerate(outputs(results)):
                found[f"{name}, training={training}, result {index}"] = x
    np.savez(sys.argv[1], **found)
