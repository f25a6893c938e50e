"""Half precision against float32: a small Transformer, the same data, seed and updates, and how far the losses part.

    python benchmarks/precision.py
    python benchmarks/precision.py --source train.en.gz --target train.de.gz --vocabulary-size 2000

Without files it learns to read numbers out, English to German, as examples/translation.py does. It trains in float32,
mixed_bfloat16 and mixed_float16, and in mixed_float16 once more with a first loss scale of 2^60, at which gradients
overflow. Printed and written as JSON: the greatest distance of each run's smoothed loss (the mean of 25 updates) to
that of float32, and of a second float32 run with another seed, which is what chance alone does; how many updates were
skipped; and whether all of it is finite. It ends with 1 where a loss is not, or half precision leaves the band.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import num2words
import numpy as np
import tensorflow as tf
from translation_control import cpu_model

from keras_transformer import models, text, training

SMOOTHED = 25  # updates
# By default 0.05 was measured, for both; another seed in float32 is up to 0.25 away.
BAND = 0.1  # nats: greatest distance of the smoothed losses


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="training sentences, one a line, plain or .gz (default: numbers in words)")
    parser.add_argument("--target", help="their translations, line by line")
    parser.add_argument("--vocabulary-size", type=int, default=256)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--batch-tokens", type=int, default=256)
    parser.add_argument("--hidden-dim", type=int, default=32)
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    return parser.parse_args()


def pairs_of(args):
    if args.source:
        return text.read_parallel(args.source, args.target)
    numbers = random.Random(1).sample(range(100_000), 20_000)
    sides = ([num2words.num2words(n, lang=language) for n in numbers] for language in ("en", "de"))
    return tf.data.Dataset.from_tensor_slices(tuple(sides))


class Losses(keras.callbacks.Callback):
    """The loss of each update by itself."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


def train(args, batches, tokenizer, policy, seed=1, first_scale=None):
    """The losses of all updates, how many were skipped, and the last loss scale."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    model = models.Transformer(
        tokenizer.vocabulary_size,
        num_layers=2,
        num_heads=4,
        hidden_dim=args.hidden_dim,
        intermediate_dim=2 * args.hidden_dim,
        dropout=0.1,
        attention_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    optimizer = keras.optimizers.Adam(training.InverseSquareRoot(5e-3, 100, 1e-7), beta_2=0.98, epsilon=1e-8)
    if policy == "mixed_float16":
        scale = {} if first_scale is None else {"initial_scale": first_scale}
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, **scale)
    model.compile(optimizer, training.LinearCrossEntropy(0.1), jit_compile=args.jit)
    losses, skipped = Losses(), training.SkippedUpdates()
    model.fit(batches, steps_per_epoch=args.updates, shuffle=False, verbose=0, callbacks=[losses, skipped])
    finite = all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in model.trainable_variables)
    return {
        "losses": losses.losses,
        "skipped": skipped.total,
        "finite": bool(finite and np.isfinite(losses.losses).all()),
        "last_scale": float(optimizer.dynamic_scale) if policy == "mixed_float16" else None,
    }


def smoothed(losses):
    return np.convolve(losses, np.ones(SMOOTHED) / SMOOTHED, mode="valid")


def main():
    args = parse_arguments()
    pairs = pairs_of(args)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = text.learn_vocabulary(pairs.take(20_000), Path(folder) / "vocabulary.model", args.vocabulary_size)
    examples = text.to_examples(pairs, tokenizer, tokenizer, 64).map(
        lambda source, target: text.shift(source, target, tokenizer.start_token_id, tokenizer.end_token_id)
    )
    lengths = text.choose_lengths(text.length_histogram(examples), 4)

    def batches():
        made = text.batch_by_tokens(examples, args.batch_tokens, lengths, seed=1, pad_token_id=tokenizer.pad_token_id)
        return made.repeat()

    runs = {
        "float32": ("float32", 1, None),
        "float32, seed 2": ("float32", 2, None),
        "mixed_bfloat16": ("mixed_bfloat16", 1, None),
        "mixed_float16": ("mixed_float16", 1, None),
        "mixed_float16, scale 2^60": ("mixed_float16", 1, 2.0**60),
    }
    results = {}
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    print(
        f"{cpu_model()}, {versions}; {args.updates} updates of {args.batch_tokens} tokens, band {BAND} nats", flush=True
    )
    print(f"{'':28}{'distance':>10}{'last loss':>11}{'skipped':>9}{'last scale':>12}{'finite':>8}")
    for name, (policy, seed, scale) in runs.items():
        result = results[name] = train(args, batches(), tokenizer, policy, seed, scale)
        curve, reference = smoothed(result["losses"]), smoothed(results["float32"]["losses"])
        # Skipped updates come first: the run is so many updates behind.
        behind = result["skipped"] if scale else 0
        result["distance"] = float(np.abs(curve[behind:] - reference[: len(curve) - behind]).max())
        last = f"2^{np.log2(result['last_scale']):.0f}" if result["last_scale"] else "-"
        print(
            f"{name:28}{result['distance']:>10.4f}{curve[-1]:>11.4f}{result['skipped']:>9}{last:>12}"
            f"{'yes' if result['finite'] else 'NO':>8}",
            flush=True,
        )
    path = Path(args.output) / f"precision-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"cpu": cpu_model(), "versions": versions, "band": BAND, "arguments": vars(args), "results": results}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)
    held = [name for name in ("mixed_bfloat16", "mixed_float16") if results[name]["distance"] <= BAND]
    return 0 if len(held) == 2 and all(result["finite"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
