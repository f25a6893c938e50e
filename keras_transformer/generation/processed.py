"""A decoder whose logits pass through processors: a decoder around a decoder, so that search knows of neither."""

from collections.abc import Iterable
from typing import Any

from keras import ops

from keras_transformer.generation.candidates import without_nan
from keras_transformer.generation.processor import SearchContext
from keras_transformer.generation.protocol import Decoder, State, Tensor


def processed(
    decoder: Any, processors: Any, start_ids: Tensor, max_length: Any, end_token_id: int, num_beams: int = 1
) -> Any:
    """`decoder`, or if there are `processors` (a list or tuple) one whose logits have passed through them in order."""
    if not isinstance(processors, list | tuple) or not all(callable(p) for p in processors):
        raise TypeError(
            "`processors` must be a list or tuple of logits processors, such as `(Temperature(0.7), TopP(0.9))`. "
            f"Received: processors={processors!r}."
        )
    if not processors:
        return decoder
    return Processed(decoder, processors, ops.shape(start_ids)[0] * num_beams, max_length, end_token_id, num_beams)


class Processed:
    """Its state is that of `decoder`, the step, and where a processor asks for it the history of each row."""

    def __init__(
        self, decoder: Decoder, processors: Iterable[Any], rows: Any, max_length: Any, end_token_id: int, num_beams: int
    ):
        self._decoder, self._processors = decoder, processors
        self._rows, self._max_length, self._end_token_id, self._num_beams = rows, max_length, end_token_id, num_beams
        self._needs_history = any(getattr(p, "needs_history", True) for p in processors)

    def start(self, num_beams: int) -> State:
        state = {"decoder": self._decoder.start(num_beams), "step": ops.zeros((), "int32")}
        if self._needs_history:
            state["token_ids"] = ops.zeros((self._rows, self._max_length), "int32")
        return state

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        logits, inner = self._decoder.step(ids, state["decoder"])
        return self._process(logits, ids, {**state, "decoder": inner})

    def step_with_alignments(self, ids: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        logits, inner, alignments = self._decoder.step_with_alignments(ids, state["decoder"])  # type: ignore[attr-defined]
        return *self._process(logits, ids, {**state, "decoder": inner}), alignments

    @property
    def source_length(self) -> Any:
        return self._decoder.source_length  # type: ignore[attr-defined]

    def reorder(self, state: State, rows: Tensor) -> State:
        state = {**state, "decoder": self._decoder.reorder(state["decoder"], rows)}
        if self._needs_history:
            state["token_ids"] = ops.take(state["token_ids"], rows, axis=0)
        return state

    def _process(self, logits: Tensor, ids: Tensor, state: State) -> tuple[Tensor, State]:
        step = state["step"]
        if self._needs_history:
            # The first `ids` are start tokens, which are no part of what is generated: they are overwritten.
            generated = ops.where(step > 0, ids, 0)[:, None]
            place = (0, ops.maximum(step - 1, 0))
            state = {**state, "token_ids": ops.slice_update(state["token_ids"], place, generated)}
        context = SearchContext(step, self._end_token_id, self._num_beams, state.get("token_ids"))
        logits = without_nan(logits)
        for processor in self._processors:
            logits = processor(logits, context)
        return logits, {**state, "step": step + 1}
