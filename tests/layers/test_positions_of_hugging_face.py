"""Position parts beside those of transformers: the same angles, biases and sums, and a whole layer of Llama's."""

import importlib.util

import numpy as np
import pytest
from contract_cases import normal
from keras import ops

from keras_transformer.layers import AlibiBias, MultiHeadAttention, PositionalEncoding, RotaryEmbedding

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "transformers")),
    reason="torch and transformers are not installed",
)

B, T, H, G, D, K = 2, 19, 6, 3, 42, 14
ORIGINAL = 8  # length
ROPE = {  # what the layer is told, and what the config of Llama says
    "default": ({}, {"rope_type": "default"}),
    "linear": ({"scaling_factor": 3.0}, {"rope_type": "linear", "factor": 3.0}),
    "dynamic": (
        {"rope_type": "dynamic", "scaling_factor": 2.0, "dynamic_length": T},
        {"rope_type": "dynamic", "factor": 2.0},
    ),
    "dynamic, not reached": (
        {
            "rope_type": "dynamic",
            "scaling_factor": 2.0,
            "dynamic_length": T,
            "original_max_position_embeddings": T + 1,
        },
        {"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": T + 1},
    ),
    "yarn": (
        {"rope_type": "yarn", "scaling_factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    ),
}


def numpy(x):
    return ops.convert_to_numpy(x)


def llama_config(rope):
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=D,
        num_attention_heads=H,
        num_key_value_heads=G,
        head_dim=K,
        max_position_embeddings=rope.get("max_position_embeddings", ORIGINAL),
        rope_parameters={"rope_theta": 500.0, **rope},
        attn_implementation="eager",
    )


def sines_and_cosines(config):
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    cosine, sine = LlamaRotaryEmbedding(config)(torch.zeros(B, T, D), torch.arange(T)[None].expand(B, -1))
    return sine, cosine


def rotary(arguments):
    return RotaryEmbedding(**{"max_wavelength": 500.0, "original_max_position_embeddings": ORIGINAL, **arguments})


@pytest.mark.parametrize("rope", ROPE)
def test_rotations_are_those_of_llama(rope):
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    arguments, parameters = ROPE[rope]
    sine, cosine = sines_and_cosines(llama_config(parameters))
    query, key = normal(B, H, T, K), normal(B, G, T, K, seed=1)
    expected = apply_rotary_pos_emb(torch.tensor(query), torch.tensor(key), cosine, sine)
    for x, rotated in zip((query, key), expected):
        found = numpy(rotary(arguments).rotate(np.swapaxes(x, 1, 2), np.arange(T)))
        # Their frequencies and angles are float32, which at position 18 is 1e-6 of an angle.
        np.testing.assert_allclose(np.swapaxes(found, 1, 2), rotated.numpy(), atol=1e-5)
    assert (rope in ("default", "dynamic, not reached")) == np.allclose(
        numpy(rotary(arguments).rotate(np.swapaxes(query, 1, 2), np.arange(T))),
        numpy(rotary({}).rotate(np.swapaxes(query, 1, 2), np.arange(T))),
    )


def test_neighbouring_pairs_are_those_of_gpt_j():
    import torch
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    x, turned = normal(B, T, H, K), 8
    sine, cosine = create_sinusoidal_positions(T, turned)[None].chunk(2, dim=-1)
    expected = apply_rotary_pos_emb(torch.tensor(x[..., :turned]), sine, cosine)
    found = numpy(RotaryEmbedding(rotary_dim=turned, interleaved=True).rotate(x, np.arange(T)))
    np.testing.assert_allclose(found[..., :turned], expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found[..., turned:], x[..., turned:])


@pytest.mark.parametrize("rope", ["default", "yarn"])
def test_a_layer_of_llama_with_its_weights(rope):
    """Grouped queries, no biases, rotary positions and causality at once."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaAttention

    arguments, parameters = ROPE[rope]
    config = llama_config(parameters)
    theirs = LlamaAttention(config, layer_idx=0).eval()
    ours = MultiHeadAttention(H, K, num_key_value_heads=G, use_bias=False, position=rotary(arguments))
    ours.build((None, None, D), (None, None, D))
    kernels = {name: weight.detach().numpy().T for name, weight in theirs.named_parameters()}
    for dense, name in ((ours.query_dense, "q"), (ours.key_dense, "k"), (ours.value_dense, "v")):
        dense.kernel.assign(kernels[f"{name}_proj.weight"].reshape(D, -1, K))
    ours.output_dense.kernel.assign(kernels["o_proj.weight"].reshape(H, K, D))

    x = normal(B, T, D)
    sine, cosine = sines_and_cosines(config)
    unseen = torch.full((T, T), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        expected, weights = theirs(torch.tensor(x), (cosine, sine), unseen)
    output, scores = ours(x, x, use_causal_mask=True, return_attention_scores=True)
    np.testing.assert_allclose(numpy(scores), weights.numpy(), atol=1e-5)
    np.testing.assert_allclose(numpy(output), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("heads", [8, 6])
def test_linear_biases_are_those_of_bloom(heads):
    """Theirs grow with the key alone, which to the softmax is the same: they are compared from the first key on."""
    import torch
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    expected = build_alibi_tensor(torch.ones(1, T, dtype=torch.int64), heads, torch.float32).numpy()
    bias = numpy(AlibiBias().scores(normal(1, T, heads, K), np.arange(T), np.arange(T)))[0]
    seen = np.tri(T, dtype=bool)
    np.testing.assert_allclose(
        (bias - bias[..., :1])[:, seen], np.broadcast_to(expected, bias.shape)[:, seen], atol=1e-5
    )


def test_sinusoids_are_those_of_marian():
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    expected = MarianSinusoidalPositionalEmbedding(T, D).create_weight().numpy()
    found = numpy(PositionalEncoding(interleaved=False)(np.zeros((1, T, D), "float32")))[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
