"""Training speed: this library against torch.nn, on the same sentences, in one interleaved run.

    python benchmarks/train.py --source train.en.gz --target train.de.gz --vocabulary runs/multi30k.model

Each contender is a process of its own that trains the `tiny` Transformer and waits for its turn; a turn is a few
updates. Besides them one multiplies large matrices, which gives the machine's limit. Printed and written as JSON:
medians over the rounds of real target tokens a second, the time to the end of the first update, and peak memory.

ours            `fit` as in examples/translation.py on a CPU: no XLA, 32 lengths
ours, XLA       the same with XLA and 8 lengths
torch           benchmarks/translation_control.py: batches sorted by length, only real positions projected to the
                vocabulary, fused Adam, glibc told to keep freed memory
torch, plain    the same as it is usually written: all positions projected, the system's own allocator
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

BATCH_TOKENS, VOCABULARY_SIZE, LONGEST = 4096, 9700, 100


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="training sentences, one a line, plain or .gz")
    parser.add_argument("--target", required=True, help="their translations, line by line")
    parser.add_argument("--vocabulary", required=True, help="a SentencePiece model; learned if it is missing")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=10, help="updates of a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)  # a process of the run
    return parser.parse_args()


class Turns:
    """A contender's end of the pipe: it waits for its turn, and says how long it took and what was done in it."""

    def __init__(self, updates):
        self.updates, self.began, self.done = updates, time.perf_counter(), []

    def after_first_update(self):
        """Reports the time since this object was made."""
        self._report(0)

    def after_update(self, amount):
        """To be called after each further update, with the tokens that were in it."""
        self.done.append(amount)
        if len(self.done) == self.updates:
            self._report(sum(self.done))

    def _report(self, amount):
        seconds = time.perf_counter() - self.began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "amount": amount, "peak_memory": peak}), flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self.began, self.done = time.perf_counter(), []


def train_ours(args, xla):
    import keras
    import tensorflow as tf

    from keras_transformer import models, text, training

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    keras.utils.set_random_seed(1)
    tokenizer = text.SentencePieceTokenizer(args.vocabulary)
    pairs = text.read_parallel(args.source, args.target)
    examples = text.to_examples(pairs, tokenizer, tokenizer, LONGEST).map(text.shift)
    lengths = text.choose_lengths(text.length_histogram(examples), 8 if xla else 32)
    batches = text.batch_by_tokens(examples, BATCH_TOKENS, lengths, seed=1)
    real, one_of_each_shape = [], {}
    for batch in text.batch_by_tokens(examples, BATCH_TOKENS, lengths, seed=1):
        real.append(int(tf.reduce_sum(batch[2])))
        one_of_each_shape.setdefault(tuple(batch[1].shape), batch)
    warm_up = tf.data.Dataset.from_generator(
        lambda: iter(one_of_each_shape.values()), output_signature=batches.element_spec
    )
    model = models.Transformer.from_preset("tiny", vocabulary_size=tokenizer.vocabulary_size, attention_dropout=0.0)
    model.compile(
        keras.optimizers.Adam(
            training.InverseSquareRoot(5e-3, 500, 1e-7), beta_1=0.9, beta_2=0.98, epsilon=1e-8, global_clipnorm=25.0
        ),
        loss=training.LinearCrossEntropy(0.1),
        jit_compile=xla,
    )
    turns = Turns(args.updates)
    model.fit(warm_up.take(1), verbose=0, shuffle=False)
    turns.after_first_update()
    model.fit(warm_up.skip(1), verbose=0, shuffle=False)
    turns.began = time.perf_counter()
    after = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: turns.after_update(real[batch]))
    model.fit(batches, verbose=0, callbacks=[after], shuffle=False)


def train_torch(args, plain):
    import torch
    import translation_control as control

    class Plain(control.Transformer):
        def forward(self, source, inputs, real):
            return self.project(self.decode(inputs, *self.encode(source)))[real]

    if not plain:
        control.keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    vocabulary = control.load_vocabulary(args.vocabulary, VOCABULARY_SIZE, [args.source, args.target])
    pairs = [p for p in control.read_pairs(vocabulary, args.source, args.target) if control.longest(p) <= LONGEST]
    model = (Plain if plain else control.Transformer)(vocabulary.get_piece_size(), 0.3)
    recipe = {"learning_rate": 5e-3, "warmup": 500, "label_smoothing": 0.1, "clip_norm": 25.0}
    training = control.Training(model, argparse.Namespace(**recipe, output=""))
    model.train()
    turns = Turns(args.updates)
    for number, batch in enumerate(control.make_batches(pairs, BATCH_TOKENS, seed=1)):
        training.step(pairs, batch)
        if number:
            turns.after_update(sum(len(pairs[i][1]) for i in batch))
        else:
            turns.after_first_update()


def multiply_matrices(args):
    """What this contender counts are floating-point operations."""
    import torch

    torch.set_num_threads(args.threads)
    matrix = torch.randn(2048, 2048)
    turns = Turns(args.updates)
    torch.matmul(matrix, matrix)
    turns.after_first_update()
    while True:
        torch.matmul(matrix, matrix)
        turns.after_update(2 * 2048**3)


CONTENDERS = {
    "limit": multiply_matrices,
    "ours": lambda args: train_ours(args, xla=False),
    "ours, XLA": lambda args: train_ours(args, xla=True),
    "torch": lambda args: train_torch(args, plain=False),
    "torch, plain": lambda args: train_torch(args, plain=True),
}


class Contender:
    """A process that trains when it is told to."""

    def __init__(self, name, arguments):
        command = [sys.executable, __file__, *arguments, "--contender", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name, self.first, self.rounds = name, self._read(), []

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def take_turn(self, counts=True):
        print(file=self.process.stdin, flush=True)
        result = self._read()
        if counts:
            self.rounds.append(result)

    def result(self):
        speeds = [r["amount"] / r["seconds"] for r in self.rounds]
        return {
            "per_second": statistics.median(speeds),
            "least": min(speeds),
            "most": max(speeds),
            "first_update_seconds": self.first["seconds"],
            "peak_memory_mb": self.rounds[-1]["peak_memory"] / 2**20,
        }


def main():
    args = parse_arguments()
    if args.contender:
        CONTENDERS[args.contender](args)
        return
    from translation_control import cpu_model, load_vocabulary

    load_vocabulary(args.vocabulary, VOCABULARY_SIZE, [args.source, args.target])
    contenders = []
    for name in CONTENDERS:
        print(f"{name}: starting", flush=True)
        contenders.append(Contender(name, sys.argv[1:]))
    for number in range(args.rounds + 1):  # the first round warms up
        for contender in contenders:
            contender.take_turn(counts=number > 0)
    results = {contender.name: contender.result() for contender in contenders}
    limit = results.pop("limit")["per_second"]
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "torch")}
    print(f"\n{cpu_model()}, {args.threads} threads, {versions}; matrices multiply at {limit / 1e9:.0f} GFLOP/s")
    print(f"{'':14}{'target tokens/s':>17}{'to torch':>10}{'first update, s':>17}{'peak memory, MB':>17}")
    for name, result in results.items():
        result["ratio_to_torch"] = result["per_second"] / results["torch"]["per_second"]
        print(
            f"{name:14}{result['per_second']:>17.0f}{result['ratio_to_torch']:>10.2f}"
            f"{result['first_update_seconds']:>17.1f}{result['peak_memory_mb']:>17.0f}"
        )
    path = Path(args.output) / f"train-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"cpu": cpu_model(), "threads": args.threads, "versions": versions, "rounds": args.rounds}
    record |= {"updates_a_turn": args.updates, "limit_flop_per_second": limit, "results": results}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
