"""Which source positions each generated token looked at: recorded as search goes, read along what it returns."""

from typing import Any

from keras import ops

from keras_transformer.generation.protocol import AlignedHypotheses, Hypotheses, State, Tensor


def recording(decoder: Any, rows: Any, max_length: Any, return_alignments: bool) -> Any:
    """`decoder`, or if alignments are wanted a `Recorded` of its `rows` rows."""
    if not return_alignments:
        return decoder
    if not hasattr(decoder, "step_with_alignments"):
        raise ValueError(
            "`return_alignments=True` needs a decoder that has `step_with_alignments` and `source_length`. "
            f"Received: {type(decoder).__name__}."
        )
    return Recorded(decoder, rows, max_length)


class Recorded:
    """A decoder around one that has `step_with_alignments`: its state keeps what each step's rows attended to.

    The record (max_length, N, S) stays where it is when beams change places: `read` follows the beams backwards.
    """

    def __init__(self, decoder: Any, rows: Any, max_length: Any):
        self._decoder, self._rows, self._max_length = decoder, rows, max_length

    def start(self, num_beams: int) -> State:
        shape = (self._max_length, self._rows, self._decoder.source_length)
        state = self._decoder.start(num_beams)
        return {"decoder": state, "step": ops.zeros((), "int32"), "record": ops.zeros(shape, "float32")}

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        logits, inner, alignments = self._decoder.step_with_alignments(ids, state["decoder"])
        record = ops.slice_update(state["record"], (state["step"], 0, 0), ops.cast(alignments, "float32")[None])
        return logits, {"decoder": inner, "step": state["step"] + 1, "record": record}

    def reorder(self, state: State, rows: Tensor) -> State:
        return {**state, "decoder": self._decoder.reorder(state["decoder"], rows)}

    def read(self, state: State, found: Hypotheses, rows: Tensor) -> AlignedHypotheses:
        """`found` with its alignments; `rows`, which broadcasts to its token_ids, are where each token was chosen."""
        token_ids, lengths, _ = found
        steps = ops.arange(ops.shape(token_ids)[-1], dtype="int32")
        places = ops.broadcast_to(steps * self._rows + rows, ops.shape(token_ids))
        shape = ops.shape(state["record"])
        record = ops.reshape(state["record"], (shape[0] * shape[1], shape[2]))
        alignments = ops.take(record, ops.where(steps < lengths[..., None], places, 0), axis=0)
        alignments = ops.where((steps < lengths[..., None])[..., None], alignments, 0.0)
        return AlignedHypotheses(*found, alignments)
