"""Speed of translation: our SavedModel, CTranslate2 and Hugging Face beside the limit, in one interleaved run.

    python benchmarks/decode.py

The paper's base model with random weights and 32,000 tokens translates sources of 20 tokens into 32 tokens in float32,
one or 32 at a time, by greedy search and with four beams. Each contender is a process of its own that waits for its
turn; a turn is one batch.

limit             no more than the products of a step with the weights of the decoder, 32 times, under XLA, each
                  in halves, as ours has all but the logits of many rows
ours              the SavedModel of `Translator.export`, as `tf.saved_model.load` gives it, from strings to strings
ours, plain       its signature `without_xla`
ours, int8        the SavedModel with `quantize="int8"`
CTranslate2       the same weights by `interop.to_ctranslate2`; "int8" quantized by it
Hugging Face      a `MarianMTModel` of the same sizes in PyTorch
KerasHub          its `TransformerEncoder` and `TransformerDecoder` of the same sizes with their caches, its samplers
                  without an end token, in `tf.function`; "XLA" compiled by that

A contender whose library is not installed is left out. The sentences that ours and CTranslate2 find are compared.
Printed and written as JSON: medians over the rounds of tokens a second, and of each round's ratio to CTranslate2 in
float32 in the same round. Then how long a token takes at step 16 and at step 256. A picture has the tokens a second.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY, SOURCE, TARGET = 32_000, 20, 32
CELLS = {f"{batch} {name}": (batch, beams) for batch in (1, 32) for name, beams in (("greedy", 1), ("beam 4", 4))}
STEPS = {f"{batch} to {length}": (batch, length) for batch in (1, 32) for length in (8, 24, 248, 264)}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the sources")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="these alone")
    parser.add_argument("--cells", nargs="+", choices=[*CELLS, "steps"], default=[*CELLS, "steps"])
    parser.add_argument("--output", default="runs/benchmarks", help="directory of the dated JSON file")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)  # a process of the run
    return parser.parse_args()


def sources(args, batch):
    import numpy as np

    ids = np.random.default_rng(args.seed).integers(4, VOCABULARY, (batch, SOURCE - 1))
    return [[int(token_id) for token_id in row] for row in ids]


def base_model(args):
    import keras
    import tensorflow as tf

    from keras_transformer import models

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    keras.utils.set_random_seed(args.seed)
    return models.Transformer(VOCABULARY)


# Contenders: each returns its jobs, functions that return what was found as lists of ids


def limit(args):
    import tensorflow as tf

    from keras_transformer.layers.carried_kernels import in_halves

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)

    def weight(rows, columns):
        return tf.Variable(tf.random.normal((columns, rows), stddev=rows**-0.5))

    # of a block: queries, keys, values and output; queries and output to the encoder; the feed-forward network
    shapes = [(512, 512)] * 6 + [(512, 2048), (2048, 512)]
    weights = [[weight(*shape) for shape in shapes] for _ in range(6)]
    table = weight(512, VOCABULARY)

    @tf.function(jit_compile=True, autograph=False)
    def multiply(x):
        def step(index, x):
            for block in weights:
                for kernel in block:
                    x = in_halves(x, kernel)
            return index + 1, x + tf.reduce_max(in_halves(x, table), axis=1, keepdims=True)

        return tf.while_loop(lambda index, _: index < TARGET, step, (0, x))[1]

    def job(rows):
        x = tf.random.normal((rows, 512))
        return lambda: multiply(x).numpy() is None

    return {name: job(batch * beams) for name, (batch, beams) in CELLS.items() if name in args.cells}


def ours(args, signature="serving_default", **export):
    import tensorflow as tf

    from keras_transformer import tasks

    class Numbers(tf.Module):
        """A tokenizer whose words are the ids."""

        vocabulary_size, end_token_id = VOCABULARY, 3

        def __call__(self, texts):
            return tf.ragged.map_flat_values(tf.strings.to_number, tf.strings.split(texts), out_type=tf.int32)

        def detokenize(self, ids):
            return tf.strings.reduce_join(tf.strings.as_string(ids), axis=-1, separator=" ")

    @functools.cache
    def exported(beams):
        with tempfile.TemporaryDirectory() as directory:
            translator = tasks.Translator(model, Numbers(), num_beams=beams, max_length=TARGET)
            translator.export(Path(directory) / "model", jit_compile=signature == "serving_default", **export)
            return tf.saved_model.load(str(Path(directory) / "model"))

    model, jobs = base_model(args), {}
    for name, (batch, beams) in CELLS.items():
        if name not in args.cells:
            continue
        loaded = exported(beams)
        texts = tf.constant([" ".join(map(str, row)) for row in sources(args, batch)])

        def job(loaded=loaded, texts=texts):
            found = loaded.signatures[signature](texts=texts)["translations"].numpy()
            return [[int(token_id) for token_id in text.split()] for text in found]

        jobs[name] = job
    if "steps" in args.cells and signature == "serving_default" and not export:
        import numpy as np

        for name, (batch, length) in STEPS.items():
            ids = np.array([[*row, 3] for row in sources(args, batch)])
            limits = np.full(batch, length)

            def steps(ids=ids, limits=limits):
                model.generate(ids, max_length=264, limits=limits, suppress_tokens=(3,), jit_compile=True)

            jobs[name] = steps
    return jobs


def ctranslate2(args, quantization=None):
    import ctranslate2

    from keras_transformer import interop

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        interop.to_ctranslate2(base_model(args), path, quantization=quantization)
        compute_type = quantization or "float32"
        engine = ctranslate2.Translator(str(path), compute_type=compute_type, intra_threads=args.threads)

    def job(batch, beams):
        tokens = [[str(token_id) for token_id in [*row, 3]] for row in sources(args, batch)]

        def translate():
            found = engine.translate_batch(
                tokens, beam_size=beams, max_decoding_length=TARGET, length_penalty=0.6, max_batch_size=batch
            )
            return [[int(token) for token in result.hypotheses[0]] for result in found]

        return translate

    return {name: job(*CELLS[name]) for name in CELLS if name in args.cells}


def hugging_face(args):
    import torch
    from transformers import MarianConfig, MarianMTModel

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    side = {"layers": 6, "attention_heads": 8, "ffn_dim": 2048}
    sides = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in side.items()}
    special = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2, "forced_eos_token_id": None}
    model = MarianMTModel(MarianConfig(vocab_size=VOCABULARY, d_model=512, scale_embedding=True, **sides, **special))
    model.eval()

    def job(batch, beams):
        ids = torch.tensor([[*row, 3] for row in sources(args, batch)])

        @torch.inference_mode()
        def translate():
            length = {"max_new_tokens": TARGET, "min_new_tokens": TARGET}
            return model.generate(ids, num_beams=beams, do_sample=False, **length)[:, 1:].tolist()

        return translate

    return {name: job(*CELLS[name]) for name in CELLS if name in args.cells}


def keras_hub(args, xla=False):
    import keras
    import keras_hub
    import tensorflow as tf
    from keras import ops

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    keras.utils.set_random_seed(args.seed)
    encoders = [keras_hub.layers.TransformerEncoder(2048, 8) for _ in range(6)]
    decoders = [keras_hub.layers.TransformerDecoder(2048, 8) for _ in range(6)]
    table = keras.layers.ReversibleEmbedding(VOCABULARY, 512)
    positions = keras_hub.layers.SinePositionEncoding()

    def embed(ids, start=0):
        x = table(ids) * 512**0.5
        return x + positions(x, start_index=start)

    def encode(ids):
        x = embed(ids)
        for block in encoders:
            x = block(x)
        return x

    def step(prompt, cache, index):
        """For the sampler: logits of the token at `index`, and the cache, whose rows it moves with the beams."""
        own, source, states = cache
        ids = ops.slice(prompt, (0, index - 1), (prompt.shape[0], 1))
        hidden, written = embed(ids, index - 1), []
        for block, self_cache, cross_cache in zip(decoders, own, source, strict=True):
            hidden, self_cache, _ = block(
                hidden,
                states,
                self_attention_cache=self_cache,
                self_attention_cache_update_index=index - 1,
                cross_attention_cache=cross_cache,
            )
            written.append(self_cache)
        return table(hidden, reverse=True)[:, 0], hidden, (written, source, states)

    def job(batch, beams):
        if beams == 1:
            sampler = keras_hub.samplers.GreedySampler()
        else:
            sampler = keras_hub.samplers.BeamSampler(num_beams=beams)
        ids = tf.constant([[*row, 3] for row in sources(args, batch)])
        hidden = encode(ids)
        for block in decoders:  # builds them: what is made in a graph is lost
            hidden = block(embed(ids), hidden)

        @tf.function(jit_compile=xla)
        def translate(ids):
            states = encode(ids)
            prompt = tf.pad(tf.fill((batch, 1), 2), [[0, 0], [0, TARGET]])
            own, memory = (tf.zeros((batch, 2, length, 8, 64)) for length in (TARGET + 1, SOURCE))
            hidden, source = embed(prompt[:, :1]), []
            for block in decoders:  # the source's keys and values, once
                hidden, _, cross_cache = block(
                    hidden,
                    states,
                    self_attention_cache=own,
                    self_attention_cache_update_index=0,
                    cross_attention_cache=memory,
                    cross_attention_cache_update_index=0,
                )
                source.append(cross_cache)
            return sampler(step, prompt, cache=([own] * 6, source, states), index=1)[:, 1:]

        return lambda: translate(ids).numpy().tolist()

    return {name: job(*CELLS[name]) for name in CELLS if name in args.cells}


CONTENDERS = {
    "limit": limit,
    "ours": ours,
    "ours, plain": lambda args: ours(args, "without_xla"),
    "ours, int8": lambda args: ours(args, quantize="int8"),
    "CTranslate2": ctranslate2,
    "CTranslate2, int8": lambda args: ctranslate2(args, "int8"),
    "Hugging Face": hugging_face,
    "KerasHub": keras_hub,
    "KerasHub, XLA": lambda args: keras_hub(args, xla=True),
}
NEEDS = {"CTranslate2": ("ctranslate2",), "Hugging Face": ("transformers", "torch"), "KerasHub": ("keras-hub",)}


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(name):
    return [package for package in NEEDS.get(name.partition(",")[0], ()) if version(package) is None]


# The run


def take_turns(jobs):
    """A contender's end of the pipe: reads the name of a job, does it, says how long it took."""
    found = {name: [job(), job()][1] for name, job in jobs.items()}  # the first call compiles
    print("\n" + json.dumps({name: found[name] or None for name in jobs}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        jobs[line.strip()]()
        print(json.dumps(time.perf_counter() - began), flush=True)


class Contender:
    """A process that does a job when it is told to."""

    def __init__(self, name, arguments):
        command = [sys.executable, __file__, *arguments, "--contender", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name, self.found = name, None
        while not isinstance(self.found, dict):  # what libraries print comes before it
            self.found = self._read()
        self.times = {job: [] for job in self.found}

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        return json.loads(line) if line.startswith(("{", *"0123456789")) else None

    def do(self, job):
        print(job, file=self.process.stdin, flush=True)
        self.times[job].append(self._read())


def summarize(contenders):
    by_name = {contender.name: contender for contender in contenders}
    reference, results = by_name.get("CTranslate2"), {}
    for name, contender in by_name.items():
        results[name] = {}
        for job, seconds in contender.times.items():
            result = {"seconds": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
            if job in CELLS:
                result["tokens_per_second"] = CELLS[job][0] * TARGET / result["seconds"]
                if reference:
                    pairs = zip(seconds, reference.times[job], strict=True)
                    result["times_as_fast_as_ctranslate2"] = statistics.median(b / a for a, b in pairs)
                if reference and contender.found[job] and name.startswith(("ours", "CTranslate2")):  # the same weights
                    same = [a == b for a, b in zip(contender.found[job], reference.found[job], strict=True)]
                    result["same_sentences"] = sum(same) / len(same)
            results[name][job] = result
    return results


def step_times(times):
    """Milliseconds of a token at steps 16 and 256, and between on average, by differences: the median over the rounds.

    At step 256 it is a small difference of two long times, which other work disturbs most.
    """
    found = {}
    for batch in (1, 32):
        ends = {length: times[f"{batch} to {length}"] for length in (8, 24, 248, 264)}
        found[batch] = {
            step: 1e3
            * statistics.median((b - a) / (last - first) for a, b in zip(ends[first], ends[last], strict=True))
            for step, first, last in ((16, 8, 24), ("between", 24, 248), (256, 248, 264))
        }
    return found


def plot(record, cells, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = record["results"]
    names = [name for name, of_jobs in results.items() if cells[0] in of_jobs]
    colors = ["tab:gray" if n == "limit" else "tab:red" if n.startswith("ours") else "tab:blue" for n in names]
    figure, axes = plt.subplots(1, len(cells), figsize=(3 * len(cells), 3.6), sharey=True, squeeze=False)
    for axis, cell in zip(axes[0], cells):
        speeds = [results[name][cell]["tokens_per_second"] for name in names]
        bars = axis.barh(names, speeds, color=colors)
        axis.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=2, fontsize=8)
        axis.set_xlim(0, 1.3 * max(speeds))
        axis.set_title(f"batch {cell}", fontsize=10)
        axis.set_xlabel("tokens a second")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    figure.suptitle(f"{record['cpu']}, {record['threads']} threads, the base model", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    args = parse_arguments()
    if args.contender:
        take_turns(CONTENDERS[args.contender](args))
        return
    from translation_control import cpu_model

    contenders = []
    for name in args.only:
        if missing(name):
            print(f"{name}: left out, without {' and '.join(missing(name))}", flush=True)
            continue
        print(f"{name}: starting", flush=True)
        contenders.append(Contender(name, sys.argv[1:]))
    for number in range(args.rounds):
        print(f"\rround {number + 1} of {args.rounds}", end="", flush=True)
        for job in [*CELLS, *STEPS]:
            for contender in contenders:
                if job in contender.times:
                    contender.do(job)
    results = summarize(contenders)
    packages = ("tensorflow", "keras", "ctranslate2", "transformers", "torch", "keras-hub")
    versions = {name: version(name) for name in packages}
    print(f"\n{cpu_model()}, {args.threads} threads, {versions}, {args.rounds} rounds")
    for job in args.cells:
        if job == "steps":
            continue
        print(f"\n{job:20}{'tokens/s':>10}{'to CTranslate2':>16}{'same sentences':>16}")
        for name, of_jobs in results.items():
            result = of_jobs[job]
            ratio = f"{result['times_as_fast_as_ctranslate2']:.2f}" if "times_as_fast_as_ctranslate2" in result else ""
            same = f"{result['same_sentences']:.0%}" if "same_sentences" in result else ""
            print(f"{name:20}{result['tokens_per_second']:>10.0f}{ratio:>16}{same:>16}")
    record = {"cpu": cpu_model(), "threads": args.threads, "versions": versions, "rounds": args.rounds}
    timed = next((c.times for c in contenders if "1 to 8" in c.times), None)
    if timed:
        record["step_ms"] = step_times(timed)
        print()
        for batch, ms in record["step_ms"].items():
            print(
                f"batch {batch}: {ms[16]:.1f} ms at step 16, {ms[256]:.1f} ms at step 256 ({ms[256] / ms[16]:.2f}), ",
                end="",
            )
            print(f"{ms['between']:.1f} ms between on average")
    path = Path(args.output) / f"decode-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | {"results": results}, indent=1) + "\n")
    print(f"\n{path}")
    if version("matplotlib") and any(name in CELLS for name in args.cells):
        plot(record | {"results": results}, [name for name in CELLS if name in args.cells], path.with_suffix(".png"))
        print(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
