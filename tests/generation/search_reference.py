"""Small random language models, and search over them in NumPy float64 with nothing clever.

`Language` says what follows a history. `HistoryDecoder` says the same in `keras.ops`, from a state
that is the history itself: a wrong `reorder` gives wrong sentences.
"""

import copy
import itertools

import numpy as np
from keras import ops


class Language:
    """Logits of the next token from every token so far, different for each sentence."""

    def __init__(self, batch, vocabulary, max_length, seed, scale=2.0):
        random = np.random.default_rng(seed)
        shape = (max_length, vocabulary, vocabulary)
        self.follows = random.normal(0, scale, shape).astype("float32")
        self.sentences = random.normal(0, scale, (batch, vocabulary)).astype("float32")
        self.vocabulary, self.max_length = vocabulary, max_length
        self.start_ids = random.integers(0, vocabulary, batch).astype("int32")

    def having(self, **changes):
        """The same language with other attributes."""
        language = copy.copy(self)
        language.__dict__.update(changes)
        return language

    def pick(self, sentences):
        """The same language with only these sentences, in this order."""
        return self.having(sentences=self.sentences[sentences], start_ids=self.start_ids[sentences])

    def logits(self, sentence, tokens):
        """Logits (V,) of what follows `tokens`, the start token left out."""
        history = (self.start_ids[sentence], *tokens)
        logits = self.sentences[sentence].astype("float64")
        for position, token in enumerate(history):
            logits = logits + self.follows[position, token]
        return logits

    def log_p(self, sentence, tokens):
        logits = self.logits(sentence, tokens)
        return logits - np.logaddexp.reduce(logits)

    def rescore(self, sentence, tokens):
        return sum(self.log_p(sentence, tokens[:n])[t] for n, t in enumerate(tokens))


class ProcessedLanguage:
    """A language whose logits pass through twins of processors, which may differ by sentence: `twins(sentence)`."""

    def __init__(self, language, twins, end):
        self.language, self.twins, self.end = language, twins, end
        self.vocabulary = language.vocabulary

    def log_p(self, sentence, tokens):
        logits = self.language.logits(sentence, tokens)
        for twin in self.twins(sentence):
            logits = twin(logits, tokens, self.end)
        with np.errstate(invalid="ignore"):  # nothing but -inf
            return np.nan_to_num(logits - np.logaddexp.reduce(logits), nan=-np.inf, neginf=-np.inf)

    rescore = Language.rescore


class HistoryDecoder:
    """`Language` as a decoder, with the history (N, L) as its state."""

    def __init__(self, language, dtype="float32"):
        self.language, self.dtype, self.steps, self.reorders = language, dtype, 0, 0

    def start(self, num_beams):
        sentences = ops.convert_to_tensor(self.language.sentences)  # a tensor, in a graph
        rows = ops.shape(sentences)[0] * num_beams
        return {
            "history": ops.full((rows, self.language.max_length), -1, "int32"),
            "sentences": ops.repeat(sentences, num_beams, axis=0),
            "position": ops.zeros((), "int32"),
        }

    def step(self, ids, state):
        self.steps += 1
        position = state["position"]
        history = ops.slice_update(state["history"], (0, position), ids[:, None])
        seen = ops.one_hot(history, self.language.vocabulary, dtype="float32")  # -1 gives zeros
        logits = state["sentences"] + ops.einsum("nlv,lvw->nw", seen, self.language.follows)
        state = {"history": history, "sentences": state["sentences"], "position": position + 1}
        return ops.cast(logits, self.dtype), state

    def reorder(self, state, rows):
        self.reorders += 1
        return {**state, "history": ops.take(state["history"], rows, axis=0)}

    @property
    def source_length(self):
        return self.language.max_length

    def step_with_alignments(self, ids, state):
        """Attends to its history, in numbers that say what it is: a wrong record is seen."""
        logits, state = self.step(ids, state)
        return logits, state, ops.cast(state["history"], "float32")


class TableDecoder:
    """Probabilities of the next token by the last one: (V, V), or (B, V, V) by sentence."""

    def __init__(self, probabilities, batch=1):
        with np.errstate(divide="ignore"):
            table = np.log(np.asarray(probabilities, "float32"))
        self.table = np.broadcast_to(table, (batch, *table.shape[-2:]))

    def start(self, num_beams):
        return ops.repeat(ops.arange(len(self.table), dtype="int32"), num_beams)

    def step(self, ids, state):
        vocabulary = self.table.shape[-1]
        table = ops.reshape(ops.convert_to_tensor(self.table), (-1, vocabulary))
        return ops.take(table, state * vocabulary + ids, axis=0), state

    def reorder(self, state, rows):
        return state  # nothing but the sentence, and rows stay within it


def gnmt(alpha):
    return lambda n: ((5 + n) / 6) ** alpha


def average(alpha):
    return lambda n: n**alpha


def exhaustive(language, sentence, limit, end, penalty):
    """Every hypothesis there is, best first: [(score, tokens)]."""
    others = [t for t in range(language.vocabulary) if t != end]
    tokens = [(*prefix, end) for n in range(limit) for prefix in itertools.product(others, repeat=n)]
    tokens += itertools.product(others, repeat=limit)
    scored = [(language.rescore(sentence, t) / penalty(len(t)), t) for t in tokens]
    return possible(scored)


def possible(scored):
    """Best first; what has no probability is no hypothesis."""
    return sorted(((score, tokens) for score, tokens in scored if score > -np.inf), reverse=True)


def greedy(language, sentence, limit, end):
    tokens = ()
    while len(tokens) < limit and end not in tokens:
        tokens += (int(np.argmax(language.log_p(sentence, tokens))),)
    return tokens


def beam(language, sentence, limit, end, penalty, num_beams):
    """Beam search by its definition, always to the limit: [(score, tokens)], best first.

    At the limit the live beams, refilled, join the pool: beside what has ended, as it is defined.
    """
    live, pool = [(0.0, ())], []
    for length in range(1, limit + 1):
        candidates = sorted(
            (
                (log_p + float(next_log_p), (*tokens, token))
                for log_p, tokens in live
                for token, next_log_p in enumerate(language.log_p(sentence, tokens))
            ),
            reverse=True,
        )[: 2 * num_beams]
        pool += [(log_p / penalty(length), tokens) for log_p, tokens in candidates[:num_beams] if tokens[-1] == end]
        live = [(log_p, tokens) for log_p, tokens in candidates if tokens[-1] != end][:num_beams]
        pool = sorted(pool, reverse=True)[:num_beams]
    pool += [(log_p / penalty(limit), tokens) for log_p, tokens in live]
    return possible(pool)[:num_beams]


def sentences_of(hypotheses):
    """[[(tokens, score)]]: by sentence, best first, padding cut off."""
    token_ids, lengths, scores = (ops.convert_to_numpy(x) for x in hypotheses)
    if lengths.ndim == 1:
        token_ids, lengths, scores = token_ids[:, None], lengths[:, None], scores[:, None]
    return [
        [(tuple(t[:n].tolist()), s) for t, n, s in zip(*found, strict=True)]
        for found in zip(token_ids, lengths, scores, strict=True)
    ]
