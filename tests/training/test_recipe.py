"""The rest of a recipe is Keras's: accumulation, clipping and averages of weights, with the models and losses here."""

import keras
import numpy as np
import pytest

from keras_transformer.models import CausalLM
from keras_transformer.training import LinearCrossEntropy, SmoothedCrossEntropy

ROWS, LENGTH, VOCABULARY = 32, 5, 11
RNG = np.random.default_rng(0)
X, Y = (RNG.integers(1, VOCABULARY, (ROWS, LENGTH)).astype("int32") for _ in range(2))
# A sorted pipeline: the first batch of 8 rows has 8 real tokens, the last 40.
WEIGHTS = (np.arange(LENGTH) < np.repeat([1, 2, 3, 5], 8)[:, None]).astype("float32")
TOKENS = float(WEIGHTS.sum())


def model_of(loss, optimizer, dtype="float32", **arguments):
    model = CausalLM(
        VOCABULARY, 1, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.0, dtype=dtype, **arguments
    )
    for number, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(number).normal(0, 0.3, weight.shape))
    model.compile(optimizer, loss, jit_compile=False)
    return model


def fitted(model, batch_size, epochs=1, **arguments):
    before = model.get_weights()
    model.fit(
        {"token_ids": X}, Y, sample_weight=WEIGHTS, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0,
        **arguments,
    )  # fmt: skip
    return before, model.get_weights()


@pytest.mark.integration
@pytest.mark.parametrize(
    "loss, dtype",
    [
        (SmoothedCrossEntropy, "float32"),
        (LinearCrossEntropy, "mixed_float16"),
        pytest.param(SmoothedCrossEntropy, "mixed_float16", marks=pytest.mark.slow),
        pytest.param(LinearCrossEntropy, "float32", marks=pytest.mark.slow),
    ],
)
def test_four_batches_of_8_are_one_of_32(loss, dtype):
    def accumulated(loss):
        return fitted(model_of(loss, keras.optimizers.SGD(0.3, gradient_accumulation_steps=4), dtype), 8)

    before, expected = fitted(model_of(loss(), keras.optimizers.SGD(0.3), dtype), 32)
    _, found = accumulated(loss(tokens_per_batch=TOKENS / 4))
    _, of_batch_means = accumulated(loss())
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    moved, off = (
        max(np.abs(a - b).max() for a, b in zip(expected, others)) for others in (before, of_batch_means)
    )  # what a mean a batch gives is another update: Keras's accumulation by itself is not the large batch
    assert moved > 1e-2 and off > 1e-3


def test_a_constant_count_divides_the_sum():
    logits = RNG.normal(size=(ROWS, LENGTH, VOCABULARY)).astype("float32")
    mean = float(SmoothedCrossEntropy()(Y, logits, WEIGHTS))
    found = float(SmoothedCrossEntropy(tokens_per_batch=50)(Y, logits, WEIGHTS))
    np.testing.assert_allclose(found, mean * TOKENS / 50, rtol=1e-6)
    loss = LinearCrossEntropy(tokens_per_batch=50)
    assert loss.get_config()["tokens_per_batch"] == 50
    assert keras.losses.deserialize(keras.losses.serialize(loss)).tokens_per_batch == 50


def test_a_mask_of_keras_counts_as_weights():
    """A user's own model, whose logits carry the mask of `Embedding(mask_zero=True)`."""
    logits = keras.layers.Embedding(VOCABULARY, VOCABULARY, mask_zero=True)((X * WEIGHTS).astype("int32"))
    found = float(keras.ops.convert_to_numpy(SmoothedCrossEntropy()(Y, logits)))
    expected = float(SmoothedCrossEntropy()(Y, keras.ops.convert_to_numpy(logits), WEIGHTS))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(found - float(SmoothedCrossEntropy()(Y, keras.ops.convert_to_numpy(logits)))) > 1e-5


@pytest.mark.parametrize("tokens", [0, -1, "many"])
def test_the_constant_is_a_positive_number(tokens):
    with pytest.raises(ValueError, match=f"tokens_per_batch={tokens!r}"):
        SmoothedCrossEntropy(tokens_per_batch=tokens)


def test_the_constant_is_for_a_mean():
    with pytest.raises(ValueError, match="tokens_per_batch=7, reduction='sum'"):
        SmoothedCrossEntropy(reduction="sum", tokens_per_batch=7)


@pytest.mark.integration
def test_the_gradient_is_clipped_by_its_norm_over_all_weights():
    def updates(clip):
        before, after = fitted(model_of(LinearCrossEntropy(), keras.optimizers.SGD(1.0, global_clipnorm=clip)), ROWS)
        return [a - b for a, b in zip(after, before, strict=True)]

    whole, clipped = updates(None), updates(0.05)
    norm = np.sqrt(sum((u.astype("float64") ** 2).sum() for u in whole))
    assert norm > 0.1
    for mine, theirs in zip(clipped, whole, strict=True):
        np.testing.assert_allclose(mine, theirs * 0.05 / norm, rtol=1e-3, atol=1e-7)  # differences of weights of 0.3


@pytest.mark.integration
@pytest.mark.parametrize("swap", [False, True])
def test_averages_of_weights_are_keras_own(swap):
    class Recorder(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.after_steps, self.after_epoch = [], None

        def on_train_batch_end(self, batch, logs=None):
            self.after_steps.append(self.model.get_weights())

        def on_epoch_end(self, epoch, logs=None):
            self.after_epoch = self.model.get_weights()

    if keras.backend.backend() == "jax":
        pytest.skip("on JAX a callback does not see the weights of each step")
    recorder = Recorder()
    model = model_of(LinearCrossEntropy(), keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.7))
    swaps = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if swap else []
    _, final = fitted(model, 8, callbacks=[*swaps, recorder])
    steps = recorder.after_steps
    assert len(steps) == 4
    for index, weight in enumerate(final):
        expected = steps[0][index]
        for step in steps[1:]:
            expected = 0.7 * expected + 0.3 * step[index]
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(recorder.after_epoch[index], weight if swap else steps[-1][index])
