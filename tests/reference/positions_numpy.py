"""Positions in NumPy float64, written from the papers, pair by pair of channels and of tokens.

Shapes: `B` batch, `T` query length, `S` source length, `H` heads, `K` width of a head, `R` channels that are turned.
"""

import math

import numpy as np


def rotary(x, positions, frequencies, interleaved=False):
    """Su et al. 2021, equations 14 and 15: each pair of channels times its 2 x 2 rotation matrix.

    Args:
        x: `(B, T, H, K)`; channels beyond the pairs are left as they are.
        positions: `(B, T)`.
        frequencies: radians a position of each pair, `(R/2,)`.
    """
    x, result = np.asarray(x, "float64"), np.array(x, "float64")
    pairs = len(frequencies)
    for i, frequency in enumerate(frequencies):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + pairs)
        for b, t in np.ndindex(*x.shape[:2]):
            angle = int(positions[b][t]) * frequency
            matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            result[b, t][:, [first, second]] = x[b, t][:, [first, second]] @ matrix.T
    return result


def rotary_frequencies(width, base=10000.0):
    """Su et al. 2021, section 3.2.2: `theta_i = 10000^(-2(i-1)/d)`."""
    return np.array([base ** (-2 * (i - 1) / width) for i in range(1, width // 2 + 1)])


def dynamic_frequencies(width, base, factor, length, original):
    """Dynamic NTK scaling, as Hugging Face has it: a larger base, once the sequence outgrows the original length."""
    if length > original:
        base = base * (factor * length / original - (factor - 1)) ** (width / (width - 2))
    return rotary_frequencies(width, base)


def yarn_frequencies(width, base, factor, original, fast=32.0, slow=1.0):
    """Peng et al. 2023, section 3.2, by wavelengths: `r_d = L / lambda_d` turns fit into the original length.

    The authors' code lets the ramp run over whole pairs, between the pairs of `fast` and `slow` turns, where the paper
    lets it run over `r` itself: this is the code's.
    """
    theta = rotary_frequencies(width, base)

    def pair_of(turns):  # the i with L / (2 pi base^(2i/d)) = turns
        return width / 2 * math.log(original / (2 * math.pi * turns), base)

    low, high = max(math.floor(pair_of(fast)), 0), min(math.ceil(pair_of(slow)), width - 1)
    result = []
    for i, t in enumerate(theta):
        share = min(max((i - low) / (high - low), 0.0), 1.0)
        result.append(share * t / factor + (1 - share) * t)
    return np.array(result)


def t5_bucket(relative, num_buckets, max_distance, bidirectional):
    """Raffel et al. 2020, section 2.1, in words there; the formula is that of the authors' code."""
    bucket, distance = 0, max(-relative, 0)
    if bidirectional:
        num_buckets //= 2
        bucket, distance = (num_buckets if relative > 0 else 0), abs(relative)
    exact = num_buckets // 2
    if distance < exact:
        return bucket + distance
    # 1e-9: a border is a whole number where the logarithms' quotient may come out just below one.
    share = math.log(distance / exact) / math.log(max_distance / exact) * (num_buckets - exact) + 1e-9
    return bucket + min(exact + int(share), num_buckets - 1)


def t5_bias(table, query_positions, key_positions, max_distance, bidirectional):
    """`(B, H, T, S)` of a table `(buckets, H)` and positions `(B, T)`, `(B, S)`."""
    batch, length = np.shape(query_positions)
    bias = np.empty((batch, table.shape[1], length, np.shape(key_positions)[1]))
    for b, t, s in np.ndindex(batch, length, bias.shape[3]):
        relative = int(key_positions[b][s]) - int(query_positions[b][t])
        bias[b, :, t, s] = table[t5_bucket(relative, len(table), max_distance, bidirectional)]
    return bias


def alibi(slopes, query_positions, key_positions):
    """Press et al. 2022, section 3, to both sides: `(B, H, T, S)`."""
    distance = np.abs(np.asarray(query_positions)[:, :, None] - np.asarray(key_positions)[:, None, :])
    return -np.asarray(slopes, "float64")[:, None, None] * distance[:, None]


def relative_scores(query, vector, query_positions, key_positions):
    """Shaw et al. 2018, the second summand of equation 5, pair by pair.

    Args:
        query: `(B, T, H, K)`.
        vector: a function of the head and the distance `j - i`, to `(K,)`.
        query_positions, key_positions: `(B, T)`, `(B, S)`.
    """
    query = np.asarray(query, "float64")
    batch, length, heads, _ = query.shape
    scores = np.empty((batch, heads, length, np.shape(key_positions)[1]))
    for b, h, t, s in np.ndindex(*scores.shape):
        scores[b, h, t, s] = query[b, t, h] @ vector(h, int(key_positions[b][s]) - int(query_positions[b][t]))
    return scores
