"""Does a corpus of 2, 4, 8 times the size cost more a token, or more memory? One interleaved run.

    python benchmarks/corpus_size.py --source train.en.gz --target train.de.gz --vocabulary runs/multi30k.model

Each contender is a process that trains `tiny` by length, as examples/translation.py does on a CPU, on a corpus of so
many copies of the files. First it counts the lengths and draws one whole epoch packed and one by length, without
training: seconds of each for a million real target tokens. Then the contenders take turns of a few updates. Printed
and written as JSON: these times, real target tokens a second in training, their ratio to those of one copy, and peak
memory.
"""

import argparse
import datetime
import gzip
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from turns import Turns, take_turns

VOCABULARY_SIZE, LONGEST, PACKED_LENGTH = 9700, 100, 128
COPIES = {"1": 1, "2": 2, "4": 4, "8": 8}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="training sentences, one a line, plain or .gz")
    parser.add_argument("--target", required=True, help="their translations, line by line")
    parser.add_argument("--vocabulary", required=True, help="a SentencePiece model; learned if it is missing")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="positions of a batch, padding included")
    parser.add_argument("--pool-size", type=int, default=10_000, help="pairs that are sorted or packed together")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=10, help="updates of a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    parser.add_argument("--contender", choices=COPIES, help=argparse.SUPPRESS)  # a process of the run
    return parser.parse_args()


def multiplied(file, copies, folder):
    """A plain file with so many copies of the lines of `file`."""
    with (gzip.open if file.endswith(".gz") else open)(file, "rb") as lines:
        content = lines.read().rstrip(b"\n") + b"\n"
    path = Path(folder) / Path(file).name.removesuffix(".gz")
    with open(path, "wb") as result:
        for _ in range(copies):
            result.write(content)
    return str(path)


def train(args, copies, folder):
    import keras
    import tensorflow as tf

    from keras_transformer import models, text, training

    training.keep_freed_memory()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    keras.utils.set_random_seed(1)
    tokenizer = text.SentencePieceTokenizer(args.vocabulary)
    files = (multiplied(file, copies, folder) for file in (args.source, args.target))
    examples = text.to_examples(text.read_parallel(*files), tokenizer, tokenizer, LONGEST).map(text.shift)
    began = time.perf_counter()
    lengths = text.choose_lengths(text.length_histogram(examples), 32)
    seconds = {"counting": time.perf_counter() - began}

    def by_length():
        return text.batch_by_tokens(examples, args.batch_tokens, lengths, args.pool_size, seed=1)

    def packed():
        return text.pack(examples, args.batch_tokens, PACKED_LENGTH, PACKED_LENGTH, args.pool_size, seed=1)

    for pipeline in (packed, by_length):
        began = time.perf_counter()
        real = [int(tf.math.count_nonzero(labels)) for _, labels, _ in pipeline()]
        seconds[pipeline.__name__.replace("_", " ")] = time.perf_counter() - began
    model = models.Transformer.from_preset("tiny", vocabulary_size=tokenizer.vocabulary_size, attention_dropout=0.0)
    optimizer = keras.optimizers.Adam(training.InverseSquareRoot(5e-3, 500, 1e-7), beta_2=0.98, epsilon=1e-8)
    model.compile(optimizer, training.LinearCrossEntropy(0.1), jit_compile=False)
    turns = Turns(args.updates)
    model.fit(by_length().take(4), verbose=0, shuffle=False)
    turns.after_first_update(tokens=sum(real), **{name: value / sum(real) * 1e6 for name, value in seconds.items()})
    # Each dataset is made anew, so that its batches come in the order in which they were counted.
    after = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: turns.after_update(real[batch]))
    while True:
        model.fit(by_length(), verbose=0, callbacks=[after], shuffle=False)


COLUMNS = {
    "tokens": ("tokens", ",d"),
    "counting, s": ("counting", ".2f"),
    "by length, s": ("by length", ".2f"),
    "packed, s": ("packed", ".2f"),
    "trained tokens/s": ("per_second", ",.0f"),
    "to one copy": ("ratio", ".3f"),
    "peak, MB": ("peak_memory_mb", ",.0f"),
}


def main():
    args = parse_arguments()
    if args.contender:
        with tempfile.TemporaryDirectory() as folder:
            train(args, COPIES[args.contender], folder)
        return
    from translation_control import cpu_model, load_vocabulary

    load_vocabulary(args.vocabulary, VOCABULARY_SIZE, [args.source, args.target])
    contenders = take_turns(__file__, COPIES, sys.argv[1:], args.rounds)
    results = {contender.name: {**contender.first, **contender.result()} for contender in contenders}
    for result in results.values():
        result["ratio"] = result["per_second"] / results["1"]["per_second"]
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    print(f"\n{cpu_model()}, {args.threads} threads, {versions}")
    print(f"tiny, batches of {args.batch_tokens} positions a side, pools of {args.pool_size} pairs")
    print("seconds of counting and batching are for a million real target tokens, without training")
    print(f"{'copies':8}" + "".join(f"{title:>{len(title) + 2}}" for title in COLUMNS))
    for name, result in results.items():
        cells = (f"{result[key]:>{len(title) + 2}{form}}" for title, (key, form) in COLUMNS.items())
        print(f"{name:8}" + "".join(cells))
    path = Path(args.output) / f"corpus_size-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cpu": cpu_model(), "versions": versions, **vars(args), "results": results}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
