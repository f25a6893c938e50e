"""What an export in fewer bits costs: BLEU, sentences that change, size and speed of each SavedModel, in one run.

    python examples/translation.py
    python benchmarks/quantization.py --model runs/translation

`--model` is a directory that examples/translation.py wrote. Without --source and --target the numbers are translated
that its default run held out. Each SavedModel translates the same sentences, in batches by length; they take turns, and
seconds are the medians of the rounds after the first, in which XLA compiles.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import num2words
import sacrebleu
import tensorflow as tf
from translation_control import cpu_model

from keras_transformer import tasks, text
from keras_transformer.tasks.batches import of_like_length

WAYS = {
    "float32": {},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantize": "int8"},
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of a run of examples/translation.py")
    parser.add_argument("--vocabulary", help="its SentencePiece model (default: the one in that directory)")
    parser.add_argument("--source", help="sentences to translate, one a line, plain or .gz (default: numbers)")
    parser.add_argument("--target", help="their translations")
    parser.add_argument("--tokenized", action="store_true", help="files are tokenized: BLEU must not tokenize again")
    parser.add_argument("--sentences", type=int, default=1000, help="so many of them at most")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-beams", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    return parser.parse_args()


def sentences(args):
    if args.source:
        pairs = text.read_parallel(args.source, args.target).take(args.sentences)
        return tuple([line.decode() for line in side] for side in zip(*pairs.as_numpy_iterator()))
    numbers = random.Random(1).sample(range(100_000), 81_000)[: min(args.sentences, 1000)]  # as that example draws them
    return tuple([num2words.num2words(n, lang=language) for n in numbers] for language in ("en", "de"))


def translate(served, batches, count):
    found = [""] * count
    for rows, batch in batches:
        for row, translation in zip(rows, served(texts=batch)["translations"].numpy(), strict=True):
            found[row] = translation.decode()
    return found


def main():
    args = parse_arguments()
    directory = Path(args.model)
    tokenizer = text.SentencePieceTokenizer(args.vocabulary or directory / "vocabulary.model")
    model = keras.models.load_model(directory / "translation.keras")
    translator = tasks.Translator(model, tokenizer, num_beams=args.num_beams)
    sources, references = sentences(args)
    cuts = of_like_length(sources, args.batch_size, 0, "sentence")
    batches = [(rows, tf.constant([sources[i] for i in rows])) for rows in cuts]
    tokenize = "char" if not args.source else "none" if args.tokenized else "13a"
    bleu = sacrebleu.BLEU(tokenize=tokenize, force=args.tokenized)
    with tempfile.TemporaryDirectory() as folder:
        served, results = {}, {}
        for name, options in WAYS.items():
            path = Path(folder) / name
            translator.export(path, **options)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            loaded = tf.saved_model.load(path)
            served[name] = loaded, loaded.signatures["serving_default"]  # the variables live as long as the first
            results[name] = {"megabytes": size / 1e6, "seconds": []}
        for number in range(args.rounds + 1):
            for name, result in results.items():
                began = time.perf_counter()
                result["translations"] = translate(served[name][1], batches, len(sources))
                if number:
                    result["seconds"].append(time.perf_counter() - began)
    exact = results["float32"]["translations"]
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    print(f"{cpu_model()}, {versions}; {model.count_params():,} parameters, {len(sources)} sentences")
    print(f"batches of {args.batch_size}, {args.num_beams} beams, BLEU of {tokenize!r} tokens")
    print(f"{'':16}{'MB':>8}{'BLEU':>8}{'changed':>9}{'sentences/s':>13}{'to float32':>12}")
    for name, result in results.items():
        found = result.pop("translations")
        result["bleu"] = bleu.corpus_score(found, [references]).score
        result["changed"] = sum(a != b for a, b in zip(found, exact)) / len(exact)
        result["per_second"] = len(sources) / statistics.median(result["seconds"])
        ratio = result["per_second"] / results["float32"]["per_second"]
        print(
            f"{name:16}{result['megabytes']:>8.1f}{result['bleu']:>8.2f}{result['changed']:>9.1%}"
            f"{result['per_second']:>13.1f}{ratio:>12.2f}"
        )
    path = Path(args.output) / f"quantization-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"cpu": cpu_model(), "versions": versions, **vars(args), "results": results}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
