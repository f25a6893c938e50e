"""The vocabulary's end: time and memory of `training.linear_cross_entropy` against Keras's loss on logits.

    python benchmarks/vocabulary_end.py --output benchmarks/results
    python benchmarks/vocabulary_end.py --jit --dtype float16 --tokens 1024

A step is the product of states `(tokens, width)` with a table `(vocabulary, width)`, the mean cross-entropy, and the
gradients of both. Keras's end is `SparseCategoricalCrossentropy(from_logits=True)`. Each is a process of its own, and
they take turns; the median of the rounds counts. Memory is the peak of resident memory above what the process has
after one step of 16 tokens and a small table: above the frameworks, their compiler, and above states and table. With
`--dtype float16` the table is float32 and cast, as with the policy mixed_float16. Written as JSON.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import sys
from pathlib import Path

from turns import Turns, resident_memory, take_turns

CONTENDERS = ("ours", "Keras")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocabulary-size", type=int, default=37_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the products"
    )
    parser.add_argument("--chunk-size", type=int, help="tokens of a chunk (default: that of the loss)")
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)  # a process of the run
    return parser.parse_args()


def run(args):
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_transformer import training

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    ours = training.LinearCrossEntropy(0.0, **({"chunk_size": args.chunk_size} if args.chunk_size else {}))
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss_of(states, table, labels):
        if args.contender == "ours":
            return ours.of_states(states, table, labels)[0]
        return keras_loss(labels, tf.matmul(states, tf.cast(table, states.dtype), transpose_b=True))

    def make_step():
        @tf.function(jit_compile=args.jit)
        def step(states, table, labels):
            with tf.GradientTape() as tape:
                tape.watch([states, table])
                loss = loss_of(states, table, labels)
            return loss, tape.gradient(loss, [states, table])

        return step

    def inputs(tokens, vocabulary_size):
        rng = np.random.default_rng(1)
        states = tf.constant(rng.normal(size=(tokens, args.width)), args.dtype)
        table = tf.constant(rng.normal(0, args.width**-0.5, (vocabulary_size, args.width)), tf.float32)
        return states, table, tf.constant(rng.integers(0, vocabulary_size, tokens), tf.int32)

    make_step()(*inputs(16, 64))
    given = inputs(args.tokens, args.vocabulary_size)
    turns, step = Turns(args.steps, resident_memory()), make_step()
    for number in range(sys.maxsize):
        loss, gradients = step(*given)
        loss = float(loss)
        del gradients
        if number:
            turns.after_update(args.tokens)
        else:
            turns.after_first_update(loss=loss)


def main():
    args = parse_arguments()
    if args.contender:
        run(args)
        return
    from translation_control import cpu_model

    contenders = take_turns(__file__, CONTENDERS, sys.argv[1:], args.rounds)
    results = {c.name: {**c.result(), "loss": c.first["loss"]} for c in contenders}
    mine, theirs = (results[name] for name in CONTENDERS)
    ratios = {
        "time": theirs["per_second"] / mine["per_second"],
        "processor_time": theirs["per_processor_second"] / mine["per_processor_second"],
        "peak_memory": mine["peak_memory_mb"] / theirs["peak_memory_mb"],
    }
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    print(f"\n{cpu_model()}, {args.threads} threads, {versions}")
    print(f"{args.tokens} tokens x {args.vocabulary_size}, width {args.width}, {args.dtype}, XLA: {args.jit}")
    for name, result in results.items():
        seconds, of_processor = (args.tokens / result[rate] for rate in ("per_second", "per_processor_second"))
        print(
            f"{name:6}{seconds:>8.2f} s a step{of_processor:>8.2f} s of the processor"
            f"{result['peak_memory_mb']:>8.0f} MB, loss {result['loss']:.6f}"
        )
    print("ours to Keras's: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
    compiled = "-xla" if args.jit else ""
    path = Path(args.output) / f"vocabulary_end-{args.dtype}{compiled}-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"cpu": cpu_model(), "versions": versions, **vars(args), "results": results, "ratios": ratios}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
