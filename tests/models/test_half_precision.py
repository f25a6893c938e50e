"""Training in half precision where numbers are large and most of the batch is padding."""

import keras
import numpy as np
import pytest
from autodiff import weight_gradients
from keras import ops

from keras_transformer.models import Transformer

pytestmark = pytest.mark.integration

LENGTH, REAL, VOCABULARY = 60, 6, 13


@pytest.fixture(params=["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def model(request):
    model = Transformer(VOCABULARY, 1, 3, 12, 17, dtype=request.param)
    model({"encoder_token_ids": np.ones((1, 2)), "decoder_token_ids": np.ones((1, 3))})
    table = next(weight for weight in model.weights if "embedding" in weight.path)
    table.assign(100 * table)
    return model


@pytest.fixture
def batch():
    """Sentences of which 90 % is padding, and one that is all padding: inputs, the next tokens, their weights."""
    rng = np.random.default_rng(0)
    source, target = rng.integers(4, VOCABULARY, (2, LENGTH)), rng.integers(4, VOCABULARY, (2, LENGTH + 1))
    source[:, REAL:] = target[:, REAL + 1 :] = 0
    source[1] = target[1] = 0
    inputs = {
        "encoder_token_ids": source,
        "decoder_token_ids": target[:, :-1],
        "decoder_padding_mask": target[:, :-1] > 0,
    }
    return inputs, target[:, 1:], (target[:, 1:] > 0).astype("float32")


def test_gradients_of_every_weight_are_finite(model, batch):
    inputs, target, weight = batch

    def loss():
        logits = ops.cast(model(inputs, training=True), "float32")
        assert tuple(logits.shape) == (*target.shape, VOCABULARY)
        entropy = keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)
        return ops.sum(entropy * ops.convert_to_tensor(weight)) / weight.sum()

    assert 100 < float(ops.convert_to_numpy(loss())) < 1000
    weights = model.trainable_weights
    for variable, gradient in zip(weights, weight_gradients(weights, loss)):
        assert np.isfinite(gradient).all(), variable.path


@pytest.mark.slow
def test_fit_scales_the_loss_down_until_it_learns(model, batch):
    inputs, target, weight = batch
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    before = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    # Times the first scale, 2^15, gradients may leave float16; the optimizer then skips a step and halves the scale.
    history = model.fit(inputs, target, sample_weight=weight, epochs=6, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()
    assert int(ops.convert_to_numpy(optimizer.iterations)) >= 1
    after = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    assert all(np.isfinite(w).all() for w in after)
    changed = [w.path for w, a, b in zip(model.trainable_weights, after, before) if (a != b).any()]
    # Where all tokens but one are out of reach, attention is sure of itself, and queries and keys have no gradient.
    assert {w.path for w in model.trainable_weights} - set(changed) <= {
        w.path for w in model.trainable_weights if "/query/" in w.path or "/key/" in w.path
    }
