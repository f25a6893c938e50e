"""Pre-trains a small BERT on plain text: some words are hidden, and it learns to find them.

Without arguments it needs no data and no network: it learns from the documentation strings of Python's own library.
A run that was stopped goes on after its last whole epoch when the same command is run again.

    python examples/pretrain_bert.py
    python examples/pretrain_bert.py --text first.txt --text second.txt --updates 20000

In a file, lines belong together; an empty line ends a text.
"""

import argparse
import ast
import itertools
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from keras_transformer import interop, models, text, training


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the rest of this script does."""

    def error(self, message):
        raise ValueError(f"{message}. See --help.")


def at_least(lowest, kind=int, below=math.inf):
    """Reads a number, so that one out of range is refused at once and by the name of its argument."""

    def read(written):
        try:
            value = kind(written)
        except ValueError:
            value = math.nan
        if not lowest <= value < below:
            what = "a whole number" if kind is int else "a number"
            bound = f" and less than {below}" if below < math.inf else ""
            raise argparse.ArgumentTypeError(f"must be {what} of at least {lowest}{bound}, received {written}")
        return value

    return read


def parse_arguments():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", help="file to learn from, UTF-8; may be given again")
    parser.add_argument("--vocabulary-size", type=at_least(64), help="pieces at most (default: 6000, quick 1000)")
    model = parser.add_argument_group("model and training")
    model.add_argument("--layers", type=at_least(1), help="blocks (default: 4, with --quick 2)")
    model.add_argument("--heads", type=at_least(1), default=4, help="(default: 4)")
    model.add_argument("--width", type=at_least(1), help="of the states, by --heads (default: 128, with --quick 64)")
    model.add_argument("--length", type=at_least(8), help="pieces of a row (default: 64, with --quick 32)")
    model.add_argument("--dropout", type=at_least(0, float, below=1), default=0.0, help="rate (default: 0)")
    model.add_argument("--batch-size", type=at_least(1), default=32, help="rows of a batch (default: 32)")
    model.add_argument("--updates", type=at_least(1), help="updates in all (default: 1500, with --quick 60)")
    model.add_argument("--epoch", type=at_least(1), help="updates between validations (default: 250, quick 30)")
    model.add_argument("--learning-rate", type=at_least(0, float), default=1e-3, help="its peak (default: 1e-3)")
    model.add_argument("--seed", type=at_least(0, below=2**31), default=1)
    run = parser.add_argument_group("run")
    run.add_argument("--output", default="runs/pretrain_bert", help="directory for all that is written")
    run.add_argument("--quick", action="store_true", help="a run of under a minute, to see that everything works")
    args = parser.parse_args()
    args.layers = args.layers or (2 if args.quick else 4)
    args.width = args.width or (64 if args.quick else 128)
    args.length = args.length or (32 if args.quick else 64)
    args.vocabulary_size = args.vocabulary_size or (1000 if args.quick else 6000)
    args.updates = args.updates or (60 if args.quick else 1500)
    args.epoch = min(args.epoch or (30 if args.quick else 250), args.updates)
    if args.width % args.heads:
        parser.error(f"--width must be a multiple of --heads, received {args.width} and {args.heads}")
    return args


def docstrings(quick):
    """The documentation strings of Python's library, in the order of its files."""
    library = Path(os.__file__).parent
    files = sorted(
        path for path in library.rglob("*.py") if not {"site-packages", "dist-packages", "test"} & {*path.parts}
    )
    for path in files[:: 4 if quick else 1]:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # a few test files are wrong on purpose
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                written = ast.get_docstring(node) or ""
                if written and ">>>" not in written:  # sessions of the interpreter are no prose
                    yield written


def paragraphs(path):
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--text must be UTF-8: {path} is not ({error}). Convert it.") from error
    for blank, group in itertools.groupby(lines, key=lambda line: not line.strip()):
        if not blank:
            yield "\n".join(group)


def read_texts(args):
    """All texts, each once, on one line."""
    found = docstrings(args.quick) if args.text is None else itertools.chain(*map(paragraphs, args.text))
    texts = list(dict.fromkeys(" ".join(each.split()) for each in found))
    if len(texts) < 20:
        raise ValueError(f"There must be at least 20 texts to learn from, received {len(texts)} in {args.text}.")
    return texts


def learn_vocabulary(texts, size):
    """Of the size asked for, or the largest that the texts can give, if that is smaller."""
    try:
        return text.WordPieceTokenizer.train(texts, size, lowercase=True)
    except ValueError as error:
        largest = str(error).rpartition("largest possible size is ")[2].partition(" ")[0]
        if not largest.isdigit():
            raise
        return text.WordPieceTokenizer.train(texts, int(largest), lowercase=True)


def rows_of(texts, tokenizer, length):
    """Full rows `(N, length)`: a start token, texts with an end token after each, cut wherever a row is full."""
    ids = tokenizer(texts)
    ends = tf.fill([ids.nrows(), 1], tokenizer.end_token_id)
    flat = tf.concat([ids, ends], axis=1).flat_values.numpy()
    count = len(flat) // (length - 1)
    if not count:
        raise ValueError(f"The texts have {len(flat)} pieces, not one row of --length {length}. Give more text.")
    starts = np.full((count, 1), tokenizer.start_token_id, "int32")
    return np.concatenate([starts, flat[: count * (length - 1)].reshape(count, -1)], axis=1)


def main():
    args = parse_arguments()
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    training.keep_freed_memory()

    # TEXT -> TOKENS
    texts = read_texts(args)
    order = np.random.default_rng(args.seed).permutation(len(texts))
    held_out, learned = np.split(order, [max(len(texts) // 20, 1)])
    learned, held_out = [texts[i] for i in sorted(learned)], [texts[i] for i in sorted(held_out)]
    vocabulary = output / "vocab.txt"
    if vocabulary.exists():
        tokenizer = text.WordPieceTokenizer(vocabulary, lowercase=True)
    else:
        print(f"Learning {args.vocabulary_size} pieces of {len(learned):,} texts ...")
        tokenizer = learn_vocabulary(learned, args.vocabulary_size)
        tokenizer.save(vocabulary)
    train, valid = (rows_of(part, tokenizer, args.length) for part in (learned, held_out))
    print(
        f"{train.size:,} pieces to learn from, {valid.size:,} held out; {tokenizer.vocabulary_size:,} different ones."
    )
    special = (
        *(tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.start_token_id),
        *(tokenizer.end_token_id, tokenizer.mask_token_id),
    )

    def hide(ids, seed):
        return text.mask_tokens(ids, seed, tokenizer.mask_token_id, tokenizer.vocabulary_size, special)

    def batch(update):
        """Rows and masks of an update depend on the seed and its number alone, so a run that goes on sees the same."""
        seed = tf.stack([tf.constant(args.seed, tf.int64), update])
        chosen = tf.random.stateless_uniform([args.batch_size], seed, 0, len(train), tf.int32)
        return hide(tf.gather(train, chosen), seed + tf.constant([1, 0], tf.int64))

    validation = hide(valid, (0, 0))

    # TOKENS -> LOSS
    encoder = models.Encoder(
        tokenizer.vocabulary_size,
        num_layers=args.layers,
        num_heads=args.heads,
        hidden_dim=args.width,
        intermediate_dim=4 * args.width,
        dropout=args.dropout,
        max_sequence_length=args.length,
        num_segments=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = models.MaskedLM(encoder)
    optimizer = keras.optimizers.AdamW(
        WarmedUpDecay(args.learning_rate, args.updates // 10 + 1, args.updates + 1),
        weight_decay=0.01,
        beta_2=0.98,
        epsilon=1e-6,
        global_clipnorm=1.0,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, training.LinearCrossEntropy(label_smoothing=0.0))
    print(f"{model.count_params():,} parameters.")
    backup = training.BackupAndResume(output / "backup")
    epochs = -(-args.updates // args.epoch)
    first = backup.initial_epoch
    if first:
        print(f"Going on after {first} of {epochs} epochs.")
    started = time.time()
    model.fit(
        tf.data.Dataset.range(first * args.epoch, epochs * args.epoch).map(batch).prefetch(2),
        steps_per_epoch=args.epoch,
        epochs=epochs,
        initial_epoch=first,
        validation_data=validation,
        validation_batch_size=args.batch_size,
        callbacks=[backup, keras.callbacks.TerminateOnNaN(), Samples(valid, hide, tokenizer, args.seed)],
        shuffle=False,
        verbose=2,
    )
    print(f"Trained in {time.time() - started:.0f} s.")
    inputs, labels, weights = validation
    result = model.evaluate(
        inputs, labels, sample_weight=weights, batch_size=args.batch_size, verbose=0, return_dict=True
    )
    labels, weights = labels.numpy(), weights.numpy()
    counts = np.bincount(train.reshape(-1), minlength=tokenizer.vocabulary_size)
    counts[list(special)] = 0
    floor = np.mean(labels[weights == 1] == counts.argmax())
    print(
        f"Held-out text: {result['cross_entropy']:.3f} nats a hidden piece, {result['accuracy']:.1%} of them found. "
        f"(The most frequent piece, {tokenizer.vocabulary[counts.argmax()]!r}, is right in {floor:.1%}.)"
    )

    # WEIGHTS OUT
    with training.complete_or_absent(output / "pretrain_bert.keras") as temporary:
        model.save(temporary)
    interop.to_huggingface(model, output, "bert")
    print("Wrote:", *(f"  {path}" for path in sorted(output.iterdir())), sep="\n")


@keras.saving.register_keras_serializable(package="pretrain_bert")
class WarmedUpDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Up to the peak in a straight line, and in another down to zero: BERT's schedule (its appendix A.2)."""

    def __init__(self, peak, warmup, updates):
        self.peak, self.warmup, self.updates = peak, warmup, updates

    def __call__(self, step):
        step = keras.ops.cast(step, "float32") + 1.0
        rising, falling = step / self.warmup, (self.updates - step) / (self.updates - self.warmup)
        return self.peak * keras.ops.maximum(keras.ops.minimum(rising, falling), 0.0)

    def get_config(self):
        return {"peak": self.peak, "warmup": self.warmup, "updates": self.updates}


class Samples(keras.callbacks.Callback):
    """Shows after each epoch what the model puts in the place of hidden words of held-out text."""

    def __init__(self, rows, hide, tokenizer, seed, count=2):
        super().__init__()
        self.rows = rows[np.random.default_rng(seed).permutation(len(rows))[:count]]
        self.inputs, self.labels, self.weights = hide(self.rows, (seed, 7))
        self.tokenizer = tokenizer

    def on_epoch_end(self, epoch, logs=None):
        logits = keras.ops.convert_to_numpy(self.model(self.inputs))
        found = np.argmax(logits, axis=-1)
        vocabulary = self.tokenizer.vocabulary
        for row, positions, guesses, weights in zip(
            self.rows, self.inputs["mask_positions"].numpy(), found, self.weights.numpy()
        ):
            pieces = [vocabulary[i] for i in row]
            for position, guess, weight in zip(positions, guesses, weights):
                if weight:
                    wrong = pieces[position] != vocabulary[guess]
                    pieces[position] = f"[{vocabulary[guess]}{f', not {pieces[position]}' * wrong}]"
            print("   ", " ".join(pieces[1:]).replace(" ##", ""))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped. To go on after the last whole epoch, run the same command again.")
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
