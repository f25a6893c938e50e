"""Training speed: this library, KerasHub's blocks and torch.nn, on the same sentences, in one interleaved run.

    python benchmarks/train.py --source train.en.gz --target train.de.gz --vocabulary runs/multi30k.model
    python benchmarks/train.py ... --preset base --batch-tokens 2048 --updates 2 --rounds 3

Each contender is a process of its own that trains a Transformer of the same size and waits for its turn; a turn is a
few updates. Besides them one multiplies large matrices, which gives the machine's limit. Printed and written as JSON:
medians over the rounds of real target tokens a second, the time to the end of the first update and, with XLA, to that
of the first of every batch shape, how often the model was traced and how many shapes there are (XLA compiles each), the
share of target positions that are real, and peak memory.

ours, by length    `fit` as in examples/translation.py on a CPU: no XLA, 32 lengths
ours, packed       several pairs in a row of 128 positions: one shape
ours, packed, XLA  the same with XLA
KerasHub           TransformerEncoder and TransformerDecoder, shuffled batches of 64 padded to their longest, no XLA
KerasHub, XLA      the same with XLA, all batches padded to 40; longer pairs (of Multi30k one in 900) are left out
torch              benchmarks/translation_control.py: batches by length, only real positions projected to the
                   vocabulary, fused Adam
torch, plain       the same as it is usually written: all positions projected, the system's own allocator

All but the last keep the memory that they free (`training.keep_freed_memory`), KerasHub too, whose users would have to
know of it.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import sys
from pathlib import Path

from turns import Turns, take_turns

VOCABULARY_SIZE, LONGEST, ROWS, PACKED_LENGTH, FIXED_LENGTH = 9700, 100, 64, 128, 40
FEW = 8  # updates that warm up memory
SIZES = {  # layers, heads, width, inner width, dropout
    "tiny": (4, 4, 128, 256, 0.3),
    "base": (6, 8, 512, 2048, 0.1),
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="training sentences, one a line, plain or .gz")
    parser.add_argument("--target", required=True, help="their translations, line by line")
    parser.add_argument("--vocabulary", required=True, help="a SentencePiece model; learned if it is missing")
    parser.add_argument("--preset", choices=SIZES, default="tiny", help="size of the models")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="positions of a batch (KerasHub: 64 rows)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="of the contenders")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=10, help="updates of a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)  # a process of the run
    return parser.parse_args()


def train_keras(args, make_model, make_batches, loss, xla):
    """Trains by `fit`; `make_batches(examples)` gives the same batches each time it is called."""
    import keras
    import tensorflow as tf

    from keras_transformer import text, training

    training.keep_freed_memory()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    keras.utils.set_random_seed(1)
    tokenizer = text.SentencePieceTokenizer(args.vocabulary)
    pairs = text.read_parallel(args.source, args.target)
    examples = text.to_examples(pairs, tokenizer, tokenizer, LONGEST).map(text.shift)
    batches = make_batches(examples)
    real, positions, one_of_each_shape = [], 0, {}
    for batch in make_batches(examples):
        real.append(int(tf.math.count_nonzero(batch[2])))
        positions += int(tf.size(batch[2]))
        shapes = tuple(tuple(part.shape) for part in tf.nest.flatten(batch))
        one_of_each_shape.setdefault(shapes, batch)
    warm_up = tf.data.Dataset.from_generator(
        lambda: iter(one_of_each_shape.values()), output_signature=batches.element_spec
    )
    model, traces = make_model(tokenizer.vocabulary_size), []

    def counted(compute_loss):
        @functools.wraps(compute_loss)
        def compute(*args, **kwargs):
            traces.append(1)
            return compute_loss(*args, **kwargs)

        return compute

    model.compute_loss = counted(model.compute_loss)
    model.compile(
        keras.optimizers.Adam(
            training.InverseSquareRoot(5e-3, 500, 1e-7), beta_1=0.9, beta_2=0.98, epsilon=1e-8, global_clipnorm=25.0
        ),
        loss=loss(),
        jit_compile=xla,
    )
    turns = Turns(args.updates)
    one, others = warm_up.take(1), warm_up.skip(1)
    if not xla:  # one graph serves all shapes
        others = others.take(FEW)
    model.fit(one, verbose=0, shuffle=False)
    first = turns.seconds()
    if len(one_of_each_shape) > 1:
        model.fit(others, verbose=0, shuffle=False)
    turns.after_first_update(
        first=first,
        shapes=len(one_of_each_shape),
        traces=len(traces),
        real_positions=sum(real) / positions,
    )
    after = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: turns.after_update(real[batch]))
    while True:  # the epochs are alike
        model.fit(batches, verbose=0, callbacks=[after], shuffle=False)
        batches = make_batches(examples)


def our_model(args, vocabulary_size):
    from keras_transformer import models

    return models.Transformer.from_preset(args.preset, vocabulary_size=vocabulary_size, attention_dropout=0.0)


def our_loss():
    from keras_transformer import training

    return training.LinearCrossEntropy(0.1)


def by_length(args, examples):
    from keras_transformer import text

    lengths = text.choose_lengths(text.length_histogram(examples), 32)
    return text.batch_by_tokens(examples, args.batch_tokens, lengths, seed=1)


def packed(args, examples):
    from keras_transformer import text

    return text.pack(examples, args.batch_tokens, PACKED_LENGTH, PACKED_LENGTH, seed=1)


def train_ours(args, pipeline, xla):
    make_model, make_batches = (functools.partial(part, args) for part in (our_model, pipeline))
    train_keras(args, make_model, make_batches, our_loss, xla)


def padded(length, examples):
    """Shuffled batches of `ROWS` examples, as KerasHub's users make them: as long as their longest, or `length`."""
    import tensorflow as tf

    def fill(rows):
        return rows.to_tensor(shape=[ROWS, length])

    rows = examples.unbatch()
    if length:
        rows = rows.filter(
            lambda inputs, labels, _: tf.maximum(tf.size(labels), tf.size(inputs["encoder_token_ids"])) <= length
        )
    batches = rows.shuffle(50_000, seed=1, reshuffle_each_iteration=False).batch(ROWS, drop_remainder=True)
    return batches.map(lambda *batch: tf.nest.map_structure(fill, batch, expand_composites=False)).prefetch(2)


def kerashub_model(args, vocabulary_size):
    import keras
    import keras_hub

    layers, heads, width, inner, dropout = SIZES[args.preset]
    source, target = (keras.Input((None,), dtype="int32", name=f"{side}_token_ids") for side in ("encoder", "decoder"))
    embedding = keras_hub.layers.ReversibleEmbedding(vocabulary_size, width)
    source_mask, target_mask = (keras.ops.not_equal(ids, 0) for ids in (source, target))

    def embed(ids):
        x = embedding(ids)
        return keras.layers.Dropout(dropout)(x + keras_hub.layers.SinePositionEncoding()(x))

    memory, x = embed(source), embed(target)
    for _ in range(layers):
        memory = keras_hub.layers.TransformerEncoder(inner, heads, dropout)(memory, padding_mask=source_mask)
    for _ in range(layers):
        x = keras_hub.layers.TransformerDecoder(inner, heads, dropout)(
            x, memory, decoder_padding_mask=target_mask, encoder_padding_mask=source_mask
        )
    return keras.Model({"encoder_token_ids": source, "decoder_token_ids": target}, embedding(x, reverse=True))


def keras_loss():
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train_kerashub(args, length, xla):
    make_model, make_batches = functools.partial(kerashub_model, args), functools.partial(padded, length)
    train_keras(args, make_model, make_batches, keras_loss, xla)


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
    layers, heads, width, inner, dropout = SIZES[args.preset]
    model = (Plain if plain else control.Transformer)(
        vocabulary.get_piece_size(), dropout, layers=layers, heads=heads, hidden=width, inner=inner
    )
    recipe = {"learning_rate": 5e-3, "warmup": 500, "label_smoothing": 0.1, "clip_norm": 25.0}
    training = control.Training(model, argparse.Namespace(**recipe, output=""))
    model.train()
    batches = control.make_batches(pairs, args.batch_tokens, seed=1)
    sides = [[len(pairs[i][1]) for i in batch] for batch in batches]
    longest = [max(control.longest(pairs[i]) for i in batch) for batch in batches]
    turns = Turns(args.updates)
    training.step(pairs, batches[0])
    turns.after_first_update(
        first=turns.seconds(),
        shapes=len({(len(side), most) for side, most in zip(sides, longest)}),
        traces=0,
        real_positions=sum(map(sum, sides)) / sum(len(side) * max(side) for side in sides),
    )
    while True:
        for batch in batches:
            training.step(pairs, batch)
            turns.after_update(sum(len(pairs[i][1]) for i in batch))


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
    "ours, by length": functools.partial(train_ours, pipeline=by_length, xla=False),
    "ours, packed": functools.partial(train_ours, pipeline=packed, xla=False),
    "ours, packed, XLA": functools.partial(train_ours, pipeline=packed, xla=True),
    "KerasHub": functools.partial(train_kerashub, length=None, xla=False),
    "KerasHub, XLA": functools.partial(train_kerashub, length=FIXED_LENGTH, xla=True),
    "torch": functools.partial(train_torch, plain=False),
    "torch, plain": functools.partial(train_torch, plain=True),
    "limit": multiply_matrices,
}
COLUMNS = {
    "tokens/s": ("per_second", ".0f"),
    "to KerasHub": ("ratio_to_kerashub", ".2f"),
    "to torch": ("ratio_to_torch", ".2f"),
    "first, s": ("first", ".1f"),
    "all shapes, s": ("first_update_seconds", ".1f"),
    "shapes": ("shapes", "d"),
    "traces": ("traces", "d"),
    "real": ("real_positions", ".0%"),
    "peak, MB": ("peak_memory_mb", ".0f"),
}


def main():
    args = parse_arguments()
    if args.contender:
        CONTENDERS[args.contender](args)
        return
    from translation_control import cpu_model, load_vocabulary

    load_vocabulary(args.vocabulary, VOCABULARY_SIZE, [args.source, args.target])
    names = [name for name in CONTENDERS if name in args.only or name == "limit"]
    results = {c.name: {**c.first, **c.result()} for c in take_turns(__file__, names, sys.argv[1:], args.rounds)}
    limit = results.pop("limit")["per_second"]
    for name, rivals in (("kerashub", ("KerasHub", "KerasHub, XLA")), ("torch", ("torch", "torch, plain"))):
        best = max((results[rival]["per_second"] for rival in rivals if rival in results), default=float("nan"))
        for result in results.values():
            result[f"ratio_to_{name}"] = result["per_second"] / best
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "keras-hub", "torch")}
    print(f"\n{cpu_model()}, {args.threads} threads, {versions}; matrices multiply at {limit / 1e9:.0f} GFLOP/s")
    print(f"{args.preset}, batches of {args.batch_tokens} positions a side; tokens are real target tokens")
    print("ratios are to the better of a rival's two")
    widths = {title: max(len(title), 7) + 2 for title in COLUMNS}
    print(f"{'':18}" + "".join(f"{title:>{widths[title]}}" for title in COLUMNS))
    for name, result in results.items():
        cells = (f"{result[key]:>{widths[title]}{form}}" for title, (key, form) in COLUMNS.items())
        print(f"{name:18}" + "".join(cells))
    path = Path(args.output) / f"train-{args.preset}-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"cpu": cpu_model(), "versions": versions, **vars(args), "limit_flop_per_second": limit}
    path.write_text(json.dumps(record | {"results": results}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
