"""Trains a small tagger, says how well it does for each label and writes it as a SavedModel.

Without arguments it needs no data and no network: it learns to tell the roles of names in Python source (function,
class, parameter, ...) from the names of a line alone, without the signs and keywords between them. The lines are those
of the standard library. With --train and --valid it learns from your files: CoNLL-U, columns as of CoNLL-2003, or the
directory of a tf.data.Dataset of (words, labels) that `Dataset.save` wrote.

    python examples/sequence_tagging.py
    python examples/sequence_tagging.py --train en_ewt-ud-train.conllu.gz --valid en_ewt-ud-dev.conllu.gz
    python examples/sequence_tagging.py --train train.txt --valid valid.txt --column ner --crf --pretrained DIRECTORY
"""

import argparse
import ast
import builtins
import math
import os
import random
import re
import shlex
import sys
import sysconfig
import time
from collections import Counter, defaultdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from keras_transformer import interop, layers, models, tasks, text, training, visualization


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
    data = parser.add_argument_group("data (default: names in the source of Python's standard library)")
    data.add_argument("--train", help="training sentences: .conllu, columns (both plain or .gz), or a directory")
    data.add_argument("--valid", help="validation sentences, which all figures are of")
    data.add_argument("--column", choices=("upos", "xpos", "ner"), help="the labels (.conllu: upos, else ner)")
    data.add_argument("--skip-malformed", action="store_true", help="leave out sentences with lines that are malformed")
    model = parser.add_argument_group("model and training")
    model.add_argument("--pretrained", help="directory of a BERT in Hugging Face's format, to be trained further")
    model.add_argument("--crf", action="store_true", help="a conditional random field on the logits")
    model.add_argument("--scheme", choices=("BIO", "BIOES"), help="with --crf: allow only what this scheme allows")
    model.add_argument("--layers", type=at_least(1), default=2, help="from scratch: number of blocks (default: 2)")
    model.add_argument("--dim", type=at_least(4), default=128, help="from scratch: width of the model (default: 128)")
    model.add_argument("--dropout", type=at_least(0, float, below=1), help="rate (default: 0.4, pretrained 0.1)")
    model.add_argument("--epochs", type=at_least(1), help="epochs (default: 16; names 6; pretrained 3)")
    model.add_argument("--batch-tokens", type=at_least(2), help="tokens of a batch (default: 1536; names 512)")
    model.add_argument("--max-length", type=at_least(8), default=128, help="positions of a window (default: 128)")
    model.add_argument("--learning-rate", type=at_least(0, float), help="its peak (default: 2e-3; pretrained 2e-4)")
    model.add_argument("--label-smoothing", type=at_least(0, float, below=1), default=0.1, help="without --crf")
    model.add_argument("--seed", type=at_least(0, below=2**32), default=1)
    run = parser.add_argument_group("run")
    run.add_argument("--output", default="runs/sequence_tagging", help="directory for all that is written")
    run.add_argument("--resume", action="store_true", help="go on with the run in --output")
    run.add_argument("--quick", action="store_true", help="a run of under a minute, to see that everything works")
    args = parser.parse_args()
    if bool(args.train) != bool(args.valid):
        parser.error("--train and --valid go together: give both or neither")
    if args.column and not args.train:
        parser.error("--column is of your own files: give --train and --valid too")
    if args.scheme and not args.crf:
        parser.error("--scheme is what --crf allows: give that too")
    fine_tuned = bool(args.pretrained)
    args.dropout = (0.1 if fine_tuned else 0.4) if args.dropout is None else args.dropout
    args.epochs = args.epochs or (3 if args.quick or fine_tuned else 16 if args.train else 6)
    args.batch_tokens = args.batch_tokens or (256 if args.quick else 1536 if args.train else 512)
    args.learning_rate = args.learning_rate or (2e-4 if fine_tuned else 2e-3)
    return args


# --- Names in Python source, and their roles ---


def roles(source):
    """The names of each line of a module with their roles, as `{line: [(column, name, role), ...]}`."""
    lines, found = source.splitlines(), defaultdict(list)
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    classes |= {name for name, value in vars(builtins).items() if isinstance(value, type) and name[0].isupper()}
    imported = {
        (alias.asname or alias.name.split(".")[0])
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }

    def add(line, column, name, role):
        if lines[line - 1].isascii() and lines[line - 1][column : column + len(name)] == name:
            found[line].append((column, name, role))

    def visit(node, parameters, inside_class):
        called = isinstance(node, ast.Call) and node.func
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defines = re.compile(rf"(?:def|class)\s+({node.name})\b").search(lines[node.lineno - 1])
            kind = "class" if isinstance(node, ast.ClassDef) else "method" if inside_class else "function"
            if defines:
                add(node.lineno, defines.start(1), node.name, kind)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            parameters = parameters | {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        if isinstance(node, ast.arg):
            add(node.lineno, node.col_offset, node.arg, "parameter")
        elif isinstance(node, ast.keyword) and node.arg:
            add(node.lineno, node.col_offset, node.arg, "keyword")
        elif isinstance(node, ast.alias):
            add(node.lineno, node.col_offset, node.name, "import")
        elif isinstance(node, ast.Attribute):
            role = "method" if getattr(node, "is_called", False) else "attribute"
            add(node.end_lineno, node.end_col_offset - len(node.attr), node.attr, role)
        elif isinstance(node, ast.Name):
            role = "function" if getattr(node, "is_called", False) else "variable"
            for names, other in ((parameters, "parameter"), (imported, "import"), (classes, "class")):
                if node.id in names:
                    role = other
            add(node.lineno, node.col_offset, node.id, role)
        if called:
            called.is_called = True
        for child in ast.iter_child_nodes(node):
            visit(child, parameters, isinstance(node, ast.ClassDef))

    visit(tree, frozenset(), False)
    return found


def names_in_python(seed, count, held_out):
    """Lines of names: `count` to train on, and `held_out` of other files that are not among them."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(f for f in folder.glob("*.py")) + sorted(
        f for f in folder.glob("*/*.py") if f.parent.name not in ("test", "site-packages", "encodings", "pydoc_data")
    )
    random.Random(seed).shuffle(files)
    seen, sentences = set(), []
    for file in files:
        try:
            found = roles(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, RecursionError):
            continue
        for _, names in sorted(found.items()):
            words, labels = zip(*(entry[1:] for entry in sorted(set(names))))
            if len(words) > 1 and words not in seen:
                seen.add(words)
                sentences.append(text.TaggedSentence(words, labels))
        if len(sentences) >= count + held_out:
            break
    return sentences[held_out : count + held_out], sentences[:held_out]


# --- Data ---


def read(args, path, labels=None):
    """A dataset of `(words, labels)`."""
    if Path(path).is_dir():
        try:
            return tf.data.Dataset.load(str(path))
        except (tf.errors.OpError, OSError) as error:
            raise ValueError(f"{path} is no directory that tf.data.Dataset.save wrote. Give one, or a file.") from error
    errors = "skip" if args.skip_malformed else "raise"
    if ".conllu" in Path(path).name:
        return text.tagged_dataset(text.read_conllu(path, args.column or "upos", labels, errors))
    return text.tagged_dataset(text.read_conll2003(path, args.column or "ner", labels, errors))


def datasets(args):
    """Training and validation sentences, and the labels of the training sentences."""
    if not args.train:
        count, held_out = (1500, 200) if args.quick else (24_000, 3000)
        print(f"Task: roles of names in Python; lines of the standard library, up to {count} to learn from.")
        train, valid = (text.tagged_dataset(part) for part in names_in_python(args.seed, count, held_out))
        return train, valid, list(text.count_labels(train))
    train = read(args, args.train)
    labels = list(text.count_labels(train))
    valid = read(args, args.valid, labels)
    if unknown := sorted({*text.count_labels(valid)} - {*labels}):  # of a file the reader says in which line
        raise ValueError(
            f"{args.valid} has labels that --train does not have: {', '.join(unknown)}. Correct one of them."
        )
    if args.quick:
        train, valid = train.take(1000), valid.take(200)
    return train, valid, labels


def pairs(dataset):
    """The words and the labels of each sentence, as lists of str."""
    return [([w.decode() for w in words], [x.decode() for x in tags]) for words, tags in dataset.as_numpy_iterator()]


def baseline(train, valid):
    """Accuracies of the most frequent label, and of each word's own most frequent label."""
    counts, every = defaultdict(Counter), Counter()
    for words, labels in train:
        every.update(labels)
        for word, label in zip(words, labels):
            counts[word][label] += 1
    most = every.most_common(1)[0][0]
    best = {word: found.most_common(1)[0][0] for word, found in counts.items()}
    right = [(label == most, label == best.get(word, most)) for s in valid for word, label in zip(*s)]
    return np.mean(right, axis=0)


# --- Models ---


def from_scratch(args, features, num_labels):
    """Eight features of each word, embedded side by side; blocks over the words; logits."""
    ids = keras.Input((None, features.num_features), dtype="int32", name="token_ids")
    # What the model reads for an unknown word is trained as any other; its prefixes and suffixes stay known.
    word = layers.TokenDropout(0.1, features.unknown_ids[0])(ids[:, :, :1])
    x = keras.layers.Embedding(
        features.vocabulary_size, 64, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.1)
    )(keras.ops.concatenate([word, ids[:, :, 1:]], axis=-1))
    x = layers.Dropout(args.dropout)(keras.layers.Reshape((-1, 64 * features.num_features))(x))
    x = layers.Dropout(args.dropout)(keras.layers.Dense(args.dim)(x))
    position = layers.RelativePositionEmbedding(max_distance=8)  # one table for all blocks
    padding_mask = keras.ops.not_equal(ids[:, :, 0], features.pad_token_id)
    for _ in range(args.layers):
        x = layers.EncoderBlock(
            2 * args.dim,
            num_heads=4,
            dropout=args.dropout,
            attention_dropout=0.1,
            activation="gelu",
            normalize_first=True,
            position=position,
        )(x, padding_mask=padding_mask)
    logits = keras.layers.Dense(num_labels)(keras.layers.LayerNormalization()(x))
    return keras.Model({"token_ids": ids}, logits)


def pretrained(args, num_labels):
    """A classifier of tokens on a pretrained encoder, its tokenizer, and whether capitals are told by segments."""
    encoder = interop.from_huggingface(args.pretrained)
    encoder = getattr(encoder, "encoder", encoder)
    tokenizer = interop.tokenizer_from_huggingface(args.pretrained)
    # A vocabulary of small letters cannot tell "Bill" from "bill". The table of segments can: it has two rows, and
    # tagging needs no other.
    capitals = getattr(tokenizer, "lowercase", False) and (encoder.num_segments or 0) >= 2
    return models.TokenClassifier(encoder, num_labels, dropout=args.dropout), tokenizer, capitals


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
    keras_file, saved_model = output / "tagger.keras", output / "saved_model"
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

    # TEXT -> TOKENS
    train, valid, labels = datasets(args)
    train_pairs, valid_pairs = pairs(train), pairs(valid)
    words = sum(len(tags) for _, tags in valid_pairs)
    print(f"{len(train_pairs)} sentences to learn from, {len(valid_pairs)} held out with {words} words.")
    print(f"{len(labels)} labels: {', '.join(labels[:20])}{' ...' if len(labels) > 20 else ''}")
    if args.pretrained:
        model, tokenizer, capitals = pretrained(args, len(labels))
    else:
        file = output / "features.npz"
        tokenizer = (
            text.WordFeatures(file)
            if args.resume
            else text.WordFeatures.learn(word for words, _ in train_pairs for word in words)
        )
        tokenizer.save(file)
        model, capitals = from_scratch(args, tokenizer, len(labels)), False
    reading = {"max_length": args.max_length, "overlap": args.max_length // 4, "segment_capitals": capitals}
    examples = text.to_tagged_examples(train, tokenizer, labels, **reading)
    histogram = text.length_histogram(examples)
    lengths = text.choose_lengths(histogram, 16)
    updates_an_epoch = text.count_batches(histogram, args.batch_tokens, lengths)

    def training_batches(place):
        """The batches of the epochs from `place` on, each epoch in an order of its own that the seed fixes."""
        batches = text.batch_by_tokens(
            examples, args.batch_tokens, lengths, 10**6, seed=args.seed, initial_epoch=place.epoch
        )
        return batches.skip(place.step).apply(tf.data.experimental.assert_cardinality(updates_an_epoch - place.step))

    validation = text.batch_by_tokens(
        text.to_tagged_examples(valid, tokenizer, labels, **reading),
        args.batch_tokens,
        sorted({*lengths, args.max_length}),
        shuffle=False,
    ).cache()
    validation = validation.apply(tf.data.experimental.assert_cardinality(sum(1 for _ in validation)))

    # TOKENS -> LOSS
    spans = all(re.fullmatch(r"O|[BIES]-.+", label) for label in labels)
    metrics = [training.TokenAccuracy(), *([training.EntityF1(labels)] if spans else [])]
    updates = args.epochs * updates_an_epoch
    warmup = max(updates // 10, 1)
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            0.0, updates - warmup, warmup_target=args.learning_rate, warmup_steps=warmup
        ),
        weight_decay=0.01 if args.pretrained else 0.1,
        beta_2=0.98,
        global_clipnorm=1.0,
    )
    loss = None
    if args.crf:
        allowed = layers.allowed_transitions(labels, args.scheme) if args.scheme else None
        model = models.CRFTagger(model, len(labels), allowed)
    else:
        loss = training.SmoothedCrossEntropy(0.0 if args.pretrained else args.label_smoothing)
    model.compile(optimizer, loss, weighted_metrics=metrics, jit_compile=bool(tf.config.list_physical_devices("GPU")))
    print(f"{model.count_params():,} parameters, {updates_an_epoch} updates an epoch, {args.epochs} epochs.")
    place = checkpoints.restore(model) if args.resume else training.Place(0, 0)
    if args.resume:
        print(f"Going on after {place.epoch} epochs and {place.step} updates.")
    callbacks = [RefuseNaN(), checkpoints, keras.callbacks.CSVLogger(output / "history.csv", append=args.resume)]

    def fit(place, epochs):
        model.fit(
            training_batches(place),
            validation_data=validation,
            initial_epoch=place.epoch,
            epochs=epochs,
            callbacks=callbacks,
            shuffle=False,
            verbose=1 if sys.stdout.isatty() else 2,
        )

    started, cpu = time.time(), time.process_time()
    try:
        if place.step and place.epoch < args.epochs:  # first the rest of the epoch that was interrupted
            if updates_an_epoch > place.step:
                fit(place, place.epoch + 1)
            place = training.Place(place.epoch + 1, 0)
        if place.epoch < args.epochs:
            fit(place, args.epochs)
    except KeyboardInterrupt:
        place = checkpoints.save_place()
        print(f"\nSaved after {place.epoch} epochs and {place.step} updates.")
        raise
    print(f"Trained in {time.time() - started:.0f} s, {time.process_time() - cpu:.0f} s of processor time.")

    # STRINGS -> LABELS
    splitter = text.WordSplitter(text.ENGLISH_CLITICS)
    tagger = tasks.Tagger(model, tokenizer, labels, splitter, **reading)
    found = [[label for _, label, _ in tagged] for tagged in tagger([words for words, _ in valid_pairs], verbose=1)]
    report(labels, train_pairs, valid_pairs, found, output, spans)
    for words, tags in valid_pairs[:3]:
        (tagged,) = tagger([words])
        marked = (
            f"{word}/{label}" + (f" (not {tag})" if label != tag else "") for (word, label, _), tag in zip(tagged, tags)
        )
        print("\n  " + "  ".join(marked))

    with training.complete_or_absent(keras_file) as temporary:
        model.save(temporary)
    tagger.export(saved_model, overwrite=True)
    history = output / "history.csv"
    if history.exists() and history.stat().st_size:  # an epoch that was stopped in validation has no line in it
        visualization.plot_learning_curve(history, output / "learning_curve.png", "loss")
    print("Wrote:", *(f"  {path}" for path in sorted(output.iterdir())), sep="\n")


def report(labels, train_pairs, valid_pairs, found, output, spans):
    """Precision, recall and F1 of each label, the accuracy beside what it is to be compared with, and a picture."""
    index = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), "int64")
    for (_, tags), labels_found in zip(valid_pairs, found):
        np.add.at(counts, ([index[tag] for tag in tags], [index[label] for label in labels_found]), 1)
    right, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    print(f"\n{'label':16}{'precision':>10}{'recall':>10}{'F1':>10}{'words':>10}")
    for i in np.argsort(-true):
        precision, recall = right[i] / max(predicted[i], 1), right[i] / max(true[i], 1)
        f1 = 2 * right[i] / max(predicted[i] + true[i], 1)
        print(f"{labels[i]:16}{precision:10.4f}{recall:10.4f}{f1:10.4f}{true[i]:10}")
    accuracy = right.sum() / counts.sum()
    most, own = baseline(train_pairs, valid_pairs)
    print(f"\nAccuracy: {accuracy:.2%} of {counts.sum()} held-out words")
    print(f"  to compare: {most:.2%} if each word had the most frequent label, {own:.2%} if each had its own")
    if spans:
        ours, theirs = ([set(training.entities(x)) for x in side] for side in ([t for _, t in valid_pairs], found))
        both, all_ = sum(len(a & b) for a, b in zip(ours, theirs)), sum(len(a) + len(b) for a, b in zip(ours, theirs))
        print(f"Entity F1: {2 * both / max(all_, 1):.2%}")
    visualization.plot_confusion(counts, labels, output / "confusion.png", f"accuracy {accuracy:.2%}")


class RefuseNaN(keras.callbacks.Callback):
    """Ends the run at a loss that is no number, before a checkpoint is made of it."""

    def on_train_batch_end(self, step, logs=None):
        if not math.isfinite(logs["loss"]):
            raise ValueError(f"The loss has become {logs['loss']}. Lower --learning-rate.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
