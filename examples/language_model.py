"""Trains a small decoder-only Transformer on the characters of a text, and lets it go on writing.

Without arguments it needs no data and no network: it learns from the pages about the language that come with Python.

    python examples/language_model.py
    python examples/language_model.py --text input.txt --preset nanogpt_cpu --updates 2000
"""

import argparse
import gzip
import math
import os
import shlex
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_transformer import models, training, visualization


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the rest of this script does."""

    def error(self, message):
        raise ValueError(f"{message}. See --help.")


def at_least(lowest, kind=int, below=math.inf):
    """Reads a number, so that one out of range is refused at once and by the name of its argument."""

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not lowest <= value < below:
            what = "a whole number" if kind is int else "a number"
            bound = f" and less than {below}" if below < math.inf else ""
            raise argparse.ArgumentTypeError(f"must be {what} of at least {lowest}{bound}, received {text}")
        return value

    return read


def parse_arguments():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="file to learn from, UTF-8, plain or .gz (default: Python's own pages)")
    model = parser.add_argument_group("model and training")
    model.add_argument("--preset", default="nanogpt_cpu", help="size of the model (default: nanogpt_cpu)")
    model.add_argument("--context", type=at_least(2), default=64, help="characters that it sees (default: 64)")
    model.add_argument("--dropout", type=at_least(0, float, below=1), help="rate, if not the preset's")
    model.add_argument("--batch-size", type=at_least(1), default=12, help="texts of a batch (default: 12)")
    model.add_argument("--updates", type=at_least(1), help="updates in all (default: 2000, with --quick 60)")
    model.add_argument("--epoch", type=at_least(1), help="updates between two validations (default: 250, quick 30)")
    model.add_argument("--learning-rate", type=at_least(0, float), default=1e-3, help="its peak (default: 1e-3)")
    model.add_argument("--warmup", type=at_least(0), default=100, help="updates until the peak (default: 100)")
    model.add_argument("--weight-decay", type=at_least(0, float), default=0.1, help="of matrices (default: 0.1)")
    model.add_argument(
        "--jit", action=argparse.BooleanOptionalAction, default=False, help="compile with XLA (default: no)"
    )
    model.add_argument("--mixed-precision", choices=("float16", "bfloat16"), help="compute in half precision")
    model.add_argument("--seed", type=at_least(0, below=2**32), default=1)
    writing = parser.add_argument_group("what it writes")
    writing.add_argument("--samples", type=at_least(0), default=3, help="how many texts (default: 3)")
    writing.add_argument("--length", type=at_least(1), default=300, help="characters of each (default: 300)")
    writing.add_argument("--temperature", type=at_least(1e-3, float), default=0.8, help="(default: 0.8)")
    writing.add_argument("--prompt", help="what they begin with (default: the first line of the validation text)")
    run = parser.add_argument_group("run")
    run.add_argument("--output", default="runs/language_model", help="directory for all that is written")
    run.add_argument("--resume", action="store_true", help="go on with the run in --output")
    run.add_argument("--quick", action="store_true", help="a run of under a minute, to see that everything works")
    args = parser.parse_args()
    args.updates = args.updates or (60 if args.quick else 2000)
    args.epoch = min(args.epoch or (30 if args.quick else 250), args.updates)
    return args


def read_text(path):
    if path is None:
        from pydoc_data import topics

        return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    data = Path(path).read_bytes()
    data = gzip.decompress(data) if path.endswith(".gz") else data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--text must be UTF-8: {path} is not ({error}). Convert it.") from error


class Crops(keras.utils.PyDataset):
    """Batches of crops from random places, each with the character that follows every one of its characters.

    The places of an update depend on the seed and its number alone, so a run that goes on sees what it would have seen.
    """

    def __init__(self, ids, context, batch_size, updates, seed, first=0):
        super().__init__()
        self.ids, self.context, self.batch_size, self.seed = ids, context, batch_size, seed
        self.updates, self.first = updates, first

    def __len__(self):
        return self.updates

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, self.first + index))
        starts = rng.integers(0, len(self.ids) - self.context, self.batch_size)
        crops = self.ids[starts[:, None] + np.arange(self.context + 1)]
        return {"token_ids": crops[:, :-1]}, crops[:, 1:]


def whole(ids, context):
    """The text once, cut into crops side by side: each character but the first is predicted once."""
    count = (len(ids) - 1) // context
    rows = np.arange(count)[:, None] * context + np.arange(context + 1)
    return {"token_ids": ids[rows][:, :-1]}, ids[rows][:, 1:]


def main():
    """Runs, and says how to go on if it is stopped."""
    args = parse_arguments()
    checkpoints = training.Checkpoints(Path(args.output) / "checkpoints", keep=2)
    try:
        run(args, checkpoints)
    except KeyboardInterrupt:
        kept = bool(checkpoints.files())
        how = "Nothing is lost; to go on" if kept else "Training had not begun; to start again"
        print(f"\nStopped. {how}, run:")
        print(" ", shlex.join(["python", *sys.argv, *(["--resume"] if kept and not args.resume else [])]))
        return 130
    return 0


def run(args, checkpoints):
    output = Path(args.output)
    keras_file = output / "language_model.keras"
    if not args.resume and (checkpoints.files() or keras_file.exists()):
        raise ValueError(f"{output} holds a run. Add --resume to go on with it, or give another --output.")
    if args.resume and not checkpoints.files():
        raise ValueError(f"{output} holds no run to go on with. Leave out --resume to start one, or correct --output.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output must be a directory, or a place for one: {error}. Give another.") from error
    keras.utils.set_random_seed(args.seed)
    training.keep_freed_memory()
    if args.mixed_precision:
        keras.config.set_dtype_policy(f"mixed_{args.mixed_precision}")

    # TEXT -> TOKENS
    text = read_text(args.text)
    characters = sorted(set(text))
    number = {character: index for index, character in enumerate(characters)}
    ids = np.array([number[character] for character in text], "int32")
    learned, held_out = np.split(ids, [int(0.9 * len(ids))])
    if len(held_out) <= args.context + 1:
        raise ValueError(
            f"--text must have some {11 * (args.context + 2)} characters for this --context. Received: {len(text)}"
        )
    print(f"{len(text):,} characters, {len(characters)} different ones; the first 90 % to learn, the rest held out.")

    # TOKENS -> LOSS
    changes = {} if args.dropout is None else {"dropout": args.dropout}
    model = models.CausalLM.from_preset(
        args.preset, vocabulary_size=len(characters), sequence_length=args.context, **changes
    )
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            0.0, max(args.updates - args.warmup, 1), 0.1, warmup_target=args.learning_rate, warmup_steps=args.warmup
        ),
        weight_decay=args.weight_decay,
        beta_2=0.99,
        global_clipnorm=1.0,
    )
    optimizer.exclude_from_weight_decay([weight for weight in model.trainable_variables if "kernel" not in weight.path])
    model.compile(optimizer, training.LinearCrossEntropy(label_smoothing=0.0), jit_compile=args.jit)
    print(f"{model.count_params():,} parameters.")
    place = checkpoints.restore(model) if args.resume else training.Place(0, 0)
    if args.resume:
        print(f"Going on after {place.epoch} epochs and {place.step} updates.")
    validation = whole(held_out[:2000] if args.quick else held_out, args.context)
    callbacks = [RefuseNaN(), checkpoints, keras.callbacks.CSVLogger(output / "history.csv", append=args.resume)]
    epochs = -(-args.updates // args.epoch)

    started = time.time()
    try:
        for epoch in range(place.epoch, epochs):
            first = epoch * args.epoch
            last = min(first + args.epoch, args.updates)
            first += place.step if epoch == place.epoch else 0
            if first == last:
                continue
            model.fit(
                Crops(learned, args.context, args.batch_size, last - first, args.seed, first),
                validation_data=validation,
                validation_batch_size=64,
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=callbacks,
                shuffle=False,  # of the updates, which Keras else takes in an order of its own
                verbose=2,
            )
            callbacks[-1] = keras.callbacks.CSVLogger(output / "history.csv", append=True)
    except KeyboardInterrupt:
        place = checkpoints.save_place()
        print(f"\nSaved after {place.epoch} epochs and {place.step} updates.")
        raise
    print(f"Trained in {time.time() - started:.0f} s.")
    result = model.evaluate(*validation, batch_size=64, verbose=0, return_dict=True)
    print(f"Held-out text: {result['cross_entropy']:.4f} nats a character, {result['accuracy']:.1%} of them guessed.")

    # LOGITS -> DECODING
    prompt = "".join(characters[i] for i in held_out[:200]).lstrip().partition("\n")[0] or characters[0]
    if args.prompt is not None:
        prompt = args.prompt
        strange = sorted(set(prompt) - set(characters))
        if strange or not prompt:
            raise ValueError(f"--prompt must be of characters in the text, received {prompt!r}: it lacks {strange}")
    samples = write_on(model, [number[character] for character in prompt], args)
    texts = ["".join(characters[i] for i in row) for row in samples]
    for text in texts:
        print(f"\n{'-' * 80}\n{text}")
    print("-" * 80)

    with training.complete_or_absent(output / "samples.txt") as temporary:
        temporary.write_text("\n\n".join(texts), encoding="utf-8")
    with training.complete_or_absent(keras_file) as temporary:
        model.save(temporary)
    visualization.plot_learning_curve(output / "history.csv", output / "learning_curve.png")
    print("Wrote:", *(f"  {path}" for path in sorted(output.iterdir())), sep="\n")


def write_on(model, prompt, args):
    """`prompt` and what the model makes of it, `--samples` times, as rows of ids.

    The model has no more positions than its context, so it reads the last half of it whenever that is full.
    """
    rows = np.repeat([prompt], args.samples, axis=0)
    while args.samples and rows.shape[1] < args.length:
        seen = rows[:, -(args.context // 2) :]
        found = model.generate(
            seen, max_length=args.context, do_sample=True, temperature=args.temperature, seed=args.seed + rows.shape[1]
        )
        rows = np.concatenate([rows, found.token_ids[:, seen.shape[1] :]], axis=1)
    return rows[:, : max(args.length, len(prompt))]


class RefuseNaN(keras.callbacks.Callback):
    """Ends the run at a loss that is no number, before a checkpoint is made of it."""

    def on_train_batch_end(self, step, logs=None):
        if not math.isfinite(logs["loss"]):
            raise ValueError(f"The loss has become {logs['loss']}. Lower --learning-rate, or raise --warmup.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
