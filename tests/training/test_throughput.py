"""Tokens a second by a clock that is set by hand, and floating-point operations counted by hand."""

import csv

import keras
import numpy as np
import pytest

from keras_transformer.models import CausalLM, Classifier, Encoder, Transformer, training_flops
from keras_transformer.training import Throughput, matrix_product_speed, throughput

SECONDS = 0.5  # of each step


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


class Tick(keras.callbacks.Callback):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def on_train_batch_begin(self, batch, logs=None):
        self.clock.now += 7.0 if self.clock.now == 0 else SECONDS  # the first is compiled

    def on_test_begin(self, logs=None):
        self.clock.now += 11.0


def test_real_tokens_a_second(monkeypatch, tmp_path):
    monkeypatch.setattr(throughput, "time", Clock())
    weights = np.ones((10, 5), "float32")
    weights[:, 3:] = 0  # 3 tokens of a row, 6 of a batch
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    x, y = np.ones((10, 5, 2), "float32"), np.ones((10, 5, 1), "float32")
    history = model.fit(
        x, y, sample_weight=weights[..., None], batch_size=2, epochs=2, verbose=0, validation_data=(x, y),
        callbacks=[
            Tick(throughput.time),
            Throughput(lambda x, y, sample_weight: 30.0 * y.shape[0], limit=1000.0),
            keras.callbacks.CSVLogger(tmp_path / "history.csv"),
        ],
    ).history  # fmt: skip
    assert history["tokens_per_second"] == pytest.approx([6 / SECONDS] * 2)
    assert history["share_of_limit"] == pytest.approx([60 / SECONDS / 1000] * 2)
    with open(tmp_path / "history.csv", newline="") as file:
        assert [float(row["tokens_per_second"]) for row in csv.DictReader(file)] == pytest.approx([6 / SECONDS] * 2)


def test_without_weights_all_labels_count():
    assert throughput.real_tokens(np.ones((3, 5))) == 15
    assert throughput.real_tokens({"a": np.ones((3, 5)), "b": np.ones(2)}) == 17


def test_the_limit_is_that_of_a_machine():
    assert 1e8 < matrix_product_speed(seconds=1e-3) < 1e16


def test_limit_is_checked():
    with pytest.raises(ValueError, match="Received: limit=0"):
        Throughput(limit=0)


D, F, V, S, T, B = 6, 11, 23, 7, 5, 3


def test_operations_of_an_encoder_decoder_by_hand():
    model = Transformer(V, num_layers=2, num_heads=2, hidden_dim=D, intermediate_dim=F)
    source = np.ones((B, S), "int32")
    source[0, 4:] = 0
    x = {"encoder_token_ids": source, "decoder_token_ids": np.ones((B, T), "int32")}
    weights = np.ones((B, T), "float32")
    weights[1, 2:] = 0
    sources, targets = B * S - 3, B * T - 3
    encoder = 4 * D * D + 2 * D * F
    decoder = 4 * D * D + 2 * D * D + 2 * D * F  # self-attention, query and output of cross-attention, feed-forward
    by_hand = 2 * encoder * sources + 2 * 2 * D * D * sources + 2 * decoder * targets + V * D * targets
    assert training_flops(model, x, x["decoder_token_ids"], weights) == 6 * by_hand
    mask = np.zeros((B, S), bool)
    mask[:, :2] = True
    masked = training_flops(model, {**x, "encoder_padding_mask": mask}, x["decoder_token_ids"], weights)
    assert masked == 6 * (by_hand - (2 * encoder + 4 * D * D) * (sources - 2 * B))


def test_operations_of_one_stack_by_hand():
    ids = np.ones((B, T), "int32")
    block = 4 * D * D + 2 * D * F
    model = CausalLM(V, num_layers=2, num_heads=2, hidden_dim=D, intermediate_dim=F)
    assert training_flops(model, {"token_ids": ids}, ids) == 6 * B * T * (2 * block + D * V)
    encoder = Encoder(V, num_layers=2, num_heads=2, hidden_dim=D, intermediate_dim=F)
    mask = np.zeros((B, T), bool)
    mask[0] = True
    classifier = Classifier(encoder, 4)
    flops = training_flops(classifier, {"token_ids": ids, "padding_mask": mask}, np.ones(B))
    assert flops == 6 * (T * 2 * block + B * D * 4)
