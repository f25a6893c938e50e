"""Predicted, not measured: time and memory of a training step of the paper's base and big on 1, 8 and 64 GPUs.

    python benchmarks/predict.py [--gpus 1 8 64] [--tokens 25000] [--per-gpu]

Prints a table for docs/devices.md. All it rests on is in `Machine` and in the functions below; change a number to see
what it does. The count of weights is compared with that of a small model of this library before anything is printed.
"""

import argparse
from dataclasses import dataclass

from keras_transformer.models import Transformer, preset_config


@dataclass
class Machine:
    """NVIDIA A100 80 GB SXM, from its data sheet, eight of them in a node; the shares are assumptions."""

    peak: float = 312e12  # FLOP/s of dense bfloat16 products
    memory_bandwidth: float = 2.0e12  # bytes/s
    nvlink: float = 300e9  # bytes/s each way, half of the 600 GB/s of both ways
    network: float = 25e9  # bytes/s a GPU: one 200 Gbit/s port each, as in a DGX A100
    link_share: float = 0.7  # of a link's speed that an all-reduce reaches
    gpus_per_node: int = 8


# Share of the peak. Narayanan et al. 2021, table 1, reach 0.44 at width 2,304; narrower layers reach less.
UTILISATION = {"base": 0.25, "big": 0.35}
VOCABULARY, LENGTH = 37_000, 30  # WMT 2014 English-German (Vaswani et al. 2017, section 5.1); tokens of a sentence
CHUNK = 1024  # tokens whose logits live at a time: `LinearCrossEntropy`


def weights_of(vocabulary, layers, width, inner):
    """How many numbers: attention 4 D^2 + 4 D, feed-forward 2 D F + D + F, norm 2 D, one table V D."""
    attention = 4 * width * width + 4 * width
    feed_forward = 2 * width * inner + width + inner
    encoder = attention + feed_forward + 2 * 2 * width
    decoder = 2 * attention + feed_forward + 3 * 2 * width
    return layers * (encoder + decoder) + vocabulary * width


def products_of(vocabulary, layers, width, inner, length):
    """FLOP of a step for one pair of tokens, source and target: 2 for each product, three times the forward pass.

    A token takes part in the product with every matrix, and in those of its queries with `length` keys and of its
    weights with as many values, 2 D a key; the decoder does that twice, over half of the keys where it is causal.
    """
    matrices = 4 * width * width + 2 * width * inner
    encoder = matrices + 2 * length * width
    decoder = matrices + 4 * width * width + 2 * length * width + length * width
    return 3 * 2 * (layers * (encoder + decoder) + vocabulary * width)


def activations_of(layers, width, heads, length, rematerialized=False):
    """Bytes that a pair of tokens leaves for the backward pass, in bfloat16 (Korthikanti et al. 2022, section 4.1).

    Attention keeps 11 D + 5 H T bytes a token, the feed-forward network of F = 4 D 19 D, a norm 2 D. Rematerialised, a
    block keeps what it was given, 2 D, and one block at a time the rest.
    """
    attention = 11 * width + 5 * heads * length + 2 * width
    feed_forward = 19 * width + 2 * width
    encoder, decoder = attention + feed_forward, 2 * attention + feed_forward
    if rematerialized:
        return layers * 2 * 2 * width + decoder
    return layers * (encoder + decoder)


def all_reduce(numbers, gpus, machine):
    """Seconds for the sum of float32 gradients: a ring in the node, and between nodes one for each eighth of them."""
    size, inside = 4 * numbers, min(gpus, machine.gpus_per_node)
    nodes = gpus // inside
    seconds = 2 * (inside - 1) / inside * size / (machine.nvlink * machine.link_share)
    return seconds + 2 * (nodes - 1) / nodes * size / inside / (machine.network * machine.link_share)


def predict(name, gpus, tokens_per_gpu, machine):
    config = {"num_layers": 6, "num_heads": 8, "hidden_dim": 512, "intermediate_dim": 2048, **preset_config(name)}
    layers, heads, width, inner = (config[k] for k in ("num_layers", "num_heads", "hidden_dim", "intermediate_dim"))
    weights = weights_of(VOCABULARY, layers, width, inner)
    compute = tokens_per_gpu * products_of(VOCABULARY, layers, width, inner, LENGTH) / machine.peak / UTILISATION[name]
    # Adam reads weight, gradient and two averages and writes three of them, 4 bytes each, and a bfloat16 copy.
    update = weights * (7 * 4 + 2) / machine.memory_bandwidth
    exchange = all_reduce(weights, gpus, machine)
    states = weights * (4 + 4 + 8 + 2)  # weight, gradient, Adam's two averages, the bfloat16 copy
    end = 3 * 4 * CHUNK * VOCABULARY + 4 * VOCABULARY * width  # logits thrice, and the gradient of the table
    kept, kept_less = (tokens_per_gpu * activations_of(layers, width, heads, LENGTH, r) for r in (False, True))
    step = compute + update + exchange
    return {
        "model": name,
        "GPUs": gpus,
        "tokens a GPU": f"{tokens_per_gpu:,.0f}",
        "products, ms": f"{1e3 * compute:.1f}",
        "update, ms": f"{1e3 * update:.1f}",
        "gradients' sum, ms": f"{1e3 * exchange:.1f}",
        "step, ms": f"{1e3 * step:.1f}",
        "target tokens/s": f"{gpus * tokens_per_gpu / step:,.0f}",
        "memory, GB": f"{(states + end + kept) / 1e9:.1f}",
        "rematerialised, GB": f"{(states + end + kept_less) / 1e9:.1f}",
    }


def check_against_a_model():
    vocabulary, layers, width, inner = 11, 2, 6, 10
    model = Transformer(vocabulary, layers, num_heads=2, hidden_dim=width, intermediate_dim=inner)
    if model.count_params() != weights_of(vocabulary, layers, width, inner):
        raise RuntimeError(
            f"The model has {model.count_params()} weights, not {weights_of(vocabulary, layers, width, inner)}."
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=float, default=25_000, help="target tokens of an update")
    parser.add_argument("--per-gpu", action="store_true", help="--tokens is of each GPU, not of all")
    arguments = parser.parse_args()
    check_against_a_model()
    rows = [
        predict(name, gpus, arguments.tokens / (1 if arguments.per_gpu else gpus), Machine())
        for name in ("base", "big")
        for gpus in arguments.gpus
    ]
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
