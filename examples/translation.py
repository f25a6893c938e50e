"""Trains a small Transformer to translate, scores it with BLEU and writes a translator as a SavedModel.

Without arguments it needs no data and no network: it learns to read numbers out, English to German
("twenty-one" -> "einundzwanzig"), from 0 to 99,999. With --source and --target it learns from your files.

    python examples/translation.py
    python examples/translation.py --source train.en.gz --target train.de.gz \\
        --valid-source val.en.gz --valid-target val.de.gz --preset tiny --vocabulary-size 9700 --epochs 20
"""

import argparse
import functools
import math
import os
import random
import shlex
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import num2words
import numpy as np
import sacrebleu
import tensorflow as tf

from keras_transformer import generation, models, tasks, text, training, visualization

POOL_SIZE = 100_000  # pairs that are sorted by length, or packed, together
PACKED_LENGTH = 128  # of a row of several pairs, on each side


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
    data = parser.add_argument_group("data (default: numbers from 0 to 99,999, in words)")
    data.add_argument("--source", help="training sentences, one a line, plain or .gz")
    data.add_argument("--target", help="their translations, line by line")
    data.add_argument("--tsv", help="instead of both: one file with source, tab, target on each line")
    data.add_argument("--valid-source", help="validation sentences")
    data.add_argument("--valid-target", help="their translations")
    data.add_argument("--test-source", help="sentences translated and scored at the end (default: the validation set)")
    data.add_argument("--test-target", help="their translations")
    data.add_argument("--vocabulary", help="a SentencePiece model; learned from the training files if it is missing")
    data.add_argument("--vocabulary-size", type=at_least(4), help="pieces of a joint BPE (default: 8000, numbers 256)")
    data.add_argument(
        "--max-length", type=at_least(2), default=100, help="longer pairs are dropped, in pieces (default: 100)"
    )
    data.add_argument("--tokenized", action="store_true", help="files are tokenized: BLEU must not tokenize again")
    model = parser.add_argument_group("model and training")
    model.add_argument("--preset", default="tiny", help="size of the model: tiny, base or big (default: tiny)")
    model.add_argument("--layers", type=at_least(1), help="number of layers, if not the preset's (numbers: 2)")
    model.add_argument("--dropout", type=at_least(0, float, below=1), help="rate, if not the preset's (numbers: 0.0)")
    model.add_argument("--epochs", type=at_least(1), help="epochs to train for (default: 20, numbers 2)")
    model.add_argument("--updates", type=at_least(1), help="stop after so many updates, whatever the epoch")
    model.add_argument(
        "--batch-tokens",
        type=at_least(2),
        help="tokens of a batch on a side, padding included (default: 4096, numbers 2048)",
    )
    model.add_argument(
        "--buckets", type=at_least(1), help="number of batch shapes (default: 32; with XLA 2 for numbers, else 8)"
    )
    model.add_argument(
        "--packed",
        action="store_true",
        help="train on rows of several pairs each, told apart by segment ids: one shape, which mixes lengths",
    )
    model.add_argument(
        "--jit",
        action=argparse.BooleanOptionalAction,
        help="compile with XLA: faster steps, but seconds to minutes for each batch shape (default: on a GPU only)",
    )
    model.add_argument("--learning-rate", type=at_least(0, float), default=5e-3, help="its peak (default: 5e-3)")
    model.add_argument("--warmup", type=at_least(1), help="updates until the peak (default: 500, numbers 150)")
    model.add_argument("--label-smoothing", type=at_least(0, float, below=1), default=0.1)
    model.add_argument(
        "--average", type=at_least(1), default=1, help="average the weights of the last epochs (default: 1)"
    )
    model.add_argument("--mixed-precision", choices=("float16", "bfloat16"), help="compute in half precision")
    model.add_argument(
        "--bleu-sentences",
        type=at_least(0),
        default=50,
        help="validation sentences translated after each epoch, greedily, for val_bleu (default: 50)",
    )
    model.add_argument("--seed", type=at_least(0, below=2**32), default=1)
    search = parser.add_argument_group("search")
    search.add_argument("--num-beams", type=at_least(1), default=4, help="width of beam search (default: 4)")
    search.add_argument(
        "--length-penalty", type=at_least(0, float), default=0.6, help="alpha of GNMT's penalty (default: 0.6)"
    )
    search.add_argument("--average-length", action="store_true", help="divide by length^alpha instead")
    run = parser.add_argument_group("run")
    run.add_argument("--output", default="runs/translation", help="directory for all that is written")
    run.add_argument("--resume", action="store_true", help="go on with the run in --output")
    run.add_argument("--quick", action="store_true", help="a run of under a minute, to see that everything works")
    args = parser.parse_args()
    for one, other in (("source", "target"), ("valid_source", "valid_target"), ("test_source", "test_target")):
        if bool(getattr(args, one)) != bool(getattr(args, other)):
            one, other = (f"--{name.replace('_', '-')}" for name in (one, other))
            parser.error(f"{one} and {other} go together: give both or neither")
    if args.tsv and args.source:
        parser.error("--tsv stands for --source and --target: give one or the other")
    own = bool(args.tsv or args.source)
    if own and not args.valid_source:
        parser.error("your own files need --valid-source and --valid-target too, to measure what is learned")
    if not own and (args.valid_source or args.test_source):
        parser.error("--valid-source and --test-source need --source and --target, or --tsv")
    return args


def numbers(seed, count, held_out):
    """Pairs of numbers in words, English and German: `count` to train on and `held_out` others."""
    chosen = random.Random(seed).sample(range(100_000), count + held_out)
    pairs = [(num2words.num2words(n, lang="en"), num2words.num2words(n, lang="de")) for n in chosen]
    return pairs[held_out:], pairs[:held_out]


def datasets(args):
    """The training and the validation pairs, and the strings to translate and score, as `(pairs, pairs, pairs)`."""
    if args.tsv:
        text.check_tsv(args.tsv)
        train = text.read_tsv(args.tsv)
    elif args.source:
        text.check_parallel(args.source, args.target)
        train = text.read_parallel(args.source, args.target)
    else:
        count, held_out = (4000, 200) if args.quick else (80_000, 1000)
        print(f"Task: numbers from 0 to 99,999 in words, English to German; {count} to learn, {held_out} held out.")
        train, valid = (
            tf.data.Dataset.from_tensor_slices(tuple(map(list, zip(*pairs))))
            for pairs in numbers(args.seed, count, held_out)
        )
        return train, valid, valid
    text.check_parallel(args.valid_source, args.valid_target)
    valid = text.read_parallel(args.valid_source, args.valid_target)
    test = valid
    if args.test_source:
        text.check_parallel(args.test_source, args.test_target)
        test = text.read_parallel(args.test_source, args.test_target)
    if args.quick:
        train, valid, test = train.take(2000), valid.take(200), test.take(200)
    return train, valid, test


def main():
    """Runs, and says how to go on if it is stopped."""
    args = parse_arguments()
    checkpoints = training.Checkpoints(Path(args.output) / "checkpoints", keep=max(args.average, 2))
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
    by_default = not (args.source or args.tsv)
    models.preset_config(args.preset)  # an unknown name is refused before any work
    args.epochs = args.epochs or (3 if args.quick else 2 if by_default else 20)
    args.batch_tokens = args.batch_tokens or (512 if args.quick else 2048 if by_default else 4096)
    args.warmup = args.warmup or (100 if args.quick else 150 if by_default else 500)
    if args.jit is None:
        args.jit = bool(tf.config.list_physical_devices("GPU"))
    args.buckets = args.buckets or (32 if not args.jit else 2 if by_default else 8)
    output = Path(args.output)
    keras_file, saved_model = output / "translation.keras", output / "saved_model"
    if not args.resume and (checkpoints.files() or keras_file.exists() or saved_model.exists()):
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
    train, valid, test = datasets(args)
    vocabulary = Path(args.vocabulary or output / "vocabulary.model")
    if vocabulary.exists() and (args.vocabulary or args.resume):
        tokenizer = text.SentencePieceTokenizer(vocabulary)
        if args.vocabulary_size not in (None, tokenizer.vocabulary_size):
            raise ValueError(
                f"{vocabulary} has {tokenizer.vocabulary_size} pieces, --vocabulary-size is {args.vocabulary_size}. "
                "Leave one of them out."
            )
    else:
        size = args.vocabulary_size or (256 if by_default else 8000)
        print(f"Learning {size} pieces ...")
        tokenizer = text.learn_vocabulary(train.take(20_000) if by_default else train, vocabulary, size)
    dropped = text.count_dropped(train, tokenizer, tokenizer, args.max_length)
    print(dropped)

    def examples(pairs):
        return text.to_examples(pairs, tokenizer, tokenizer, args.max_length).map(
            lambda source, target: text.shift(source, target, tokenizer.start_token_id, tokenizer.end_token_id)
        )

    histogram = text.length_histogram(examples(train))
    lengths = text.choose_lengths(histogram, args.buckets)
    updates_an_epoch = text.count_batches(histogram, args.batch_tokens, lengths)
    row = min(max(PACKED_LENGTH, args.max_length), args.batch_tokens)
    if args.packed:
        print(f"Packed batches of rows x pieces: {args.batch_tokens // row}x{row}")
    else:
        print("Batches of sentences x pieces:", *(f"{rows}x{n}" for rows, n in text.shapes(args.batch_tokens, lengths)))

    def training_batches(place):
        """The batches of the epochs from `place` on, each epoch in an order of its own that the seed fixes."""
        options = {
            "pool_size": POOL_SIZE,
            "seed": args.seed,
            "pad_token_id": tokenizer.pad_token_id,
            "initial_epoch": place.epoch,
        }
        if args.packed:
            batches = text.pack(examples(train), args.batch_tokens, row, row, **options)
        else:
            batches = text.batch_by_tokens(examples(train), args.batch_tokens, lengths, **options)
        batches = batches.skip(place.step)
        if args.packed or dropped.total > POOL_SIZE:  # how many batches there are is not known beforehand
            return batches
        return batches.apply(tf.data.experimental.assert_cardinality(updates_an_epoch - place.step))

    validation = text.batch_by_tokens(
        examples(valid),
        args.batch_tokens,
        [*lengths[:-1], max(lengths[-1], args.max_length)],
        shuffle=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    validation_batches = sum(1 for _ in validation)
    if not validation_batches:
        raise ValueError(f"No validation pair is left of at most {args.max_length} pieces. Raise --max-length.")
    validation = validation.apply(tf.data.experimental.assert_cardinality(validation_batches))

    # TOKENS -> LOSS
    changes = {"num_layers": args.layers or (2 if by_default else None), "dropout": args.dropout}
    if by_default and args.dropout is None:
        changes["dropout"] = 0.0
    model = models.Transformer.from_preset(
        args.preset,
        vocabulary_size=tokenizer.vocabulary_size,
        pad_token_id=tokenizer.pad_token_id,
        unk_token_id=tokenizer.unk_token_id,
        start_token_id=tokenizer.start_token_id,
        end_token_id=tokenizer.end_token_id,
        attention_dropout=0.0,
        **{name: value for name, value in changes.items() if value is not None},
    )
    optimizer = keras.optimizers.Adam(
        training.InverseSquareRoot(args.learning_rate, args.warmup, initial_learning_rate=1e-7),
        beta_1=0.9,
        beta_2=0.98,
        epsilon=1e-8,
        global_clipnorm=25.0,
    )
    model.compile(
        optimizer=optimizer,
        loss=training.LinearCrossEntropy(args.label_smoothing),
        jit_compile=args.jit,
    )
    compiled = "compiled with XLA, each batch shape at its first use" if args.jit else "as a graph, without XLA"
    print(f"{model.count_params():,} parameters, {compiled}.")

    place = checkpoints.restore(model) if args.resume else training.Place(0, 0)
    if args.resume:
        print(f"Going on after {place.epoch} epochs and {place.step} updates.")
    # A German number is one word: of its n-grams only those of characters say how near a miss was.
    tokenize = "char" if by_default else "none" if args.tokenized else "13a"
    bleu = sacrebleu.BLEU(tokenize=tokenize, force=args.tokenized)
    callbacks = [
        training.TerminateOnNaN(),
        checkpoints,
        training.Throughput(functools.partial(models.training_flops, model)),
        training.SkippedUpdates(),
    ]
    if args.bleu_sentences:
        greedy = tasks.Translator(model, tokenizer, num_beams=1)
        callbacks.append(training.Bleu(greedy, *texts(valid.take(args.bleu_sentences)), metric=bleu))
    callbacks.append(keras.callbacks.CSVLogger(output / "history.csv", append=args.resume))
    if args.updates:
        callbacks.append(StopAt(args.updates))

    def fit(place, epochs):
        model.fit(
            training_batches(place),
            validation_data=validation,
            initial_epoch=place.epoch,
            epochs=epochs,
            callbacks=callbacks,
            shuffle=False,
        )

    started = time.time()
    try:
        if place.step and place.epoch < args.epochs:  # first the rest of the epoch that was interrupted
            if next(iter(training_batches(place)), None) is not None:
                fit(place, place.epoch + 1)
            place = training.Place(place.epoch + 1, 0)
        if place.epoch < args.epochs and not model.stop_training:
            fit(place, args.epochs)
    except KeyboardInterrupt:
        place = checkpoints.save_place()
        print(f"\nSaved after {place.epoch} epochs and {place.step} updates.")
        raise
    print(f"Trained in {time.time() - started:.0f} s.")
    if args.average > 1:
        print(f"Averaged the last {checkpoints.average(model, args.average)} epochs.")

    # STRINGS -> STRINGS
    penalty = generation.AverageLength(args.length_penalty) if args.average_length else args.length_penalty
    translator = tasks.Translator(model, tokenizer, num_beams=args.num_beams, length_penalty=penalty)
    sources, references = texts(test)
    translations = translator(sources, verbose=1)
    for source, translation, reference in list(zip(sources, translations, references, strict=True))[:5]:
        print(f"\n  source       {source}\n  translation  {translation}\n  reference    {reference}")
    exact = np.mean([t == r for t, r in zip(translations, references, strict=True)])
    print(f"\n{bleu.corpus_score(translations, [references])}  [{bleu.get_signature()}]")
    print(f"Exact matches: {exact:.1%} of {len(references)} held-out sentences")

    with training.complete_or_absent(keras_file) as temporary:
        model.save(temporary)
    translator.export(saved_model, overwrite=True)
    history = output / "history.csv"
    if history.exists() and history.stat().st_size:  # an epoch that was stopped in validation has no line in it
        visualization.plot_learning_curve(history, output / "learning_curve.png")
    # A picture has room for so many characters.
    shown = min(range(len(sources)), key=lambda i: len(sources[i] + translations[i]) > 200)
    draw_attention(model, tokenizer, sources[shown], translations[shown], output / "attention.png")
    print("Wrote:", *(f"  {path}" for path in sorted(output.iterdir())), sep="\n")


def texts(pairs):
    """The sources and the targets of a dataset, as two lists of strings."""
    return tuple([sentence.decode() for sentence in side] for side in zip(*pairs.as_numpy_iterator()))


class StopAt(keras.callbacks.Callback):
    """Ends training after a number of updates, counted over the whole run."""

    def __init__(self, updates):
        super().__init__()
        self.updates = updates

    def on_train_batch_end(self, step, logs=None):
        if int(self.model.optimizer.iterations) >= self.updates:
            self.model.stop_training = True


def draw_attention(model, tokenizer, source, translation, path):
    """Which piece of the translation looks at which piece of the source, in the last layer."""
    source_ids, target_ids = (ids.numpy() for ids in tokenizer([source, translation]))
    source_ids = np.append(source_ids, tokenizer.end_token_id)
    target_ids = np.insert(target_ids, 0, tokenizer.start_token_id)
    scores = model.attention_scores({"encoder_token_ids": source_ids[None], "decoder_token_ids": target_ids[None]})
    visualization.plot_attention(
        scores["cross"][-1][0],
        queries=tokenizer.pieces(target_ids),
        keys=tokenizer.pieces(source_ids),
        path=path,
        title=f"{source} -> {translation}",
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
