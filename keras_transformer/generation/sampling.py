"""Sampling: each token drawn by its probability (multinomial, or ancestral, sampling)."""

from typing import Any

import keras
from keras import ops

from keras_transformer.generation import penalties
from keras_transformer.generation.alignments import recording
from keras_transformer.generation.arguments import check_count, check_start_ids, sentence_limits
from keras_transformer.generation.candidates import log_probabilities
from keras_transformer.generation.follow import follow
from keras_transformer.generation.processed import processed
from keras_transformer.generation.protocol import AlignedHypotheses, Decoder, Hypotheses, Tensor
from keras_transformer.generation.seeds import as_seed


def sample(
    decoder: Decoder,
    start_ids: Any,
    max_length: Any,
    end_token_id: int,
    pad_token_id: int = 0,
    limits: Any = None,
    length_penalty: Any = 0.6,
    num_return_sequences: int = 1,
    processors: Any = (),
    return_alignments: bool = False,
    seed: Any = None,
) -> Hypotheses | AlignedHypotheses:
    """Draws each token from the distribution that `processors` leave, until the end token or the sentence's limit.

    The same seed gives the same result for the same batch and `max_length` on the same backend (TensorFlow draws other
    numbers under XLA). It does not give a sentence the same result in another batch: the numbers belong to rows.

    Args:
        decoder, start_ids, max_length, end_token_id, pad_token_id, limits, return_alignments: as in `greedy_search`.
        length_penalty: as in `greedy_search`, where it changes the score only; 0 for plain log p.
        num_return_sequences: how many samples to draw for each sentence, independently; in the order they are drawn.
        processors: a tuple of `LogitsProcessor`, such as `(Temperature(0.7), TopP(0.9))`.
        seed: an int, a scalar integer tensor or a `keras.random.SeedGenerator`; None: another result each time.

    Returns:
        `Hypotheses` with token_ids (B, n, max_length), lengths (B, n) and scores (B, n), where n is
        `num_return_sequences`. Scores are of the distribution that was drawn from.
    """
    check_count("num_return_sequences", num_return_sequences)
    start_ids = check_start_ids(start_ids)
    limits = sentence_limits(limits, max_length, start_ids)
    decoder = processed(decoder, processors, start_ids, max_length, end_token_id, num_return_sequences)
    batch = ops.shape(start_ids)[0]
    rows = batch * num_return_sequences
    recorded = recording(decoder, rows, max_length, return_alignments)
    # One number a token, all at once: random numbers for the whole vocabulary would cost more than some models.
    noise = keras.random.uniform((max_length, rows), dtype="float32", seed=as_seed(seed))

    def drawn(logits: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        log_p = log_probabilities(logits)
        ids = draw(log_p, ops.take(noise, step, axis=0))
        return ops.reshape(ops.take_along_axis(log_p, ids[:, None], axis=1), (rows,)), ids

    penalty = penalties.get(length_penalty)
    found, state = follow(
        recorded,
        drawn,
        start_ids,
        limits,
        max_length,
        end_token_id,
        pad_token_id,
        penalty,
        num_rows=num_return_sequences,
    )
    if return_alignments:
        found = recorded.read(state, found, ops.arange(rows, dtype="int32")[:, None])
    return type(found)(*(ops.reshape(x, (batch, num_return_sequences, *ops.shape(x)[1:])) for x in found))


def draw(log_p: Tensor, noise: Tensor) -> Tensor:
    """Ids (N,) of tokens drawn from log-probabilities (N, V) by numbers (N,) between 0 and 1.

    The first token at which the sum of probabilities reaches the number. One of probability 0 is never drawn, however
    the sums round; where all are 0, the answer is any.
    """
    p = ops.exp(log_p)
    sums = ops.cumsum(p, axis=-1)
    total = ops.max(ops.where(p > 0, sums, 0.0), axis=-1, keepdims=True)
    reached = (sums >= noise[:, None] * total) & (p > 0)
    last = log_p.shape[-1] - 1
    return ops.min(ops.where(reached, ops.arange(last + 1, dtype="int32"), last), axis=-1)
