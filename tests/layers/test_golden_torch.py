"""The blocks against `torch.nn.Transformer`: outputs and gradients that were computed once and stored."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer.layers import DecoderBlock, EncoderBlock

TESTS = Path(__file__).parents[1]
PLACES = (TESTS / "golden", TESTS.parents[1] / "shared" / "golden")
HEADS, LAYERS = 4, 2


class Stacks(keras.layers.Layer):
    """Encoder and decoder as PyTorch has them, that is with a layer normalisation after each also in post-norm."""

    def __init__(self, width, **block):
        super().__init__()
        self.encoder = [EncoderBlock(**block) for _ in range(LAYERS)]
        self.encoder_norm = keras.layers.LayerNormalization(epsilon=1e-5)
        self.decoder = [DecoderBlock(**block) for _ in range(LAYERS)]
        self.decoder_norm = keras.layers.LayerNormalization(epsilon=1e-5)
        states = (None, None, width)
        for layer in (*self.encoder, self.encoder_norm, self.decoder_norm):
            layer.build(states)
        for layer in self.decoder:
            layer.build(states, states)
        self.built = True

    def call(self, source, target, source_mask, target_mask):
        for block in self.encoder:
            source = block(source, padding_mask=source_mask)
        source = self.encoder_norm(source)
        for block in self.decoder:
            target = block(target, source, decoder_padding_mask=target_mask, encoder_padding_mask=source_mask)
        return source, self.decoder_norm(target)


def attention_arrays(file, name):
    """Kernels and biases in Keras's shapes; rows of PyTorch's matrices are outputs, a head's rows side by side."""
    width = file[f"{name}.out_proj.bias"].shape[0]
    arrays = []
    for matrix, bias in zip(np.split(file[f"{name}.in_proj_weight"], 3), np.split(file[f"{name}.in_proj_bias"], 3)):
        arrays += [matrix.T.reshape(width, HEADS, -1), bias.reshape(HEADS, -1)]
    return [*arrays, file[f"{name}.out_proj.weight"].T.reshape(HEADS, -1, width), file[f"{name}.out_proj.bias"]]


def keras_arrays(file):
    """The arrays of `Stacks.weights`, in that order."""

    def norm(name):
        return [file[f"{name}.weight"], file[f"{name}.bias"]]

    def dense(name):
        return [file[f"{name}.weight"].T, file[f"{name}.bias"]]

    arrays = []
    for layer in (f"encoder.layers.{i}" for i in range(LAYERS)):
        arrays += attention_arrays(file, f"{layer}.self_attn") + norm(f"{layer}.norm1") + norm(f"{layer}.norm2")
        arrays += dense(f"{layer}.linear1") + dense(f"{layer}.linear2")
    arrays += norm("encoder.norm")
    for layer in (f"decoder.layers.{i}" for i in range(LAYERS)):
        arrays += attention_arrays(file, f"{layer}.self_attn") + norm(f"{layer}.norm1")
        arrays += attention_arrays(file, f"{layer}.multihead_attn") + norm(f"{layer}.norm2")
        arrays += dense(f"{layer}.linear1") + dense(f"{layer}.linear2") + norm(f"{layer}.norm3")
    return arrays + norm("decoder.norm")


@pytest.fixture(scope="module", params=["post_relu", "pre_gelu"])
def golden(request):
    """The file by its first path component, the model with the file's weights, and its inputs."""
    paths = [place / f"transformer_torch_{request.param}.npz" for place in PLACES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        pytest.skip(f"the golden arrays are in none of {', '.join(map(str, paths))}")
    file = {"w": {}, "in": {}, "out": {}, "grad": {}}
    with np.load(path) as arrays:
        meta = json.loads(str(arrays["meta"]))
        for key in arrays.files:
            kind, _, name = key.partition("/")
            if name:
                file[kind][name] = arrays[key]
    config = meta["config"]
    assert (config["nhead"], config["num_encoder_layers"]) == (HEADS, LAYERS)
    model = Stacks(
        config["d_model"],
        intermediate_dim=config["dim_feedforward"],
        num_heads=HEADS,
        activation=config["activation"],
        normalize_first=config["norm_first"],
        layer_norm_epsilon=1e-5,
    )
    model.set_weights(keras_arrays(file["w"]))
    inputs = (file["in"]["src"], file["in"]["tgt"], ~file["in"]["src_pad"], ~file["in"]["tgt_pad"])
    return file, meta["noise"], model, inputs


def test_outputs_equal(golden):
    file, noise, model, inputs = golden
    source, target = (ops.convert_to_numpy(x) for x in model(*inputs))
    # Ten times the float32 noise of the reference itself; padded positions hold no result.
    for name, found, real in (("encoder", source, inputs[2]), ("decoder", target, inputs[3])):
        np.testing.assert_allclose(found[real], file["out"][name][real], rtol=0, atol=10 * noise[name])
    assert 0 < inputs[2].mean() < 1 and 0 < inputs[3].mean() < 1


def test_the_first_attention_equals(golden):
    file, noise, model, (source, _, source_mask, _) = golden
    layer = EncoderBlock(64, HEADS)
    layer.build(source.shape)
    layer.set_weights(model.encoder[0].get_weights())
    _, scores = layer(source, padding_mask=source_mask, return_attention_scores=True)
    expected = file["out"]["mha_enc0_weights"]
    np.testing.assert_allclose(ops.convert_to_numpy(scores), expected, rtol=0, atol=10 * noise["encoder"])


def test_gradients_equal(golden):
    file, _, model, inputs = golden
    real = inputs[3]
    counted = ops.convert_to_tensor(real[..., None].astype("float32"))

    def loss(*weights):
        (_, target), _ = model.stateless_call(weights, [], *inputs)
        return ops.sum(ops.square(target) * counted) / int(real.sum())

    weights = keras_arrays(file["w"])
    found = ops.convert_to_numpy(loss(*map(ops.convert_to_tensor, weights)))
    np.testing.assert_allclose(found, file["out"]["loss"], rtol=1e-6)
    expected = keras_arrays(file["grad"])
    assert len(expected) == len(model.trainable_variables) == 88
    for variable, mine, theirs in zip(model.trainable_variables, gradients(loss, *weights), expected):
        # float32, through 4 blocks and back: measured against the largest entry of each array. A bias of keys has a
        # gradient of zero, softmax being blind to what all scores share, and what is left of it is rounding.
        scale = max(np.abs(theirs).max(), 1e-2)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-5 * scale, err_msg=variable.path)
