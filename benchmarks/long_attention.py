"""Long sequences: time and memory of a training step of one attention layer against `keras.layers.MultiHeadAttention`.

    python benchmarks/long_attention.py --output benchmarks/results

Batch 1, 8 heads of 64, width 512, float32. Each length and layer is a process of its own. A step is the forward pass
and the gradients of inputs and weights. Memory is the peak of resident memory above what the process has after one
step of length 64: above the frameworks, their compiler and their threads.

The limit is what the step's matrix products take at the speed of one large product, measured in the same process. It is
compared in processor time, which other work on the machine disturbs less than the time on the clock. Keras is left out
where the score matrices of its step, four of `(1, 8, T, T)`, would not fit into free memory. Printed, and written as
JSON and as a picture.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HEADS, HEAD_DIM, WIDTH = 8, 64, 512


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2**n for n in range(10, 16)])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--full", action="store_true", help="all see all, in place of causal attention")
    parser.add_argument("--steps", type=int, default=5, help="most steps to time; the median counts")
    parser.add_argument("--seconds", type=float, default=60, help="no further step is begun after this time")
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated files")
    parser.add_argument("--process", nargs=2, help=argparse.SUPPRESS)  # a contender and a length
    return parser.parse_args()


def ours():
    from keras_transformer.layers import MultiHeadAttention

    return MultiHeadAttention(HEADS, HEAD_DIM, flash_attention=True)


def peers():
    import keras

    return keras.layers.MultiHeadAttention(HEADS, HEAD_DIM)


CONTENDERS = {
    "ours, XLA": (ours, True),
    "ours": (ours, False),
    "Keras, XLA": (peers, True),
    "Keras": (peers, False),
}


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def run(args):
    """The process of one contender: prints a JSON object."""
    import keras
    import tensorflow as tf

    make, xla = CONTENDERS[args.process[0]]
    length = int(args.process[1])
    keras.utils.set_random_seed(1)
    layer = make()
    layer.build((1, None, WIDTH), (1, None, WIDTH))
    weights = [weight.value for weight in layer.trainable_weights]

    @tf.function(jit_compile=xla)
    def step(x, output_gradient):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = layer.call(x, x, use_causal_mask=not args.full)
        return tape.gradient(output, [x, *weights], output_gradients=output_gradient)

    def one_step(x, output_gradient):
        for gradient in step(x, output_gradient):
            gradient.numpy()

    one_step(tf.ones((1, 64, WIDTH)), tf.ones((1, 64, WIDTH)))
    framework = resident_bytes()
    x, output_gradient = (tf.random.normal((1, length, WIDTH)) for _ in range(2))
    began = time.perf_counter()
    (first, _), steps = timed(one_step, x, output_gradient), []
    while len(steps) < args.steps and (not steps or time.perf_counter() - began < args.seconds):
        steps.append(timed(one_step, x, output_gradient))
    seconds, processor_seconds = zip(*steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "seconds": statistics.median(seconds),
                "least": min(seconds),
                "most": max(seconds),
                "steps": len(steps),
                "processor_seconds": statistics.median(processor_seconds),
                "limit_processor_seconds": operations(length, args.full) / product_speed(),
                "first_step_seconds": first,
                "peak_memory_mb": (peak - framework) / 2**20,
                "framework_memory_mb": framework / 2**20,
            }
        )
    )


def timed(function, *arguments):
    """Seconds on the clock, and of the processor by all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - clock, time.process_time() - processor


def product_speed():
    """Floating-point operations a second of processor time, of the product of two large matrices."""
    import tensorflow as tf

    matrix = tf.random.normal((2048, 2048))
    return 2 * 2048**3 / statistics.median(timed(lambda: tf.matmul(matrix, matrix).numpy())[1] for _ in range(20))


def operations(length, full):
    """What the products of a step take that stores no scores: in attention two forward, and five backward."""
    attention = 7 * 2 * length**2 * HEADS * HEAD_DIM
    return (attention if full else attention / 2) + 3 * 4 * 2 * length * WIDTH * HEADS * HEAD_DIM


def free_bytes():
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def fits(name, length):
    return not name.startswith("Keras") or 4 * HEADS * length**2 * 4 < 0.9 * free_bytes()


def plot(record, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, quantity, label in zip(
        axes, ("peak_memory_mb", "processor_seconds"), ("peak memory, MB", "processor time of a training step, s")
    ):
        for name, color in zip(CONTENDERS, ("tab:blue", "tab:cyan", "tab:red", "tab:orange")):
            results = record["results"].get(name, {})
            lengths = sorted(results, key=int)
            axis.loglog(
                [int(n) for n in lengths], [results[n][quantity] for n in lengths], "o-", color=color, label=name
            )
        axis.set(xlabel="length", title=label)
        axis.grid(alpha=0.3)
    measured = [
        [r[str(n)]["limit_processor_seconds"] for r in record["results"].values() if str(n) in r]
        for n in record["lengths"]
    ]
    axes[1].loglog(record["lengths"], [min(times) for times in measured], "k:", label="matrix products alone")
    for axis in axes:
        axis.set_xticks(record["lengths"], [f"{n // 1024}k" for n in record["lengths"]])
        axis.minorticks_off()
    axes[1].legend()
    figure.suptitle(
        f"{'Full' if record['full'] else 'Causal'} attention, batch 1, 8 heads of 64, float32: {record['cpu']}"
    )
    figure.savefig(path, dpi=120)


def main():
    args = parse_arguments()
    if args.process:
        run(args)
        return
    from translation_control import cpu_model

    record = {
        "cpu": cpu_model(),
        "threads": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
        "full": args.full,
        "lengths": args.lengths,
        "results": {name: {} for name in args.contenders},
    }
    print(f"{record['cpu']}, {record['versions']}")
    print(f"{'length':>7}  {'':10}{'step, s':>9}{'processor, s':>14}{'of the limit':>14}{'peak memory, MB':>17}")
    for length in args.lengths:
        for name in args.contenders:
            if not fits(name, length):
                print(f"{length:>7}  {name:10} left out: its scores do not fit into memory", flush=True)
                continue
            command = [sys.executable, __file__, *sys.argv[1:], "--process", name, str(length)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            result["share_of_limit"] = result["limit_processor_seconds"] / result["processor_seconds"]
            record["results"][name][str(length)] = result
            print(
                f"{length:>7}  {name:10}{result['seconds']:>9.2f}{result['processor_seconds']:>14.2f}"
                f"{result['share_of_limit']:>14.2f}"
                f"{result['peak_memory_mb']:>17.0f}",
                flush=True,
            )
    kind = "full" if args.full else "causal"
    path = Path(args.output) / f"long_attention_{kind}-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    plot(record, path.with_suffix(".png"))
    print(path)


if __name__ == "__main__":
    main()
