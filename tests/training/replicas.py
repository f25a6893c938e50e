"""A process with two logical CPUs: models trained by one replica and by two, written to the directory argument."""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_transformer.models import CRFTagger, Encoder, TokenClassifier, Transformer
from keras_transformer.training import CrossEntropy, LinearCrossEntropy, SmoothedCrossEntropy, TokenAccuracy

VOCABULARY, ROWS, BATCH, SOURCE, TARGET, LABELS = 19, 13, 4, 5, 7, 3  # 13 rows: the last batch is one, for two replicas


def pairs():
    rng = np.random.default_rng(1)
    x = {
        "encoder_token_ids": rng.integers(4, VOCABULARY, (ROWS, SOURCE)).astype("int32"),
        "decoder_token_ids": rng.integers(4, VOCABULARY, (ROWS, TARGET)).astype("int32"),
    }
    lengths = rng.integers(1, TARGET + 1, ROWS)  # so replicas have unlike numbers of real tokens
    weights = (np.arange(TARGET) < lengths[:, None]).astype("float32")
    return x, rng.integers(4, VOCABULARY, (ROWS, TARGET)).astype("int32"), weights


def translator(loss):
    model = Transformer(VOCABULARY, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.0)
    metrics = None if isinstance(loss, LinearCrossEntropy) else [CrossEntropy(), TokenAccuracy()]
    model.compile(keras.optimizers.SGD(0.5), loss, weighted_metrics=metrics, jit_compile=False)
    return model, pairs()


def tagger():
    encoder = Encoder(VOCABULARY, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.0)
    model = CRFTagger(TokenClassifier(encoder, LABELS), LABELS)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    x, labels, weights = pairs()
    return model, ({"token_ids": x["decoder_token_ids"]}, labels % LABELS, weights)


def with_dropout():
    model = Transformer(VOCABULARY, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.3)
    model.compile(keras.optimizers.SGD(0.5), SmoothedCrossEntropy(), jit_compile=False)
    return model, pairs()


CASES = {
    "smoothed": lambda: translator(SmoothedCrossEntropy()),
    "linear": lambda: translator(LinearCrossEntropy(chunk_size=8)),
    "constant": lambda: translator(LinearCrossEntropy(tokens_per_batch=11.0)),
    "crf": tagger,
    "dropout": with_dropout,
}


def trained(make, strategy):
    with strategy.scope():
        keras.utils.set_random_seed(7)
        model, (x, y, weights) = make()
        for number, weight in enumerate(model.weights):
            weight.assign(np.random.default_rng(number).normal(0, 0.3, weight.shape))
    history = model.fit(x, y, sample_weight=weights, batch_size=BATCH, shuffle=False, verbose=0).history
    return {**{f"weight-{i:03d}": w for i, w in enumerate(model.get_weights())}, **history}


def refusal_of_accumulation(strategy):
    """What `fit` says to accumulated gradients under two replicas."""
    with strategy.scope():
        model, (x, y, weights) = translator(SmoothedCrossEntropy())
        model.compile(keras.optimizers.SGD(0.5, gradient_accumulation_steps=2), SmoothedCrossEntropy())
    try:
        model.fit(x, y, sample_weight=weights, batch_size=BATCH, verbose=0)
    except ValueError as error:
        return str(error)
    return "not refused"


def main(directory, *names):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in names or CASES:
        for replicas, strategy in {1: tf.distribute.get_strategy(), 2: two}.items():
            np.savez(Path(directory) / f"{name}-{replicas}.npz", **trained(CASES[name], strategy))
    (Path(directory) / "refusal.txt").write_text(refusal_of_accumulation(two))


if __name__ == "__main__":
    main(*sys.argv[1:])
