"""Beam search with a pool of finished hypotheses, and an early end that is proven.

One step, for each sentence with its `k = num_beams` live beams:

1. The best 2k continuations of all live beams are the candidates, in order.
2. A candidate that ends enters the pool if it is among the first k; those further down would not
   have been kept by a beam of width k. The pool keeps the best k by penalised score. At the
   sentence's limit every candidate ends.
3. The best k candidates without an end token are the live beams of the next step. At most k of the
   2k end, one for each live beam, so there are always enough.
4. The sentence is done at its limit, or once no live beam can beat the worst of a full pool.

Rules 1 to 3 are those of fairseq, Hugging Face and CTranslate2; the pool is in section 3 of Freitag
and Al-Onaizan 2017, "Beam Search Strategies for Neural Machine Translation". Rule 4 is a bound: a
beam's log p is at most 0 and only falls, its penalty only grows, so whatever it becomes within its
limit scores at most `log p / penalty(limit)`. The search thus returns what it would have returned
had it gone on to the limit.

Nothing is carried from beam to beam but the decoder's state. A step records each live beam's
*choice*, the number `token * k + beam`: the token, and the beam of the step before that it
continues. The sentences are read off backwards in the end.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_transformer.generation import penalties
from keras_transformer.generation.alignments import recording
from keras_transformer.generation.arguments import check_count, check_return_sequences, check_start_ids, sentence_limits
from keras_transformer.generation.candidates import best_tokens
from keras_transformer.generation.greedy import greedy_search
from keras_transformer.generation.processed import processed
from keras_transformer.generation.protocol import AlignedHypotheses, Decoder, Hypotheses, State, Tensor


class Pool(NamedTuple):
    """Finished hypotheses, (B, k) each, best first; a score of -inf marks an empty place."""

    scores: Tensor
    lengths: Tensor
    choices: Tensor


class Beams(NamedTuple):
    log_p: Tensor  # (B, k) of the live beams, best first; -inf: no such beam
    trace: Tensor  # (max_length, B, k), the live beams' choices at each step
    pool: Pool
    done: Tensor  # (B,)


def beam_search(
    decoder: Decoder,
    start_ids: Any,
    max_length: Any,
    end_token_id: int,
    pad_token_id: int = 0,
    limits: Any = None,
    num_beams: int = 4,
    length_penalty: Any = 0.6,
    num_return_sequences: int = 1,
    processors: Any = (),
    return_alignments: bool = False,
) -> Hypotheses | AlignedHypotheses:
    """Keeps the best `num_beams` sentences at each step, and returns the best finished ones.

    With `num_beams=1` this is `greedy_search`, token for token and whatever the penalty: a single
    beam is over when it ends and is not refilled with the second best token.

    Args:
        decoder: see `Decoder`.
        start_ids: (B,), the token each sentence starts from.
        max_length: most tokens generated, the end token included: an int, or a scalar tensor where
            the backend allows shapes that are not known beforehand.
        end_token_id: an id outside the vocabulary, such as -1, ends no sentence.
        pad_token_id: fills `token_ids` after a sentence's end.
        limits: (B,), the maximum of each sentence, cut to `max_length`; None for `max_length`. A
            sentence that reaches its limit without an end token is finished as it is.
        num_beams: the width; it may exceed the vocabulary.
        length_penalty: a number is GNMT's alpha, see `penalties`.
        num_return_sequences: how many of the `num_beams` hypotheses to return, best first.
        processors: a tuple of `LogitsProcessor`, through which the logits pass in order. The proof
            of the early end holds for them too: it asks of a model only that it has probabilities.
        return_alignments: whether to return `AlignedHypotheses`, of a decoder that offers them.

    Returns:
        `Hypotheses` with token_ids (B, n, max_length), lengths (B, n) and scores (B, n), where n is
        `num_return_sequences`.
    """
    check_count("num_beams", num_beams)
    check_return_sequences(num_return_sequences, num_beams)
    if num_beams == 1:
        found = greedy_search(
            decoder,
            start_ids,
            max_length,
            end_token_id,
            pad_token_id,
            limits,
            length_penalty,
            processors,
            return_alignments,
        )
        return type(found)(*(ops.expand_dims(x, 1) for x in found))

    start_ids = check_start_ids(start_ids)
    limits = sentence_limits(limits, max_length, start_ids)
    penalty = penalties.get(length_penalty)
    decoder = processed(decoder, processors, start_ids, max_length, end_token_id, num_beams)
    batch = ops.shape(start_ids)[0]
    recorded = recording(decoder, batch * num_beams, max_length, return_alignments)
    row = ops.reshape(ops.arange(batch * num_beams, dtype="int32"), (batch, num_beams))
    first_row = row[:, :1]

    def unfinished(step: Tensor, state: State, ids: Tensor, beams: Beams) -> Tensor:
        return ops.any(ops.logical_not(beams.done))

    def extend(step: Tensor, state: State, ids: Tensor, beams: Beams) -> tuple[Any, ...]:
        logits, state = recorded.step(ids, state)
        log_p, choices = _candidates(beams.log_p, *best_tokens(logits, 2 * num_beams))
        length = step + 1
        is_end = choices // num_beams == end_token_id
        at_limit = length >= limits

        ends = (is_end | at_limit[:, None])[:, :num_beams]
        scores = ops.where(ends, log_p[:, :num_beams] / penalty(length), -float("inf"))
        pool = _merge(beams.pool, scores, length, choices[:, :num_beams], frozen=beams.done)

        log_p, order = ops.top_k(ops.where(is_end, -float("inf"), log_p), num_beams)
        choices = ops.take_along_axis(choices, order, axis=1)
        trace = ops.slice_update(beams.trace, (step, 0, 0), choices[None])
        state = recorded.reorder(state, ops.reshape(first_row + choices % num_beams, (-1,)))
        ids = ops.reshape(choices // num_beams, (-1,))

        bound = log_p[:, 0] / penalty(ops.maximum(limits, 1))
        # An empty place is -inf, which any live beam beats and a beam without probability does not.
        done = beams.done | at_limit | (bound <= pool.scores[:, -1])
        return length, state, ids, Beams(log_p, trace, pool, done)

    nothing = ops.full((batch, num_beams), -float("inf"), "float32")
    zeros = ops.zeros((batch, num_beams), "int32")
    steps, state, _, beams = ops.while_loop(
        unfinished,
        extend,
        (
            ops.zeros((), "int32"),
            recorded.start(num_beams),
            ops.reshape(start_ids[:, None] + zeros, (-1,)),
            Beams(
                # All beams are alike before the first token: one is live.
                log_p=ops.where(row == first_row, 0.0, nothing),
                trace=ops.zeros((max_length, batch, num_beams), "int32"),
                pool=Pool(scores=nothing, lengths=zeros, choices=zeros),
                done=limits < 1,
            ),
        ),
    )
    best = Pool(*(x[:, :num_return_sequences] for x in beams.pool))
    lengths = ops.where(best.scores > -float("inf"), best.lengths, 0)
    token_ids, parents = _read_back(beams.trace, steps, lengths, best.choices, pad_token_id)
    found = Hypotheses(token_ids, lengths, best.scores)
    return recorded.read(state, found, first_row[:, :, None] + parents) if return_alignments else found


def _candidates(live: Tensor, log_p: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The best 2k continuations, (B, 2k) log p and choices, of `live` (B, k).

    They are among the best 2k of each beam: `log_p` and `ids` (B * k, C). With a vocabulary of one
    token there are k candidates only.
    """
    num_beams, width = live.shape[1], ids.shape[1]
    batch = ops.shape(live)[0]
    beam = ops.arange(num_beams, dtype="int32")[:, None]
    totals = live[:, :, None] + ops.reshape(log_p, (batch, num_beams, width))
    choices = ops.reshape(ids, (batch, num_beams, width)) * num_beams + beam
    totals, order = ops.top_k(ops.reshape(totals, (batch, num_beams * width)), min(2, width) * num_beams)
    choices = ops.reshape(choices, (batch, num_beams * width))
    return totals, ops.take_along_axis(choices, order, axis=1)


def _merge(pool: Pool, scores: Tensor, length: Tensor, choices: Tensor, frozen: Tensor) -> Pool:
    """The best k of the pool and the newly ended, those of scores and choices (B, k).

    A pool that is `frozen` (B,) stays as it is, so that a sentence's result does not depend on how
    long others go on.
    """
    ended = Pool(scores, ops.zeros_like(choices) + length, choices)
    # The pool comes first: top_k keeps the order of equals, so an equal does not displace it.
    scores, lengths, choices = (ops.concatenate(pair, axis=1) for pair in zip(pool, ended, strict=True))
    scores, order = ops.top_k(scores, pool.scores.shape[1])
    lengths, choices = (ops.take_along_axis(x, order, axis=1) for x in (lengths, choices))
    merged = (scores, lengths, choices)
    return Pool(*(ops.where(frozen[:, None], old, new) for old, new in zip(pool, merged, strict=True)))


def _read_back(
    trace: Tensor, steps: Tensor, lengths: Tensor, choices: Tensor, pad_token_id: int
) -> tuple[Tensor, Tensor]:
    """The sentences of `lengths` and last `choices` (B, n), padded, as (B, n, max_length); and the beams they took.

    Follows the choices of `trace` (max_length, B, k) from the last of the `steps` to the first.
    """
    num_beams = trace.shape[2]

    def write(step: Tensor, beam: Tensor, token_ids: Tensor, parents: Tensor) -> tuple[Tensor, ...]:
        step = step - 1
        traced = ops.take_along_axis(ops.take(trace, step, axis=0), beam, axis=1)
        # The last token is the pool's own; `beam` means something only before it.
        choice = ops.where(step == lengths - 1, choices, traced)
        token, beam = ops.where(step < lengths, choice // num_beams, pad_token_id), choice % num_beams
        token_ids, parents = (
            ops.slice_update(written, (0, 0, step), x[:, :, None])
            for written, x in ((token_ids, token), (parents, beam))
        )
        return step, beam, token_ids, parents

    batch, sentences = ops.shape(lengths)
    blank = ops.full((batch, sentences, ops.shape(trace)[0]), pad_token_id, "int32")
    *_, token_ids, parents = ops.while_loop(
        lambda step, *_: step > 0, write, (steps, ops.zeros_like(lengths), blank, ops.zeros_like(blank))
    )
    return token_ids, parents
