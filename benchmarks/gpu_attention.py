"""One layer of attention on a GPU: this library and Keras on JAX, and PyTorch's kernel, in turns.

    python benchmarks/gpu_attention.py

Causal attention of a sequence to itself, in bfloat16 with weights in float32, forward, and as a step: forward and the
gradients of inputs and weights. All have the same weights, and what they return is compared before anything is timed.

ours            `MultiHeadAttention`, jitted; the layer chooses the kernel
Keras           `keras.layers.MultiHeadAttention`, jitted, as it comes: `flash_attention=None`
torch           four products and `scaled_dot_product_attention`, which has FlashAttention's kernel

Operations are those of the four projections and of the scores and sums that causality leaves; a step has three times as
many. The peak is the speed of large products in bfloat16, measured in the same process. Memory is what JAX's compiler
sets aside for temporaries and PyTorch's allocator took above its inputs, not the same thing: compare it within a
framework. A contender that cannot do a job, as for want of memory, is left out and named. Without a GPU sizes are
small: to see that the command works.

Printed, and written as JSON: medians over the rounds.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch

from keras_transformer import training
from keras_transformer.layers import MultiHeadAttention

ON_GPU = jax.default_backend() == "gpu"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = ["32x512", "2x16384"] if ON_GPU else ["2x64", "1x256"]
    parser.add_argument("--shapes", nargs="+", default=shapes, help=f"batch x length; default here: {shapes}")
    parser.add_argument("--heads", type=int, default=16 if ON_GPU else 4, help="of 64 channels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    return parser.parse_args()


def operations(batch, length, heads):
    """Of the forward pass."""
    width = 64 * heads
    return batch * (4 * 2 * length * width**2 + 2 * 2 * width * length * (length + 1) // 2)


# Contenders: each returns its two jobs and the memory that these take


def of_keras(layer, weights, x, upstream):
    layer.build(x.shape, x.shape)
    layer.set_weights(weights)
    values = [weight.value for weight in layer.trainable_weights]
    x, upstream = jnp.asarray(x), jnp.asarray(upstream)

    def forward(x, values, upstream):
        return layer.stateless_call(values, [], x, x, use_causal_mask=True)[0]

    def step(x, values, upstream):
        output, gradients = jax.vjp(lambda x, values: forward(x, values, upstream), x, values)
        return output, gradients(upstream.astype(output.dtype))

    jobs, memory = {}, {}
    for function in (forward, step):
        compiled = jax.jit(function).lower(x, values, upstream).compile()
        name = function.__name__
        jobs[name] = lambda compiled=compiled: jax.block_until_ready(compiled(x, values, upstream))
        analysis = compiled.memory_analysis()
        memory[name] = None if analysis is None else analysis.temp_size_in_bytes / 2**20
    return jobs, memory


def of_torch(weights, x, upstream):
    (batch, length, width), heads = x.shape, weights[0].shape[1]
    x, upstream = (torch.tensor(values, device=DEVICE) for values in (x, upstream))
    query, query_bias, key, key_bias, value, value_bias, output, output_bias = (
        torch.tensor(w, device=DEVICE, requires_grad=True) for w in weights
    )
    leaves = [x.requires_grad_(), query, query_bias, key, key_bias, value, value_bias, output, output_bias]

    def project(x, kernel, bias):
        y = torch.nn.functional.linear(x, kernel.reshape(width, -1).T, bias.reshape(-1))
        return y.reshape(batch, length, heads, -1).transpose(1, 2)

    def attend():
        with torch.autocast(DEVICE, torch.bfloat16):
            projected = [project(x, *pair) for pair in ((query, query_bias), (key, key_bias), (value, value_bias))]
            sums = torch.nn.functional.scaled_dot_product_attention(*projected, is_causal=True)
            sums = sums.transpose(1, 2).reshape(batch, length, -1)
            return torch.nn.functional.linear(sums, output.reshape(-1, width).T, output_bias)

    def forward():
        with torch.no_grad():
            return synchronized(attend())

    def step():
        y = attend()
        return synchronized((y.detach(), torch.autograd.grad(y, leaves, upstream.to(y.dtype))))

    memory = {}
    for job in (forward, step):
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        job()
        memory[job.__name__] = (torch.cuda.max_memory_allocated() - before) / 2**20 if DEVICE == "cuda" else None
    return {"forward": forward, "step": step}, memory


def synchronized(result):
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return result


def made(batch, length, heads):
    """The contenders, with the same weights and inputs."""
    rng, width = np.random.default_rng(1), 64 * heads
    x, upstream = (rng.normal(size=(batch, length, width)).astype("float32") for _ in range(2))
    shapes = [(width, heads, 64), (heads, 64)] * 3 + [(heads, 64, width), (width,)]
    weights = [rng.normal(0, width**-0.5, shape).astype("float32") for shape in shapes]
    layer = {"num_heads": heads, "key_dim": 64, "dtype": "mixed_bfloat16"}
    return {
        "ours": of_keras(MultiHeadAttention(**layer), weights, x, upstream),
        "Keras": of_keras(keras.layers.MultiHeadAttention(**layer), weights, x, upstream),
        "torch": of_torch(weights, x, upstream),
    }


def works(name, jobs):
    """Whether a contender can do its jobs; says so if not."""
    try:
        for job in jobs.values():
            job()
    except RuntimeError as error:  # of which JAX's and PyTorch's errors of memory are kinds
        print(f"{name} is left out: {str(error).splitlines()[0]}")
        return False
    return True


def as_numpy(x):
    return x.detach().float().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, "float32")


def farthest(contenders):
    """The greatest difference of a contender's output from ours, in parts of the largest number in it."""
    outputs = {name: as_numpy(jobs["forward"]()) for name, (jobs, _) in contenders.items()}
    ours = outputs.pop("ours")
    return max((np.abs(ours - other).max() for other in outputs.values()), default=0.0) / np.abs(ours).max()


def main():
    args = parse_arguments()
    peak = training.matrix_product_speed("bfloat16")
    device = jax.devices()[0].device_kind
    versions = {name: importlib.metadata.version(name) for name in ("jax", "keras", "torch")}
    print(f"{device}, {versions}, {peak / 1e12:.2f} TFLOP/s in large products, {args.rounds} rounds")
    record = {"device": device, "versions": versions, "peak": peak, "rounds": args.rounds, "results": []}
    for shape in args.shapes:
        batch, length = map(int, shape.split("x"))
        contenders = {
            name: (jobs, memory)
            for name, (jobs, memory) in made(batch, length, args.heads).items()
            if name == "ours" or works(name, jobs)
        }
        difference = farthest(contenders)
        print(f"\n{shape}, {args.heads} heads of 64; outputs differ by at most {difference:.1e} of the largest")
        print(f"{'':16}{'ms':>10}{'TFLOP/s':>10}{'of the peak':>13}{'to ours':>9}{'MB':>9}")
        for job in ("forward", "step"):
            times = {name: [] for name in contenders}
            for _ in range(args.rounds):
                for name, (jobs, _) in contenders.items():
                    began = time.perf_counter()
                    jobs[job]()
                    times[name].append(time.perf_counter() - began)
            for name, seconds in times.items():
                middle, memory = statistics.median(seconds), contenders[name][1][job]
                speed = (3 if job == "step" else 1) * operations(batch, length, args.heads) / middle
                to_ours = statistics.median(ours / other for ours, other in zip(times["ours"], seconds))
                result = {"shape": shape, "job": job, "contender": name, "seconds": middle, "flop_per_second": speed}
                result |= {"share_of_peak": speed / peak, "times_as_fast_as_ours": to_ours, "memory_mb": memory}
                record["results"].append(result)
                mb = "-" if memory is None else f"{memory:.0f}"
                print(
                    f"{name + ', ' + job:16}{middle * 1e3:>10.2f}{speed / 1e12:>10.2f}{speed / peak:>13.2f}"
                    f"{to_ours:>9.2f}{mb:>9}"
                )
    path = Path(args.output) / f"gpu_attention-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
