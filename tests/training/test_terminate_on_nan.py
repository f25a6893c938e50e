"""Where a value that is no number arose: each place that it can arise in, made to be the one."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.models import Transformer
from keras_transformer.training import LinearCrossEntropy, SkippedUpdates, TerminateOnNaN

pytestmark = pytest.mark.integration

ROWS, BATCH, BROKEN = 14, 2, 9  # the row 9 is in step 5 of 7


class Root(keras.layers.Layer):
    def call(self, x):
        return ops.sqrt(x)


class Squares(keras.Model):
    """Squares, outside of any layer, between two layers."""

    def __init__(self):
        super().__init__()
        self.before = keras.layers.Dense(3, kernel_initializer="ones", name="before")
        self.after = keras.layers.Dense(1, name="after")

    def call(self, x):
        return self.after(ops.square(self.before(x)))


def rows(broken):
    x = np.ones((ROWS, 3), "float32")
    x[BROKEN] = broken
    return x


def fit(model, x, optimizer="sgd", epochs=1, y=None, sample_weight=None, every=3, callbacks=(), run_eagerly=True):
    model.compile(optimizer, "mse" if y is None else LinearCrossEntropy(), run_eagerly=run_eagerly, jit_compile=False)
    y = np.ones((ROWS, 1), "float32") if y is None else y
    return model.fit(
        x, y, sample_weight=sample_weight, batch_size=BATCH, shuffle=False, epochs=epochs, verbose=0,
        callbacks=[TerminateOnNaN(every), *callbacks],
    )  # fmt: skip


def arrays(model):
    return [ops.convert_to_numpy(variable) for variable in model.trainable_variables]


def sequential(*layers):
    return keras.Sequential([keras.Input((3,)), *layers])


def dense(name, units=1, **kwargs):
    return keras.layers.Dense(units, kernel_initializer="ones", name=name, **kwargs)


def test_the_data_is_named_and_the_weights_are_those_from_before():
    model, other = (sequential(dense("only")) for _ in range(2))
    x = rows(1.0)
    x[BROKEN, 2] = np.nan
    with pytest.raises(
        FloatingPointError, match=r"The loss is nan at step 5 of epoch 1. It arose in that step in the "
    ):
        fit(model, x)
    other.compile("sgd", "mse", jit_compile=False)
    other.fit(x[:8], np.ones((8, 1), "float32"), batch_size=BATCH, shuffle=False, verbose=0)
    for ours, theirs in zip(arrays(model), arrays(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(FloatingPointError, match=r"the data: inputs is nan at \[1, 2\]. Leave that example out"):
        fit(model, x)


def test_the_first_layer_is_named():
    model = sequential(dense("first"), Root(name="root"), dense("last"))
    with pytest.raises(FloatingPointError, match=r"the output of `\S*root` \(float32\)(, of inputs of at most 15)?\. "):
        fit(model, rows(-5.0), optimizer=keras.optimizers.SGD(0.0))


def test_what_is_between_layers_is_told_apart():
    with pytest.raises(FloatingPointError, match=r"what `squares` itself computes and hands to `\S*after`"):
        fit(Squares(), rows(1e30), optimizer=keras.optimizers.SGD(0.0))


def test_a_gradient_is_named_a_step_later():
    # At 0 a root is finite and its slope is not.
    model = sequential(dense("first"), dense("second", use_bias=False), Root(name="root"))
    with pytest.raises(
        FloatingPointError,
        match=r"The loss is nan at step 6 .*1 step before in the gradient of `\S*second/kernel` "
        r"\(and of 2 weights before it\), of a finite loss. Lower the learning rate",
    ):
        fit(model, rows(0.0), optimizer=keras.optimizers.SGD(0.0))
    assert all(np.isfinite(array).all() for array in arrays(model))


def test_the_end_of_an_epoch_is_looked_at():
    model = sequential(dense("only"), Root(name="root"))
    x = np.ones((BATCH, 3), "float32")
    x[1] = 0.0
    model.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(
        FloatingPointError, match=r"only/kernel` is not finite at the end of epoch 1. It arose in that "
    ):
        model.fit(x, np.ones((BATCH, 1), "float32"), verbose=0, callbacks=[TerminateOnNaN()])


def test_an_update_is_named():
    with pytest.raises(FloatingPointError, match=r"the update of `\S*only/kernel` at a learning rate of 3e\+38"):
        fit(sequential(dense("only")), rows(1.0), optimizer=keras.optimizers.SGD(3e38))


def test_weights_of_before_the_run():
    model = sequential(dense("only"))
    model.layers[0].bias.assign([np.inf])
    with pytest.raises(
        FloatingPointError, match="only/bias` is not finite before step 1 of epoch 1. That was so before"
    ):
        fit(model, rows(1.0))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere Keras builds by a symbolic call")
def test_the_fused_loss_makes_no_logits(monkeypatch):
    model = Transformer(17, num_layers=1, num_heads=1, hidden_dim=5, intermediate_dim=7)
    ids = np.ones((ROWS, 3), "int32")
    monkeypatch.setattr(model, "logits", None)
    for weight in model.decoder_blocks[0].weights:
        weight.assign(weight * 1e30)
    with pytest.raises(FloatingPointError, match=r"`\S*decoder_block_0/\S+` .*Lower the learning rate"):
        fit(model, {"encoder_token_ids": ids, "decoder_token_ids": ids}, y=ids)


def test_a_weight_of_a_token_is_named():
    model = Transformer(17, num_layers=1, num_heads=1, hidden_dim=5, intermediate_dim=7)
    ids, weights = np.ones((ROWS, 3), "int32"), np.ones((ROWS, 3), "float32")
    weights[BROKEN, 2] = np.nan
    with pytest.raises(FloatingPointError, match=r"nan at step 5 .*the data: sample weights is nan at \[1, 2\]"):
        fit(model, {"encoder_token_ids": ids, "decoder_token_ids": ids}, y=ids, sample_weight=weights)


def test_an_overflow_that_loss_scaling_skips_is_counted_and_no_end():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = sequential(dense("first"), dense("last", dtype="float32"))
    finally:
        keras.config.set_dtype_policy("float32")
    # Gradients of about 2 x 3 x 3 overflow at 2^16 / 18 and more: 2^20 is halved 9 times at least, in 14 steps.
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3), initial_scale=2.0**20)
    skipped = SkippedUpdates()
    history = fit(model, rows(1.0), optimizer=optimizer, epochs=2, callbacks=[skipped]).history["skipped_updates"]
    assert history[0] > 0 and sum(history) == skipped.total
    # What is skipped halves the scale, and 2,000 steps without would double it.
    assert float(optimizer.dynamic_scale) == 2.0 ** (20 - skipped.total)
    assert int(optimizer.iterations) == 2 * ROWS // BATCH - skipped.total > 0


def test_accumulated_gradients_are_no_skipped_updates():
    model = sequential(dense("only"))
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=3)
    history = fit(model, rows(1.0), optimizer=optimizer, epochs=2, callbacks=[SkippedUpdates()]).history
    assert history["skipped_updates"] == [0, 0]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="Received: every=0"):
        TerminateOnNaN(0)
