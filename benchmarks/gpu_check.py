"""Does this library train and export on your GPU with TensorFlow? One command, and a report to paste into an issue.

    python benchmarks/gpu_check.py

It fits an encoder-decoder Transformer on a synthetic task (to write a sequence backwards) in float32, mixed_float16 and
mixed_bfloat16, with the fused loss and with logits, without XLA and with it. Of each it reports real target tokens a
second, the seconds of the first update, the peak of the device's memory, the last loss and its greatest distance to the
first row's, update by update; then how far the logits of an exported and reloaded SavedModel are from the model's.

Without a GPU it takes small sizes and reports no memory: to see that the command works.
"""

import argparse
import importlib.metadata
import os
import platform
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from translation_control import cpu_model

from keras_transformer import models, training

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")


def parse_arguments():
    gpus = tf.config.list_physical_devices("GPU")
    sizes = {"updates": 60, "rows": 128, "length": 32, "vocabulary_size": 32_000, "preset": "base"}
    if not gpus:
        sizes = {"updates": 4, "rows": 8, "length": 12, "vocabulary_size": 500, "preset": "tiny"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default=sizes.pop("preset"), choices=("tiny", "base", "big"))
    for name, size in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size, help=f"default here: {size}")
    parser.add_argument("--no-xla", action="store_true", help="leave out the rows with XLA")
    return parser.parse_args(), gpus


class Watch(keras.callbacks.Callback):
    """The loss of each update by itself, and when it was there."""

    def __init__(self):
        super().__init__()
        self.losses, self.times = [], [time.perf_counter()]

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])  # waits for the device
        self.times.append(time.perf_counter())


def made_data(args):
    rng = np.random.default_rng(1)
    source = rng.integers(4, args.vocabulary_size, (args.updates * args.rows, args.length), dtype="int32")
    target = source[:, ::-1]
    start = np.full((len(source), 1), 2, "int32")
    return {"encoder_token_ids": source, "decoder_token_ids": np.hstack([start, target[:, :-1]])}, target


def made_model(args, policy):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    return models.Transformer.from_preset(args.preset, vocabulary_size=args.vocabulary_size, attention_dropout=0.0)


def peak_memory(gpus):
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20 if gpus else None


def train(args, gpus, policy, fused, xla):
    keras.backend.clear_session()
    if gpus:
        tf.config.experimental.reset_memory_stats("GPU:0")
    model = made_model(args, policy)
    optimizer = keras.optimizers.Adam(training.InverseSquareRoot(1e-3, 100, 1e-7), beta_2=0.98, epsilon=1e-8)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    if fused:
        model.compile(optimizer, training.LinearCrossEntropy(0.1), jit_compile=xla)
    else:
        model.compile(optimizer, training.SmoothedCrossEntropy(0.1), jit_compile=xla)
    x, y = made_data(args)
    watch, skipped = Watch(), training.SkippedUpdates()
    model.fit(x, y, batch_size=args.rows, shuffle=False, verbose=0, callbacks=[watch, skipped])
    seconds = np.median(np.diff(watch.times)[1:])
    return model, {
        "tokens": args.rows * args.length / seconds,
        "first": watch.times[1] - watch.times[0],
        "memory": peak_memory(gpus),
        "losses": np.array(watch.losses),
        "skipped": skipped.total,
    }


def difference_of_export(args, model):
    """The greatest distance of logits after a SavedModel's round trip, and the greatest logit."""
    x, _ = made_data(args)
    x = {name: ids[: args.rows] for name, ids in x.items()}
    signature = [{name: keras.InputSpec(shape=(None, None), dtype="int32", name=name) for name in x}]
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, input_signature=signature, verbose=False)
        loaded = tf.saved_model.load(folder)  # its variables live as long as it does
        served = loaded.serve(x)
        logits = model(x, training=False)
        served, logits = (np.asarray(tf.cast(values, "float32")) for values in (served, logits))
    return np.abs(served - logits).max(), np.abs(logits).max()


def main():
    args, gpus = parse_arguments()
    names = ("tensorflow", "keras", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    details = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    build = tf.sysconfig.get_build_info()
    print(f"Python {platform.python_version()}, {platform.platform()}, {versions}, {cpu_model()}")
    print(f"GPUs: {details or 'none'}; CUDA {build.get('cuda_version')}, cuDNN {build.get('cudnn_version')}")
    print(
        f"{args.preset}, {args.vocabulary_size} tokens, batches of {args.rows} x {args.length}, "
        f"{args.updates} updates; {training.matrix_product_speed() / 1e9:.0f} GFLOP/s in a float32 product"
    )
    print("| policy | loss | XLA | tokens/s | first update, s | peak MB | last loss | distance | skipped | export |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    reference, wrong = None, []
    for policy in POLICIES:
        for xla in (False, True)[: 1 if args.no_xla else 2]:
            for fused in (True, False):
                row = f"| {policy} | {'fused' if fused else 'logits'} | {'yes' if xla else 'no'} |"
                try:
                    model, result = train(args, gpus, policy, fused, xla)
                    reference = result["losses"] if reference is None else reference
                    export = "-"
                    if fused and not xla:
                        difference, largest = difference_of_export(args, model)
                        export = f"{difference:.1e} of {largest:.1f}"
                except Exception as error:  # a report says what does not work, and goes on
                    print(f"{row} {type(error).__name__}: {' '.join(str(error).split())[:300]} |", flush=True)
                    wrong.append(row)
                    continue
                distance = np.abs(result["losses"] - reference).max()
                memory = f"{result['memory']:.0f}" if result["memory"] is not None else "-"
                print(
                    f"{row} {result['tokens']:.0f} | {result['first']:.1f} | {memory} | {result['losses'][-1]:.4f} "
                    f"| {distance:.1e} | {result['skipped']} | {export} |",
                    flush=True,
                )
                if not np.isfinite(result["losses"]).all():
                    wrong.append(row)
    print(f"{len(wrong)} rows failed" if wrong else "All rows ran, with finite losses.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
