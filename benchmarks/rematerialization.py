"""What `keras.RematScope` saves and costs: peak memory and time of training steps of encoder blocks.

    python benchmarks/rematerialization.py [--blocks 8] [--rounds 3] [--output DIRECTORY]

Each round is a process with and one without the scope, one after the other, so that each has a peak of its own. Memory
is how far the peak is above what the process held before the first step; time is the median of the steps after the
second.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


def measure(arguments):
    import keras
    import numpy as np

    from keras_transformer.models import Encoder

    with keras.RematScope("full" if arguments.child == "rematerialised" else None):
        model = Encoder(
            1000,
            num_layers=arguments.blocks,
            num_heads=arguments.width // 64,
            hidden_dim=arguments.width,
            intermediate_dim=4 * arguments.width,
            dropout=0.1,
            max_sequence_length=arguments.length,
        )
    model.compile("adam", "mse", jit_compile=False)
    ids = np.random.default_rng(0).integers(1, 1000, (arguments.batch, arguments.length))
    target = np.zeros((*ids.shape, arguments.width), "float32")
    model.optimizer.build(model.trainable_variables)
    before, seconds, processor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [], []
    for _ in range(arguments.steps + 2):
        start = time.perf_counter(), time.process_time()
        loss = float(model.train_on_batch({"token_ids": ids}, target))
        seconds.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "MiB": (peak - before) / 1024,
        "seconds": statistics.median(seconds[2:]),
        "processor seconds": statistics.median(processor[2:]),
        "loss": loss,
        "keras": importlib.metadata.version("keras"),
        "backend": keras.backend.backend(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", choices=["plain", "rematerialised"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return
    rounds: dict = {"plain": [], "rematerialised": []}
    for _ in range(arguments.rounds):
        for way, results in rounds.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--child", way]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    names = ("MiB", "seconds", "processor seconds")
    medians = {way: {n: statistics.median(r[n] for r in rows) for n in names} for way, rows in rounds.items()}
    ratios = {n: medians["rematerialised"][n] / medians["plain"][n] for n in names}
    for name in names:
        plain, less = (medians[way][name] for way in rounds)
        print(f"{name}: plain {plain:.4g}, rematerialised {less:.4g}, ratio {ratios[name]:.3f}")
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        path = arguments.output / f"rematerialization-{datetime.date.today()}.json"
        about = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        options = {n: v for n, v in vars(arguments).items() if n not in ("output", "child")}
        path.write_text(json.dumps({**about, "options": options, "medians": medians, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
