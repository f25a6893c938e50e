"""Logits processors from their papers, for one row in NumPy float64: `(logits (V,), tokens so far, end) -> logits`."""

import numpy as np


def softmax(logits):
    p = np.exp(logits - logits.max())
    return p / p.sum()


def kept(which, logits):
    return np.where(which, logits, -np.inf)


def temperature(t):
    return lambda logits, tokens, end: logits / t


def top_k(k):
    return lambda logits, tokens, end: kept(logits >= np.sort(logits)[-min(k, len(logits))], logits)


def top_p(p):
    """Holtzman et al. 2020: from the most probable on, until their sum is p."""

    def process(logits, tokens, end):
        order = np.argsort(-logits)
        before = np.cumsum(softmax(logits)[order]) - softmax(logits)[order]
        return kept(np.isin(np.arange(len(logits)), order[before < p]), logits)

    return process


def min_p(p):
    return lambda logits, tokens, end: kept(softmax(logits) >= p * softmax(logits).max(), logits)


def repetition_penalty(penalty):
    def process(logits, tokens, end):
        logits = logits.copy()
        for token in set(tokens):
            logits[token] *= penalty if logits[token] < 0 else 1 / penalty
        return logits

    return process


def no_repeat_ngram(n):
    def process(logits, tokens, end):
        logits, tokens = logits.copy(), list(tokens)
        for token in range(len(logits)):
            grams = [tuple((*tokens, token)[i : i + n]) for i in range(len(tokens) + 2 - n)]
            if len(tokens) + 1 >= n and grams[-1] in grams[:-1]:
                logits[token] = -np.inf
        return logits

    return process


def min_length(n):
    return lambda logits, tokens, end: kept((np.arange(len(logits)) != end) | (len(tokens) + 1 >= n), logits)


def suppress(ids):
    return lambda logits, tokens, end: kept(~np.isin(np.arange(len(logits)), ids), logits)


def prefix(ids):
    def process(logits, tokens, end):
        if len(tokens) >= len(ids):
            return logits
        return np.where(np.arange(len(logits)) == ids[len(tokens)], 0.0, -np.inf)

    return process
