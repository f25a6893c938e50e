"""A conditional random field in float64, by going through all sequences one by one."""

import itertools

import numpy as np


def paths(emissions, transitions, start, end):
    """All sequences of labels of one sentence `(T, L)`, and the score of each."""
    length, count = emissions.shape
    sequences = list(itertools.product(range(count), repeat=length))
    scores = []
    for labels in sequences:
        score = start[labels[0]] + end[labels[-1]] + sum(emissions[t, label] for t, label in enumerate(labels))
        scores.append(score + sum(transitions[a, b] for a, b in itertools.pairwise(labels)))
    return np.array(sequences), np.array(scores, "float64")


def forward(emissions, transitions, start, end):
    """The log of the sum over all sequences of one sentence, by the forward algorithm."""
    alpha = start + emissions[0]
    for x in emissions[1:]:
        alpha = np.logaddexp.reduce(alpha[:, None] + transitions, axis=0) + x
    return np.logaddexp.reduce(alpha + end)


def log_likelihood(emissions, labels, transitions, start, end):
    score = start[labels[0]] + end[labels[-1]] + emissions[np.arange(len(labels)), labels].sum()
    score += transitions[labels[:-1], labels[1:]].sum()
    return score - forward(emissions, transitions, start, end)
