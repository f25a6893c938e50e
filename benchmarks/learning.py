"""Does it learn the same whichever way the data are batched, and in half precision? Several seeds of each.

    python benchmarks/learning.py --source train.en.gz --target train.de.gz \\
        --valid-source val.en.gz --valid-target val.de.gz --vocabulary runs/multi30k.model

Trains the `tiny` Transformer by length, packed, and by length in mixed_bfloat16, from the same weights and for the same
number of updates with each seed, each run in a process of its own. Validation is the same for all: by length, each
sentence once. Printed: the validation cross-entropy of each run, its mean over the seeds, and how far that is from the
first way's, beside the distance that chance alone makes: the standard error of a difference of two such means, with the
spread of the seeds within the ways. The results so far are in a JSON file after each run: kill it whenever you like,
the same command does the runs that are missing. At the end there is a picture of the curves.
"""

import argparse
import concurrent.futures
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

WAYS = {  # how the batches are made, and the policy
    "by length": ("by length", "float32"),
    "packed": ("packed", "float32"),
    "by length, bfloat16": ("by length", "mixed_bfloat16"),
}
VOCABULARY_SIZE, LONGEST, PACKED_LENGTH, POINTS = 9700, 100, 128, 4


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "target", "valid-source", "valid-target"):
        parser.add_argument(f"--{name}", required=True, help="sentences, one a line, plain or .gz")
    parser.add_argument("--vocabulary", required=True, help="a SentencePiece model; learned if it is missing")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="at the end of the warm-up")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="positions of a batch, padding included")
    parser.add_argument("--seeds", type=int, default=3, help="so many seeds, from 1")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of the ways, to run now")
    parser.add_argument("--output", default="runs/benchmarks/learning", help="directory of results and picture")
    parser.add_argument("--run", nargs=2, metavar=("WAY", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args()


def train(args, way, seed):
    """The validation cross-entropies of one run, and what they took."""
    import keras

    from keras_transformer import models, text, training

    pipeline, policy = WAYS[way]
    training.keep_freed_memory()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    tokenizer = text.SentencePieceTokenizer(args.vocabulary)

    def examples(source, target):
        return text.to_examples(text.read_parallel(source, target), tokenizer, tokenizer, LONGEST).map(text.shift)

    train, valid = examples(args.source, args.target), examples(args.valid_source, args.valid_target)
    lengths = text.choose_lengths(text.length_histogram(train), 32)
    if pipeline == "packed":
        batches = text.pack(train, args.batch_tokens, PACKED_LENGTH, PACKED_LENGTH, seed=seed)
    else:
        batches = text.batch_by_tokens(train, args.batch_tokens, lengths, seed=seed)
    model = models.Transformer.from_preset("tiny", vocabulary_size=tokenizer.vocabulary_size, attention_dropout=0.0)
    model.compile(
        keras.optimizers.Adam(
            training.InverseSquareRoot(args.learning_rate, args.warmup, 1e-7),
            beta_2=0.98,
            epsilon=1e-8,
            global_clipnorm=25.0,
        ),
        loss=training.LinearCrossEntropy(0.1),
        jit_compile=False,
    )
    began = time.process_time()
    history = model.fit(
        batches.repeat(),
        steps_per_epoch=args.updates // POINTS,
        epochs=POINTS,
        validation_data=text.batch_by_tokens(valid, 4096, [*lengths[:-1], LONGEST], shuffle=False),
        shuffle=False,
        verbose=0,
    ).history
    return {
        "validation": history["val_cross_entropy"],
        "training": history["cross_entropy"],
        "processor_seconds": time.process_time() - began,
    }


def plot(results, updates, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    at = [updates * (i + 1) // POINTS for i in range(POINTS)]
    for number, (way, runs) in enumerate(results.items()):
        for i, run in enumerate(runs.values()):
            axes.plot(at, run["validation"], f"C{number}", marker="o", markersize=3, label=None if i else way)
    axes.set_xlabel("updates")
    axes.set_ylabel("validation cross entropy (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def report(results):
    """Prints the table; each way's distance to the first is held against what chance makes of it."""
    last = {way: [run["validation"][-1] for run in runs.values()] for way, runs in results.items()}
    spreads = [statistics.variance(values) for values in last.values() if len(values) > 1]
    first = next(iter(last.values()))
    print(f"{'':22}{'validation cross-entropy of the seeds':>40}{'mean':>8}{'distance':>10}{'chance':>8}")
    for way, values in last.items():
        distance = statistics.mean(values) - statistics.mean(first)
        chance = float("nan")
        if spreads:
            chance = (statistics.mean(spreads) * (1 / len(values) + 1 / len(first))) ** 0.5
        each = " ".join(f"{value:.4f}" for value in values)
        print(f"{way:22}{each:>40}{statistics.mean(values):>8.4f}{distance:>+10.4f}{chance:>8.4f}")


def in_a_process(way, seed):
    command = [sys.executable, __file__, *sys.argv[1:], "--run", way, seed]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    args = parse_arguments()
    if args.run:
        way, seed = args.run
        print(json.dumps(train(args, way, int(seed))))
        return
    from translation_control import cpu_model, load_vocabulary

    load_vocabulary(args.vocabulary, VOCABULARY_SIZE, [args.source, args.target])
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "learning.json"
    settings = {name: getattr(args, name) for name in ("updates", "warmup", "learning_rate", "batch_tokens")}
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    record = {"cpu": cpu_model(), "versions": versions, **settings, "results": {}}
    if path.exists():
        record = json.loads(path.read_text())
        if any(record.get(name) != value for name, value in settings.items()):
            sys.exit(f"error: {path} holds runs with other settings. Give another --output, or the settings in it.")
    results = record["results"]
    missing = [
        (way, str(seed))
        for seed in range(1, args.seeds + 1)
        for way in args.ways
        if str(seed) not in results.get(way, {})
    ]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = {pool.submit(in_a_process, *run): run for run in missing}
        for done in concurrent.futures.as_completed(runs):
            way, seed = runs[done]
            results.setdefault(way, {})[seed] = done.result()
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(record, indent=1) + "\n")
            os.replace(partial, path)
            print(f"{way}, seed {seed}: {results[way][seed]['validation'][-1]:.4f}", flush=True)
    results = {way: dict(sorted(results[way].items())) for way in WAYS if way in results}
    print(f"{record['cpu']}, {versions}; tiny, {args.updates} updates of {args.batch_tokens} positions")
    report(results)
    plot(results, args.updates, output / "learning.png")
    print(path, output / "learning.png", sep="\n")


if __name__ == "__main__":
    main()
