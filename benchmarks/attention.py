"""Speed of the encoder's block: this library, KerasHub and torch.nn beside the limit, in one interleaved run.

    python benchmarks/attention.py

Six blocks of width 512, 8 heads and feed-forward width 2048 take 16 sequences of 128 positions in float32. Each
contender is a process of its own that waits for its turn; a turn is one job, done twice, of which the second is timed:
while the others took their turns, caches and pages were theirs:

forward         inference, without dropout
training        a step of Adam with dropout 0.1 towards random targets
small           20 times inference of one sequence of 32 positions, as a server does it

limit           no more than the products of matrices in the blocks, of the same shapes, under XLA; for training three
                times as long, since each product has two in its gradient
ours, KerasHub  under XLA; "plain" is `tf.function` without XLA, which is how a SavedModel runs; "eager" is neither
torch           eager, with the fast path of `nn.TransformerEncoder` in inference and the fused Adam
torch.compile   the same, compiled

All keep the memory that they free (`training.keep_freed_memory`).

Printed and written as JSON: medians over the rounds, and medians of each round's ratios to the limit's or another
contender's time in the same round, which other work on the machine disturbs less than the times.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BLOCKS, WIDTH, HEADS, INNER = 6, 512, 8, 2048
BATCH, LENGTH = 16, 128
SMALL, SMALL_CALLS = (1, 32), 20
DROPOUT = 0.1


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="these, and the limit")
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)  # a process of the run
    return parser.parse_args()


def products():
    """Floating-point operations of the forward products of all blocks."""
    tokens = BATCH * LENGTH
    return 2 * BLOCKS * tokens * (4 * WIDTH**2 + 2 * WIDTH * INNER + 2 * LENGTH * WIDTH)


# Contenders: each returns its jobs


def limit(args):
    import tensorflow as tf

    from keras_transformer.training import keep_freed_memory

    keep_freed_memory()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)

    def weight(rows, columns):
        return tf.Variable(tf.random.normal((rows, columns), stddev=rows**-0.5))

    blocks = [
        [weight(WIDTH, WIDTH) for _ in range(4)] + [weight(WIDTH, INNER), weight(INNER, WIDTH)] for _ in range(BLOCKS)
    ]
    inputs = tf.random.normal((BATCH * LENGTH, WIDTH))

    @tf.function(jit_compile=True)
    def multiply(x):
        for query, key, value, output, first, second in blocks:
            q, k, v = (tf.reshape(x @ w, (BATCH * HEADS, LENGTH, WIDTH // HEADS)) for w in (query, key, value))
            heads = tf.matmul(tf.matmul(q, k, transpose_b=True), v)
            x = tf.reshape(heads, (BATCH * LENGTH, WIDTH)) @ output
            x = (x @ first) @ second
        return x

    return {"forward": lambda: multiply(inputs).numpy()}


def keras_blocks(args, ours, mode):
    import keras
    import tensorflow as tf

    from keras_transformer.training import keep_freed_memory

    keep_freed_memory()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    keras.utils.set_random_seed(1)
    if ours:
        from keras_transformer.layers import EncoderBlock as Block
    else:
        from keras_hub.layers import TransformerEncoder as Block
    blocks = [Block(INNER, HEADS, dropout=DROPOUT) for _ in range(BLOCKS)]
    inputs, targets = tf.random.normal((2, BATCH, LENGTH, WIDTH))
    small = tf.random.normal((*SMALL, WIDTH))

    def apply(x, training):
        for block in blocks:
            x = block(x, training=training)
        return x

    apply(inputs, training=False)
    variables = [variable for block in blocks for variable in block.trainable_variables]
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(variables)

    def train():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(apply(inputs, training=True) - targets))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def infer(x):
        return apply(x, training=False)

    if mode != "eager":
        train, infer = (tf.function(f, jit_compile=mode == "xla") for f in (train, infer))
    return {
        "forward": lambda: infer(inputs).numpy(),
        "training": lambda: train().numpy(),
        "small": lambda: [infer(small).numpy() for _ in range(SMALL_CALLS)],
    }


def torch_blocks(args, compiled):
    import torch
    from torch import nn
    from translation_control import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    def encoder():
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, dropout=DROPOUT, batch_first=True)
        return nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)

    inference, trained = encoder().eval(), encoder().train()
    optimizer = torch.optim.Adam(trained.parameters(), 1e-4, fused=True)
    if compiled:
        inference, trained = torch.compile(inference), torch.compile(trained)
    inputs, targets = torch.randn(2, BATCH, LENGTH, WIDTH)
    small = torch.randn(*SMALL, WIDTH)

    def infer(x):
        with torch.inference_mode():
            return inference(x)

    def train():
        optimizer.zero_grad(set_to_none=True)
        loss = (trained(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return {
        "forward": lambda: infer(inputs),
        "training": train,
        "small": lambda: [infer(small) for _ in range(SMALL_CALLS)],
    }


CONTENDERS = {
    "limit": limit,
    "ours": lambda args: keras_blocks(args, ours=True, mode="xla"),
    "KerasHub": lambda args: keras_blocks(args, ours=False, mode="xla"),
    "torch": lambda args: torch_blocks(args, compiled=False),
    "torch.compile": lambda args: torch_blocks(args, compiled=True),
    "ours, plain": lambda args: keras_blocks(args, ours=True, mode="plain"),
    "KerasHub, plain": lambda args: keras_blocks(args, ours=False, mode="plain"),
    "ours, eager": lambda args: keras_blocks(args, ours=True, mode="eager"),
    "KerasHub, eager": lambda args: keras_blocks(args, ours=False, mode="eager"),
}


def take_turns(jobs):
    """A contender's end of the pipe: reads the name of a job, does it twice, says how long the second took."""
    for _ in range(2):  # the first call compiles, the second finds memory at its place
        for job in jobs.values():
            job()
    print(json.dumps(list(jobs)), flush=True)
    for line in sys.stdin:
        job = jobs[line.strip()]
        job()
        began, cpu_began = time.perf_counter(), time.process_time()
        job()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}), flush=True)


class Contender:
    """A process that does a job when it is told to."""

    def __init__(self, name, arguments):
        command = [sys.executable, __file__, *arguments, "--contender", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = name
        self.times = {job: [] for job in self._read()}
        self.cpu_times = {job: [] for job in self.times}

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def do(self, job):
        print(job, file=self.process.stdin, flush=True)
        result = self._read()
        self.times[job].append(result["seconds"])
        self.cpu_times[job].append(result["cpu_seconds"])


def ratio(times, others):
    """The median over the rounds of how many times as long the others took."""
    return statistics.median(other / time for time, other in zip(times, others))


def summarize(contenders):
    """Per contender and job: seconds, and the ratios `table` prints."""
    times = {c.name: c.times for c in contenders}
    results = {}
    for contender in contenders:
        results[contender.name] = {}
        for job, seconds in contender.times.items():
            result = {
                "seconds": statistics.median(seconds),
                "least": min(seconds),
                "most": max(seconds),
                "cpu_seconds": statistics.median(contender.cpu_times[job]),
            }
            if job in ("forward", "training"):
                part = 3 if job == "training" else 1
                result["flop_per_second"] = part * products() / result["seconds"]
                result["share_of_limit"] = part * ratio(seconds, times["limit"]["forward"])
            _, _, how = contender.name.partition(", ")
            rivals = ["KerasHub, " + how] if how else ["KerasHub", "torch", "torch.compile"]
            against = [ratio(seconds, times[name][job]) for name in rivals if name in times and job in times[name]]
            if contender.name.startswith("ours") and against:
                result["times_as_fast_as_best_rival"] = min(against)
            results[contender.name][job] = result
    return results


def table(job, results, names):
    names = [name for name in names if job in results.get(name, {})]
    if not names:
        return
    print(f"\n{job:16}{'ms':>9}{'GFLOP/s':>10}{'of the limit':>14}{'to the best rival':>19}")
    for name in names:
        result = results[name][job]
        speed = f"{result['flop_per_second'] / 1e9:.0f}" if "flop_per_second" in result else ""
        share = f"{result['share_of_limit']:.2f}" if "share_of_limit" in result else ""
        lead = f"{result['times_as_fast_as_best_rival']:.2f}" if "times_as_fast_as_best_rival" in result else ""
        print(f"{name:16}{result['seconds'] * 1e3:>9.1f}{speed:>10}{share:>14}{lead:>19}")


def main():
    args = parse_arguments()
    if args.contender:
        take_turns(CONTENDERS[args.contender](args))
        return
    from translation_control import cpu_model

    contenders = []
    for name in dict.fromkeys(["limit", *args.only]):
        print(f"{name}: starting", flush=True)
        contenders.append(Contender(name, sys.argv[1:]))
    for number in range(args.rounds):
        print(f"\rround {number + 1} of {args.rounds}", end="", flush=True)
        for job in ("forward", "training", "small"):
            for contender in contenders:
                if job in contender.times:
                    contender.do(job)
    results = summarize(contenders)
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "keras-hub", "torch")}
    print(f"\n{cpu_model()}, {args.threads} threads, {versions}, {args.rounds} rounds")
    under_xla = ["limit", "ours", "KerasHub", "torch", "torch.compile"]
    without = ["ours, plain", "KerasHub, plain", "ours, eager", "KerasHub, eager"]
    for names in (under_xla, without):
        for job in ("forward", "training", "small"):
            table(job, results, names)
    path = Path(args.output) / f"attention-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"cpu": cpu_model(), "threads": args.threads, "versions": versions, "rounds": args.rounds}
    path.write_text(json.dumps(record | {"results": results}, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
