"""What search asks of a model, and what it answers."""

from typing import Any, NamedTuple, Protocol

Tensor = Any  # a tensor of the current Keras backend
State = Any  # a pytree of such tensors, chosen by the decoder


class Decoder(Protocol):
    """One token in, the logits of the next one out.

    Search holds `N = B * num_beams` rows; row `sentence * num_beams + beam` is that beam of that
    sentence. The state goes round a `keras.ops.while_loop`, so its structure, dtypes and shapes
    must be those of `start` after every `step` and `reorder`, and the methods must be pure: a cache
    has its full length from the start. In a TensorFlow graph the batch of the state and that of
    `start_ids` must be both known or both unknown.

    A logit of -inf is a token that is never chosen. Whatever changes the logits (a temperature, a
    forbidden token) is a `LogitsProcessor`, or a decoder of your own around a decoder.

    A decoder may offer alignments. It then has `source_length`, S, an int or a scalar tensor, and
    `step_with_alignments(ids, state)`, which returns `logits, state, alignments`: (N, S), what the
    rows attended to when the logits were made.
    """

    def start(self, num_beams: int) -> State:
        """The state before the first token, each sentence repeated for its `num_beams` rows."""
        ...

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (N, V) of the tokens after `ids`, in any float dtype, and the state after `ids`.

        `ids` (N,) int32 are the tokens chosen last: at first `start_ids`.
        """
        ...

    def reorder(self, state: State, rows: Tensor) -> State:
        """Row i of the result continues row `rows[i]` of `state`; `rows` is (N,) int32.

        Rows stay within their sentence: what belongs to the sentence (the encoder's keys and
        values) need not be moved. Not called when `num_beams` is 1.
        """
        ...


class Hypotheses(NamedTuple):
    """The result of a search, best first. Beam search has an axis of `n` after the batch.

    A sentence with fewer than `n` hypotheses (a limit of zero, a vocabulary too small for the
    width, logits that are NaN throughout) has rows of padding with length 0 and score -inf.
    """

    token_ids: Tensor
    """(B, max_length) or (B, n, max_length) int32: the end token included, padding after it."""

    lengths: Tensor
    """(B,) or (B, n) int32: generated tokens, the end token included, the start token not."""

    scores: Tensor
    """(B,) or (B, n) float32: the sum of the tokens' log-probabilities over the penalty."""


class AlignedHypotheses(NamedTuple):
    """`Hypotheses` with what each token's prediction attended to, in return for `return_alignments=True`."""

    token_ids: Tensor
    lengths: Tensor
    scores: Tensor

    alignments: Tensor
    """(B, max_length, S) or (B, n, max_length, S) float32, zero after a sentence's end."""
