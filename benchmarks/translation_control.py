"""The control of our Multi30k run: the same Transformer, size, data and schedule, built of torch.nn layers.

    python benchmarks/translation_control.py --source train.en.gz --target train.de.gz \
        --valid-source val.en.gz --valid-target val.de.gz --test-source test.en.gz --test-target test.de.gz \
        --vocabulary runs/multi30k.model --output runs/control --threads 1

Kill it whenever you like: the same command goes on from the last checkpoint and ends with the same numbers.
Add `--evaluate-only runs/control/weights-2500.pt` to translate and score a file of weights, and no more.

Letters of the shape comments: B sentences, S source ids, T target ids, N real target ids of a batch, D hidden units,
V vocabulary, K beams.
"""

import argparse
import ctypes
import gzip
import json
import math
import os
import platform
import random
import time

import numpy as np
import sacrebleu
import sentencepiece
import torch
import torch.nn.functional as F
from torch import nn

PAD, UNK, START, END = range(4)
LAYERS, HEADS, HIDDEN, INNER = 4, 4, 128, 256
LONGEST_PAIR = 100  # ids on either side, its end id included; longer training pairs are dropped
VALIDATE_EVERY, SAVE_EVERY, REPORT_EVERY = 500, 100, 50


def keep_freed_memory():
    """Lets glibc keep what it is given back; call before the first tensor is made.

    The logits and their gradients are blocks of some 140 MB. By default glibc takes each from the system and hands it
    back, every update, and clearing the pages takes its time.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4
        ctypes.CDLL(None).mallopt(mmap_max, 0)
        ctypes.CDLL(None).mallopt(trim_threshold, 2**31 - 1)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


# Text -> ids


def read_lines(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
        return [line.strip() for line in lines]


def write_atomically(path, write):
    """Readers, and a rerun after kill -9, see the old file or the new one, never half of it."""
    with open(f"{path}.partial", "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.partial", path)


def load_vocabulary(path, size, training_files):
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        text = [line for file in training_files for line in read_lines(file)]
        write_atomically(
            path,
            lambda file: sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(text),
                model_writer=file,
                model_type="bpe",
                vocab_size=size,
                character_coverage=1.0,
                pad_id=PAD,
                unk_id=UNK,
                bos_id=START,
                eos_id=END,
                minloglevel=1,
            ),
        )
    return sentencepiece.SentencePieceProcessor(model_file=path)


def read_pairs(vocabulary, source, target):
    """Both sides end with the end id: S and T below count it."""
    sources, targets = ([[*ids, END] for ids in vocabulary.encode(read_lines(path))] for path in (source, target))
    if len(sources) != len(targets):
        raise ValueError(f"{source} has {len(sources)} lines, {target} has {len(targets)}")
    return list(zip(sources, targets))


def longest(pair):
    return max(map(len, pair))


def make_batches(pairs, batch_tokens, seed=None):
    """Neighbours in length share a batch of `batch_tokens` = rows * longest side; `seed` shuffles, None sorts."""
    order = list(range(len(pairs)))
    shuffle = random.Random(seed).shuffle if seed is not None else lambda items: None
    shuffle(order)  # the sort is stable: equally long pairs meet in new company every epoch
    order.sort(key=lambda i: (longest(pairs[i]), len(pairs[i][1])))
    batches, batch = [], []
    for i in order:  # lengths only grow, so the newcomer is the longest
        if batch and (len(batch) + 1) * longest(pairs[i]) > batch_tokens:
            batches.append(batch)
            batch = []
        batch.append(i)
    batches.append(batch)
    shuffle(batches)
    return batches


def pad(rows):
    padded = np.full((len(rows), max(map(len, rows))), PAD, "int64")
    for row, ids in zip(padded, rows):
        row[: len(ids)] = ids
    return torch.from_numpy(padded)


def collate(pairs, batch):
    source = pad([pairs[i][0] for i in batch])  # (B, S)
    labels = pad([pairs[i][1] for i in batch])  # (B, T)
    inputs = F.pad(labels[:, :-1], (1, 0), value=START)  # the end ids left in shorter rows lie past their last label
    return source, inputs, labels


# Ids -> logits


def sinusoids(length, dim):
    """(length, dim): all sines in the first half, all cosines in the second, as tensor2tensor lays them out."""
    frequencies = torch.exp(torch.arange(dim // 2) * (-math.log(10000.0) / (dim // 2 - 1)))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Transformer(nn.Module):
    def __init__(self, vocabulary_size, dropout, longest=1024, layers=LAYERS, heads=HEADS, hidden=HIDDEN, inner=INNER):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, hidden)  # source, target and output
        self.register_buffer("positions", sinusoids(longest, hidden), persistent=False)
        self.dropout = nn.Dropout(dropout)
        shape = {"d_model": hidden, "nhead": heads, "dim_feedforward": inner, "dropout": dropout, "batch_first": True}
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**shape), layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**shape), layers)
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0  # the layer's argument would drop attention weights too
            elif isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                module.dropout.p = 0.0  # and inside the feed-forward network, where neither the paper nor we drop
        # The stacks copy one layer: without this all of them would start out equal.
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5)

    def embed(self, ids):  # (B, T) -> (B, T, D)
        return self.dropout(self.embedding(ids) * self.embedding.embedding_dim**0.5 + self.positions[: ids.shape[1]])

    def encode(self, source):
        padding = source == PAD
        return self.encoder(self.embed(source), src_key_padding_mask=padding), padding

    def decode(self, ids, memory, padding):
        # Padding lies right of every real id, where the causal mask hides it: it needs no mask of its own.
        causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.decoder(
            self.embed(ids), memory, tgt_mask=causal, tgt_is_causal=True, memory_key_padding_mask=padding
        )

    def project(self, states):
        return states @ self.embedding.weight.T

    def forward(self, source, inputs, real):
        """Logits (N, V) of the real target positions: padding is never projected."""
        return self.project(self.decode(inputs, *self.encode(source))[real])


# Logits -> loss


def learning_rate(update, peak, warmup, start=1e-7):
    if update < warmup:
        return start + (peak - start) * update / warmup
    return peak * (warmup / update) ** 0.5


def batch_loss(model, pairs, batch, label_smoothing, reduction):
    source, inputs, labels = collate(pairs, batch)
    real = labels != PAD
    loss = F.cross_entropy(
        model(source, inputs, real),
        labels[real],
        ignore_index=PAD,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return loss, int(real.sum())


@torch.no_grad()
def validate(model, pairs, batch_tokens):
    """Plain cross-entropy in nats a real target token, end ids included."""
    model.eval()
    sums = [batch_loss(model, pairs, batch, 0.0, "sum") for batch in make_batches(pairs, batch_tokens)]
    model.train()
    return sum(float(loss) for loss, _ in sums) / sum(tokens for _, tokens in sums)


class Training:
    """Everything a checkpoint holds, and nothing a rerun could not read back."""

    def __init__(self, model, args):
        self.model, self.args = model, args
        self.optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-8, fused=True)
        self.update = self.epoch = self.next_batch = self.window_tokens = 0
        # Seconds of the clock, and of the processor: the latter say what a core of our own would have done. The window
        # is what lies between two validations.
        self.seconds = self.cpu_seconds = self.window_seconds = self.window_cpu_seconds = self.window_loss = 0.0
        self.history = []
        self.path = os.path.join(args.output, "checkpoint.pt")

    counters = (
        *("update", "epoch", "next_batch", "seconds", "cpu_seconds", "history"),
        *("window_tokens", "window_seconds", "window_cpu_seconds", "window_loss"),
    )

    def save(self):
        state = {name: getattr(self, name) for name in self.counters}
        state.update(model=self.model.state_dict(), optimizer=self.optimizer.state_dict(), rng=torch.get_rng_state())
        write_atomically(self.path, lambda file: torch.save(state, file))

    def restore(self):
        state = torch.load(self.path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        for name in self.counters:
            setattr(self, name, state[name])

    def step(self, pairs, batch):
        args, began, cpu_began = self.args, time.perf_counter(), time.process_time()
        loss, tokens = batch_loss(self.model, pairs, batch, args.label_smoothing, "mean")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), args.clip_norm)
        self.update += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.update, args.learning_rate, args.warmup)
        self.optimizer.step()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        self.seconds += seconds
        self.cpu_seconds += cpu_seconds
        self.window_seconds += seconds
        self.window_cpu_seconds += cpu_seconds
        self.window_tokens += tokens
        self.window_loss += float(loss.detach()) * tokens

    def progress(self):
        return {
            "update": self.update,
            "epoch": self.epoch,
            "train_loss": self.window_loss / self.window_tokens,
            "tokens_per_second": self.window_tokens / self.window_seconds,
            "tokens_per_cpu_second": self.window_tokens / self.window_cpu_seconds,
            "training_seconds": self.seconds,
            "training_cpu_seconds": self.cpu_seconds,
        }

    def validate(self, pairs):
        entropy = validate(self.model, pairs, self.args.batch_tokens)
        line = dict(self.progress(), valid_cross_entropy=entropy, valid_perplexity=math.exp(entropy))
        self.history.append(line)
        self.window_tokens = 0
        self.window_loss = self.window_seconds = self.window_cpu_seconds = 0.0
        write_json(os.path.join(self.args.output, "history.json"), self.history)
        say("validation", line)

    def run(self, train_pairs, valid_pairs):
        args = self.args
        self.model.train()
        while self.update < args.updates:
            batches = make_batches(train_pairs, args.batch_tokens, seed=f"{args.seed}/{self.epoch}")
            while self.next_batch < len(batches) and self.update < args.updates:
                self.step(train_pairs, batches[self.next_batch])
                self.next_batch += 1
                ended = self.update == args.updates
                if self.update % REPORT_EVERY == 0:
                    say("training", self.progress())
                if self.next_batch == len(batches) or self.update % VALIDATE_EVERY == 0 or ended:
                    self.validate(valid_pairs)
                if self.update % VALIDATE_EVERY == 0 or ended:
                    weights = os.path.join(args.output, f"weights-{self.update}.pt")
                    write_atomically(weights, lambda file: torch.save(self.model.state_dict(), file))
                if self.update % SAVE_EVERY == 0 or ended:
                    self.save()
            if self.next_batch == len(batches):
                self.epoch, self.next_batch = self.epoch + 1, 0


def say(what, numbers):
    shown = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in numbers.values())
    print(f"{what:10} ", "  ".join(f"{name} {value}" for name, value in zip(numbers, shown)), flush=True)


def write_json(path, value):
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=1) + "\n").encode()))


# Logits -> translations


@torch.no_grad()
def search(model, source, beams):
    """The best hypothesis of each row, its end id cut off; score: sum log p / ids, the end id counted.

    `beams=1` is greedy search. A finished hypothesis stays as it is and keeps its place as long as its score does.
    """
    rows, vocabulary_size = source.shape[0], model.embedding.num_embeddings
    limits = (source != PAD).sum(1, keepdim=True) - 1 + 50  # (B, 1): the source's ids without its end id, + 50
    memory, padding = (item.repeat_interleave(beams, 0) for item in model.encode(source))  # (B*K, S, D), (B*K, S)
    ids = torch.full((rows, beams, 1), START)
    sums = torch.full((rows, beams), -torch.inf)
    sums[:, 0] = 0.0  # all beams of a row are equal as yet: only one may branch
    lengths = torch.zeros(rows, beams)
    finished = torch.zeros(rows, beams, dtype=torch.bool)
    only_pad = torch.full((vocabulary_size,), -torch.inf)
    only_pad[PAD] = 0.0
    while not finished.all():
        states = model.decode(ids.flatten(0, 1), memory, padding)[:, -1]  # (B*K, D)
        log_p = model.project(states).log_softmax(-1)
        log_p[:, [PAD, START]] = -torch.inf
        log_p = torch.where(finished[..., None], only_pad, log_p.view(rows, beams, -1))  # (B, K, V)
        lengths = lengths + ~finished
        # Live and finished hypotheses of a row compete by the score that will choose among them at the end.
        totals = sums[..., None] + log_p
        best = (totals / lengths[..., None]).flatten(1).topk(beams).indices  # (B, K)
        parent, token = best // vocabulary_size, best % vocabulary_size
        ids = torch.cat([ids.gather(1, parent[..., None].expand(-1, -1, ids.shape[2])), token[..., None]], 2)
        lengths = lengths.gather(1, parent)
        sums = totals.flatten(1).gather(1, best)
        finished = finished.gather(1, parent) | (token == END) | (lengths >= limits)
    found = ids[:, 0, 1:].tolist()  # topk sorts: the first beam is the best
    return [[token for token in row if token not in (PAD, END)] for row in found]


def translate(model, vocabulary, pairs, beams, sentences=64):
    model.eval()
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
    translations = [""] * len(pairs)
    for start in range(0, len(order), sentences):
        batch = order[start : start + sentences]
        for i, ids in zip(batch, search(model, pad([pairs[i][0] for i in batch]), beams)):
            translations[i] = vocabulary.decode(ids)
    return translations


def evaluate(model, vocabulary, pairs, references, name, args):
    """Perplexity, and BLEU of greedy and of beam search; the files are tokenized and lowercased already."""
    entropy = validate(model, pairs, args.batch_tokens)
    result = {"cross_entropy": entropy, "perplexity": math.exp(entropy)}
    for label, beams in (("greedy", 1), ("beam5", 5)):
        began = time.perf_counter()
        translations = translate(model, vocabulary, pairs, beams)
        bleu = sacrebleu.BLEU(tokenize="none", lowercase=True, force=True)
        score = bleu.corpus_score(translations, [references])
        result[label] = {
            "bleu": score.score,
            "detail": str(score),
            "signature": str(bleu.get_signature()),
            "seconds": time.perf_counter() - began,
        }
        print(f"{name} {label}: {score}  {bleu.get_signature()}", flush=True)
        text = ("\n".join(translations) + "\n").encode()
        write_atomically(os.path.join(args.output, f"{name}.{label}.txt"), lambda file, text=text: file.write(text))
    return result


def cpu_model():
    with open("/proc/cpuinfo") as lines:
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# The command


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Train and score a Transformer made of torch.nn layers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name in ("source", "target", "valid-source", "valid-target", "test-source", "test-target"):
        parser.add_argument(f"--{name}", required=True, metavar="FILE", help="a sentence a line; text or .gz")
    parser.add_argument("--vocabulary", required=True, metavar="MODEL", help="SentencePiece; trained if missing")
    parser.add_argument("--vocabulary-size", type=int, default=9700, help="of a newly trained vocabulary")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="rows * longest side, padding included")
    parser.add_argument("--updates", type=int, default=2500, help="optimizer steps")
    parser.add_argument("--warmup", type=int, default=500, help="updates until the peak of the learning rate")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="at its peak")
    parser.add_argument("--dropout", type=float, default=0.3, help="on embeddings, sublayers and inside the FFN")
    parser.add_argument("--label-smoothing", type=float, default=0.1, help="mass spread over the vocabulary")
    parser.add_argument("--clip-norm", type=float, default=25.0, help="of all gradients together")
    parser.add_argument("--seed", type=int, default=1, help="of weights, dropout and batches")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--output", required=True, metavar="DIR", help="checkpoints, weights, history and results")
    parser.add_argument("--evaluate-only", metavar="WEIGHTS", help="score these weights; train nothing")
    return parser.parse_args()


def main():
    args = parse_arguments()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    os.makedirs(args.output, exist_ok=True)
    vocabulary = load_vocabulary(args.vocabulary, args.vocabulary_size, [args.source, args.target])
    valid_pairs = read_pairs(vocabulary, args.valid_source, args.valid_target)
    test_pairs = read_pairs(vocabulary, args.test_source, args.test_target)
    model = Transformer(vocabulary.get_piece_size(), args.dropout)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters:,} parameters, torch {torch.__version__}, {args.threads} thread(s), {cpu_model()}", flush=True)
    result = {
        "arguments": vars(args),
        "parameters": parameters,
        "torch": torch.__version__,
        "cpu": cpu_model(),
        "threads": args.threads,
    }

    prefix = ""
    if args.evaluate_only:
        prefix = os.path.splitext(os.path.basename(args.evaluate_only))[0] + "."  # the run's own results stay
        model.load_state_dict(torch.load(args.evaluate_only))
    else:
        pairs = read_pairs(vocabulary, args.source, args.target)
        train_pairs = [pair for pair in pairs if longest(pair) <= LONGEST_PAIR]
        epoch_updates = len(make_batches(train_pairs, args.batch_tokens))
        print(
            f"{len(train_pairs)} pairs ({len(pairs) - len(train_pairs)} over {LONGEST_PAIR} ids dropped), "
            f"{epoch_updates} updates an epoch",
            flush=True,
        )
        training = Training(model, args)
        if os.path.exists(training.path):
            training.restore()
            print(f"going on from update {training.update} of {training.path}", flush=True)
        training.run(train_pairs, valid_pairs)
        result.update(
            updates=training.update,
            updates_per_epoch=epoch_updates,
            training_seconds=training.seconds,
            training_cpu_seconds=training.cpu_seconds,
            history=training.history,
        )

    for name, pairs, target in (("valid", valid_pairs, args.valid_target), ("test", test_pairs, args.test_target)):
        result[name] = evaluate(model, vocabulary, pairs, read_lines(target), prefix + name, args)
    write_json(os.path.join(args.output, f"{prefix}result.json"), result)


if __name__ == "__main__":
    main()
