"""Greedy search: the most probable token, one after another."""

from typing import Any

from keras import ops

from keras_transformer.generation import penalties
from keras_transformer.generation.alignments import recording
from keras_transformer.generation.arguments import check_start_ids, sentence_limits
from keras_transformer.generation.candidates import best_tokens
from keras_transformer.generation.follow import follow
from keras_transformer.generation.processed import processed
from keras_transformer.generation.protocol import AlignedHypotheses, Decoder, Hypotheses, Tensor


def greedy_search(
    decoder: Decoder,
    start_ids: Any,
    max_length: Any,
    end_token_id: int,
    pad_token_id: int = 0,
    limits: Any = None,
    length_penalty: Any = 0.6,
    processors: Any = (),
    return_alignments: bool = False,
) -> Hypotheses | AlignedHypotheses:
    """Follows the most probable token until the end token or the sentence's limit.

    Args:
        decoder: see `Decoder`.
        start_ids: (B,), the token each sentence starts from.
        max_length: most tokens generated, the end token included: an int, or a scalar tensor where
            the backend allows shapes that are not known beforehand.
        end_token_id: an id outside the vocabulary, such as -1, ends no sentence.
        pad_token_id: fills `token_ids` after a sentence's end.
        limits: (B,), the maximum of each sentence, cut to `max_length`; None for `max_length`. A
            sentence that reaches its limit without an end token is finished as it is.
        length_penalty: a number is GNMT's alpha, see `penalties`. Here it changes the score only.
        processors: a tuple of `LogitsProcessor`, through which the logits pass in order.
        return_alignments: whether to return `AlignedHypotheses`, of a decoder that offers them.

    Returns:
        `Hypotheses` with token_ids (B, max_length), lengths (B,) and scores (B,).
    """
    start_ids = check_start_ids(start_ids)
    limits = sentence_limits(limits, max_length, start_ids)
    decoder = processed(decoder, processors, start_ids, max_length, end_token_id)
    batch = ops.shape(start_ids)[0]
    recorded = recording(decoder, batch, max_length, return_alignments)

    def most_probable(logits: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        log_p, ids = best_tokens(logits, 1)
        return ops.reshape(log_p, (batch,)), ops.reshape(ids, (batch,))

    penalty = penalties.get(length_penalty)
    found, state = follow(recorded, most_probable, start_ids, limits, max_length, end_token_id, pad_token_id, penalty)
    if return_alignments:
        return recorded.read(state, found, ops.arange(batch, dtype="int32")[:, None])
    return found
