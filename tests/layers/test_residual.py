"""Residual wirings, and what is done to the branch: stochastic depth and LayerScale."""

import keras
import numpy as np
import parts_numpy
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer.layers import (
    DecoderBlock,
    EncoderBlock,
    LayerScale,
    PostNorm,
    PreNorm,
    Residual,
    SandwichNorm,
    StochasticDepth,
)

B, T, S, H, F, D = 3, 5, 7, 2, 17, 13
TOLERANCE = 2e-5  # float32 against float64 through two sublayers


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def random(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


def encoder(**kwargs):
    layer = EncoderBlock(F, H, **kwargs)
    layer.build((None, None, D))
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(0, w.shape[0] ** -0.5, w.shape) for w in layer.get_weights()])
    return layer


def float64(arrays):
    return [np.asarray(array, "float64") for array in arrays]


@pytest.mark.parametrize("normalize_first, residual", [(False, PostNorm()), (True, PreNorm())])
def test_none_is_the_wiring_of_normalize_first(normalize_first, residual):
    x = random(B, T, D)
    expected = numpy(encoder(normalize_first=normalize_first)(x))
    np.testing.assert_array_equal(numpy(encoder(residual=residual)(x)), expected)
    assert encoder(residual=residual).output_is_normalized is not normalize_first


def test_sandwich_equals_the_paper():
    layer, x = encoder(residual=SandwichNorm()), random(B, T, D)
    expected = parts_numpy.sandwich_encoder_block(x.astype("float64"), float64(layer.get_weights()))
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=TOLERANCE)


def test_layer_scale_is_the_last_thing_on_the_branch():
    layer, x = encoder(residual=SandwichNorm(LayerScale(0.1))), random(B, T, D)
    weights = float64(layer.get_weights())
    scales = weights.pop(12), weights.pop(16)
    expected = parts_numpy.sandwich_encoder_block(x.astype("float64"), weights, scales)
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=TOLERANCE)


def test_layer_scale_starts_at_its_value():
    layer, x = LayerScale(0.25), random(B, T, D)
    np.testing.assert_allclose(numpy(layer(x)), x / 4, rtol=1e-6)
    assert LayerScale.from_config(layer.get_config()).initial_value == 0.25
    layer.set_weights([np.arange(D)])
    np.testing.assert_allclose(numpy(layer(x)), x * np.arange(D), rtol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class Halved(Residual):
    """A wiring of a user's own, without a normalisation."""

    norms = ()

    def __call__(self, x, sublayer, add):
        return add(x, sublayer(x)) / 2


def test_a_wiring_of_ones_own():
    layer, x = encoder(residual=Halved()), random(B, T, D)
    assert len(layer.weights) == 12
    attended = (x + numpy(layer._self_attention_layer(x, x))) / 2
    expected = (attended + numpy(layer._feedforward(attended))) / 2
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=1e-6)
    clone = EncoderBlock.from_config(layer.get_config())
    assert isinstance(clone.residual, Halved) and clone.get_config() == layer.get_config()


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    rate, examples = 0.3, 20_000
    x = np.broadcast_to(random(1, 3, 5) + 2, (examples, 3, 5))
    y = numpy(StochasticDepth(rate, seed=1)(x, training=True))
    dropped = (y == 0).all(axis=(1, 2))
    np.testing.assert_allclose(y, np.where(dropped, 0, 1 / (1 - rate))[:, None, None] * x, rtol=1e-6)
    # Five standard deviations of a binomial share.
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / examples)
    # Neighbours know nothing of each other, nor does the next step.
    assert abs((dropped[1:] & dropped[:-1]).mean() - rate**2) < 5 * np.sqrt(rate**2 / examples)


def test_stochastic_depth_is_new_at_each_step():
    layer, x = StochasticDepth(0.5, seed=1), np.ones((101, 2))
    first, second = numpy(layer(x, training=True)), numpy(layer(x, training=True))
    assert 0.2 < (first != second).mean() < 0.8


def test_stochastic_depth_costs_nothing_in_inference():
    x = ops.convert_to_tensor(random(B, T, D))
    for layer, training in ((StochasticDepth(0.5), False), (StochasticDepth(0.5), None), (StochasticDepth(0), True)):
        assert layer.call(x, training=training) is x


@pytest.mark.parametrize("rate", [1.0, -0.1, 2])
def test_a_rate_that_drops_everything_is_refused(rate):
    with pytest.raises(ValueError, match=f"`rate` must be a probability.*Received: rate={rate}"):
        StochasticDepth(rate)


@pytest.mark.parametrize("wiring", [PostNorm, PreNorm, SandwichNorm])
def test_a_dropped_sublayer_leaves_the_example_as_it_was(wiring):
    x = random(1009, 2, D)
    layer = encoder(residual=wiring(StochasticDepth(0.5)))
    np.testing.assert_array_equal(numpy(layer(x)), numpy(encoder(residual=wiring())(x)))
    y = numpy(layer(x, training=True))
    assert np.isfinite(y).all()
    if wiring is not PostNorm:  # both sublayers dropped: a quarter of the examples
        assert abs((y == x).all(axis=(1, 2)).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / len(x))


def test_a_dropped_sublayer_has_no_gradient():
    layer, x = encoder(residual=PreNorm(StochasticDepth(0.999999))), ops.convert_to_tensor(random(B, T, D))

    def total(*weights):
        y, _ = layer.stateless_call(weights, [v.value for v in layer.non_trainable_variables], x, training=True)
        return ops.sum(y)

    found = gradients(total, *layer.get_weights()[: len(layer.trainable_variables)])
    assert len(found) == 16 and not any(gradient.any() for gradient in found)


def test_each_sublayer_of_each_block_has_clones_of_its_own():
    scale = LayerScale(0.5)
    residual = PreNorm([scale, StochasticDepth(0.1)])
    blocks = [DecoderBlock(F, H, residual=residual) for _ in range(2)]
    for block in blocks:
        block.build((None, None, D), (None, None, D))
    scales = [variable for block in blocks for variable in block.weights if variable.name == "gamma"]
    assert len({id(variable) for variable in scales}) == 2 * (3 + 3) and not scale.built  # of norms and of scales


@pytest.mark.parametrize("wiring", [PostNorm, PreNorm, SandwichNorm])
def test_wirings_are_saved(tmp_path, wiring):
    inputs = keras.Input((T, D))
    block = EncoderBlock(F, H, residual=wiring([LayerScale(0.1), StochasticDepth(0.2)]))
    model = keras.Model(inputs, block(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = loaded.layers[1]
    assert type(again.residual) is wiring and again.get_config() == block.get_config()
    assert [type(layer) for layer in again.residual.branch] == [LayerScale, StochasticDepth]
    x = random(B, T, D)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


def test_errors_name_the_branch():
    with pytest.raises(ValueError, match=r"`branch` must be an object of the class keras.Layer.*Received: branch=0\.1"):
        PreNorm(0.1)
    with pytest.raises(
        ValueError,
        match=r"`residual` must be an object of the class keras_transformer.Residual.*Dense.*SandwichNorm\(\)",
    ):
        EncoderBlock(F, H, residual=keras.layers.Dense(3))
    with pytest.raises(NotImplementedError, match="Residual must define `__call__"):
        encoder(residual=Residual())(random(B, T, D))
