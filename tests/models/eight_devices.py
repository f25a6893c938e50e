"""A process with eight host devices of JAX: models trained on one and on several, written to the directory argument.

Axes of 4 (heads), 12 (feed-forward) and 20 (vocabulary) are to be split in four, those of 2, 3, 5, 8 and 9 are not.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
from keras.distribution import DataParallel, DeviceMesh, ModelParallel

from keras_transformer.layers import GatedFeedForward, MultiHeadAttention, PositionEmbedding
from keras_transformer.models import (
    CausalLM,
    Classifier,
    CRFTagger,
    Encoder,
    MaskedLM,
    TokenClassifier,
    Transformer,
    layout_map,
)
from keras_transformer.training import LinearCrossEntropy, SmoothedCrossEntropy

SIZE = {"num_layers": 1, "num_heads": 4, "hidden_dim": 8, "intermediate_dim": 12, "dropout": 0.0}
ROWS, BATCH, SOURCE, TARGET = 16, 8, 5, 7
RNG = np.random.default_rng(0)
SOURCES, TARGETS, LABELS = (RNG.integers(4, 20, (ROWS, n)).astype("int32") for n in (SOURCE, TARGET, TARGET))
WEIGHTS = (np.arange(TARGET) < RNG.integers(1, TARGET + 1, ROWS)[:, None]).astype("float32")


def encoder():
    return Encoder(20, **SIZE, max_sequence_length=9, num_segments=2, pooler_activation="tanh")


def translator(loss):
    model = Transformer(20, **SIZE, use_output_bias=True, tie_word_embeddings=False)
    return model, loss, {"encoder_token_ids": SOURCES, "decoder_token_ids": TARGETS}, LABELS


def language_model():
    parts = {
        "position": PositionEmbedding(9),
        "attention": MultiHeadAttention(4, 2, use_gate=True),
        "feed_forward": GatedFeedForward(12),
    }
    return CausalLM(20, **SIZE, **parts), LinearCrossEntropy(), {"token_ids": TARGETS}, LABELS


def tagger():
    return CRFTagger(TokenClassifier(encoder(), 3), 3), None, {"token_ids": TARGETS}, LABELS % 3


def classifier():
    return Classifier(encoder(), 3), SmoothedCrossEntropy(), {"token_ids": TARGETS}, LABELS[:, 0] % 3


CASES = {
    "transformer": lambda: translator(SmoothedCrossEntropy()),
    "transformer_linear": lambda: translator(LinearCrossEntropy(chunk_size=16)),
    "causal_lm": language_model,
    "masked_lm": lambda: (MaskedLM(encoder()), LinearCrossEntropy(), {"token_ids": TARGETS}, LABELS),
    "crf_tagger": tagger,
    "classifier": classifier,
}

# To compile a step for eight devices takes a minute: of the others only where their weights are is looked at.
WAYS = {
    "transformer_linear": ("one", "data", "model"),
    "causal_lm": ("one", "model"),
    "masked_lm": ("one", "model"),
}


def made(make):
    keras.utils.set_random_seed(7)
    model, loss, x, y = make()
    for number, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(number).normal(0, 0.3, weight.shape))
    model.compile(keras.optimizers.SGD(0.5, momentum=0.5), loss)
    model.optimizer.build(model.trainable_variables)
    return model, x, y


def parts_of(model):
    """Of each weight and each slot of the optimizer the shape and that of its part on the first device."""
    variables = (*model.weights, *model.optimizer.variables)
    return [(v.path, tuple(v.shape), v.value.addressable_shards[0].data.shape) for v in variables]


def main(directory, *names):
    mesh = DeviceMesh((2, 4), ("batch", "model"))
    ways = {
        "one": DataParallel(devices=["cpu:0"]),
        "data": DataParallel(),
        "model": ModelParallel(layout_map=layout_map(mesh), batch_dim_name="batch"),
    }
    for name in names or CASES:
        for way in WAYS.get(name, ("model",)):
            with ways[way].scope():
                model, x, y = made(CASES[name])
                if name in WAYS:
                    weights = WEIGHTS if y.ndim == 2 else None
                    model.fit(x, y, sample_weight=weights, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
                arrays = {f"{index:03d}": weight for index, weight in enumerate(model.get_weights())}
                np.savez(Path(directory) / f"{name}-{way}.npz", **arrays)
                (Path(directory) / f"{name}-{way}.json").write_text(json.dumps(parts_of(model)))


if __name__ == "__main__":
    main(*sys.argv[1:])
