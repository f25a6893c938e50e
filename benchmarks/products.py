"""The products of a decoding step with their weights, in other forms, in one interleaved run.

    python benchmarks/products.py --rows 1 4

A step of one sentence reads all weights of the decoder once for each token, and there is little else to it. What XLA
for CPUs makes of a product depends on its surroundings: on one core or on all of them, with a copy of the matrix or
without. Each form multiplies the matrices of the base model's six decoder blocks (88 MB in float32) or its table of
32,000 embeddings (66 MB), one after another in a loop that carries them, as a search does. All of them are different
matrices: a single small one would stay in the processor's caches and mislead.

Printed and written as JSON: the median and the least milliseconds of a step. Printed beside them: GB of float32
weights a second, in whatever form they are read.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from translation_control import cpu_model

# of a block: queries, keys, values and output; queries and output to the encoder; the feed-forward network
BLOCK = [(512, 512)] * 6 + [(512, 2048), (2048, 512)]
SETS = {"blocks": BLOCK * 6, "table": [(512, 32_000)]}


def quantized(matrix):
    scale = tf.reduce_max(tf.abs(matrix), axis=0) / 127
    return tf.cast(tf.round(matrix / scale), tf.int8), scale


def int8_product(x, matrix, scale):
    """As Keras's layers in 8 bits: the states in 8 bits too."""
    x_scale = tf.reduce_max(tf.abs(x), axis=1, keepdims=True) / 127 + 1e-7
    product = tf.matmul(tf.cast(tf.round(x / x_scale), tf.int8), matrix, output_type=tf.int32)
    return tf.cast(product, tf.float32) * x_scale * scale


def in_parts(count):
    return (
        lambda matrix: tf.split(matrix, count, axis=1),
        lambda x, *parts: tf.concat([tf.matmul(x, part) for part in parts], axis=1),
    )


def left(parts):
    """Kernels transposed, in so many parts one after another, by the states transposed: `layers/carried_kernels.py`."""

    def product(x, matrix, *bias):
        size, width = matrix.shape
        rows = tf.tile(tf.transpose(x)[None], [parts, 1, 1])
        y = tf.transpose(tf.reshape(tf.matmul(tf.reshape(matrix, [parts, -1, width]), rows), [size, -1]))
        return y + bias[0] if bias else y

    return product


def bias(matrix):
    return tf.fill(matrix.shape[1:], 0.01)


# name: what is carried through the loop for a matrix (K, N), and the product of states (R, K) with it
FORMS = {
    "plain": (lambda w: [w], tf.matmul),
    "with a bias": (lambda w: [w, bias(w)], lambda x, w, b: tf.matmul(x, w) + b),
    "transposed": (lambda w: [tf.transpose(w)], lambda x, w: tf.matmul(x, w, transpose_b=True)),
    "transposed apart": (lambda w: [tf.transpose(w)], lambda x, w: tf.matmul(x, tf.transpose(w))),
    "transposed apart, bias": (
        lambda w: [tf.transpose(w), bias(w)],
        lambda x, w, b: tf.matmul(x, tf.transpose(w)) + b,
    ),
    "transposed apart, bias subtracted": (
        lambda w: [tf.transpose(w), -bias(w)],
        lambda x, w, b: tf.matmul(x, tf.transpose(w)) - b,
    ),
    "on the left": (lambda w: [tf.transpose(w)], left(1)),
    "on the left, bias": (lambda w: [tf.transpose(w), bias(w)], left(1)),
    "on the left, in halves": (lambda w: [tf.transpose(w)], left(2)),
    "on the left, in halves, bias": (lambda w: [tf.transpose(w), bias(w)], left(2)),
    "on the left, in quarters": (lambda w: [tf.transpose(w)], left(4)),
    "in 4 parts": in_parts(4),
    "in 16 parts": in_parts(16),
    "row by row": (
        lambda w: [w],
        lambda x, w: tf.concat([tf.matmul(x[i : i + 1], w) for i in range(x.shape[0])], axis=0),
    ),
    "multiply and sum": (lambda w: [w], lambda x, w: tf.reduce_sum(x[:, :, None] * w, axis=1)),
    "int8": (quantized, int8_product),
    "int8, widened": (quantized, lambda x, w, scale: tf.matmul(x, tf.cast(w, tf.float32)) * scale),
    "bfloat16, widened": (
        lambda w: [tf.cast(w, tf.bfloat16)],
        lambda x, w: tf.matmul(x, tf.cast(w, tf.float32)),
    ),
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4], help="of the states")
    parser.add_argument("--no-xla", action="store_true", help="a plain graph in place of a compiled one")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="of matrices")
    parser.add_argument("--steps", type=int, default=8, help="of the loop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    return parser.parse_args()


def make_job(form, matrices, rows, steps, xla):
    carry, product = FORMS[form]
    carried = [[tf.Variable(part) for part in carry(matrix)] for matrix in matrices]
    width = matrices[0].shape[0]

    @tf.function(jit_compile=xla or None, autograph=False)
    def multiply(x):
        def step(index, x, carried):
            total = x
            for parts in carried:
                y = product(x, *parts)
                x = y if y.shape[1] <= 2048 else x + tf.reduce_max(y, axis=1, keepdims=True)
            return index + 1, total + 1e-3 * x, carried

        values = tf.nest.map_structure(lambda part: part.read_value(), carried)
        return tf.while_loop(lambda index, *_: index < steps, step, (0, x, values))[1]

    x = tf.random.normal((rows, width))
    return lambda: multiply(x).numpy()


def main():
    args = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    jobs = {}
    for name in args.sets:
        matrices = [tf.random.normal(shape, stddev=shape[0] ** -0.5) for shape in SETS[name]]
        for rows in args.rows:
            for form in args.forms:
                if form == "row by row" and rows == 1:
                    continue
                jobs[name, rows, form] = make_job(form, matrices, rows, args.steps, not args.no_xla)
                jobs[name, rows, form]()  # compiles
    times = {job: [] for job in jobs}
    for _ in range(args.rounds):
        for job, multiply in jobs.items():
            began = time.perf_counter()
            multiply()
            times[job].append(1e3 * (time.perf_counter() - began) / args.steps)
    record = {
        "cpu": cpu_model(),
        "threads": args.threads,
        "xla": not args.no_xla,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "rounds": args.rounds,
        "results": [],
    }
    way = "a plain graph" if args.no_xla else "XLA"
    print(f"{record['cpu']}, {args.threads} threads, TensorFlow {record['tensorflow']}, {way}, {args.rounds} rounds")
    for (name, rows, form), ms in times.items():
        size = sum(4 * k * n for k, n in SETS[name])
        result = {"set": name, "rows": rows, "form": form, "ms": statistics.median(ms), "least_ms": min(ms)}
        record["results"].append(result)
        speed = size / result["ms"] / 1e6
        print(
            f"{name:8}{rows:>3} rows  {form:34}{result['ms']:8.2f} ms, least {result['least_ms']:.2f}{speed:8.1f} GB/s"
        )
    path = Path(args.output) / f"products-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
