"""What search needs of a decoder-only model: the prompt in the cache, then a step after another."""

from keras import ops

from keras_transformer.models import beams
from keras_transformer.models.step_kernels import StepKernels


class PromptedDecoder:
    """Goes on with a batch of prompts (see `generation.Decoder`), whose last tokens are the search's start.

    All rows write the same place of the cache. Prompts of several lengths are at the right end of their rows, and a
    row's places are positions less its `shift`; what is before its prompt is masked.

    Args:
        model: a `CausalLM`.
        token_ids: `(B, P)`.
        max_length: how many tokens are generated at most.
        lengths: `(B,)`, of the prompts, at the right end of `token_ids`; None: all of them are `P`.
        kernels: the model's `StepKernels`; None: its layers use their own.
    """

    def __init__(self, model, token_ids, max_length, lengths=None, kernels=None):
        self._model = model
        self._token_ids = token_ids
        self._places = ops.shape(token_ids)[1] + max_length
        self._shift = None if lengths is None else ops.shape(token_ids)[1] - lengths
        self._kernels = kernels or StepKernels()

    def start(self, num_beams):
        """The prompts but for their last tokens, computed once; each beam has what was written of them for itself."""
        state = {"cache": self._model.make_cache(ops.shape(self._token_ids)[0], self._places)}
        if self._shift is not None:
            state["shift"] = self._shift
        if self._token_ids.shape[1] != 1:
            _, state = decode(self._model, self._token_ids[:, :-1], state)
        if num_beams > 1:
            state["cache"] = tuple({"self": beams.side_by_side(block["self"], num_beams)} for block in state["cache"])
            state["lineage"] = beams.start(ops.shape(self._token_ids)[0], num_beams, self._places)
        return {**state, "kernels": self._kernels.start()}

    def step(self, ids, state):
        """Logits `(N, V)` after the ids `(N,)`, and the state after them."""
        with self._kernels.carried(state["kernels"]):
            return step(self._model, ids, state)

    def reorder(self, state, rows):
        """The state whose row `i` continues row `rows[i]`, a row of the same prompt."""
        written = state["cache"][0]["self"]["position"]
        return {**state, "lineage": beams.reorder(state["lineage"], rows, written)}


def decode(model, token_ids, state):
    """The model's states `(N, T, D)` of the next ids `(N, T)`, and the decoder's state after them."""
    places, cache = {}, state["cache"]
    num_beams = state["lineage"].shape[2] if "lineage" in state else 1
    if num_beams > 1:
        places["attention_mask"] = beams.mask(state["lineage"])
    if "shift" in state:
        attended = cache[0]["self"]
        shift = state["shift"][:, None]
        # The beams of a prompt have a place side by side.
        key_positions = ops.arange(ops.shape(attended["key"])[2], dtype="int32") // num_beams - shift
        positions = attended["position"] + ops.arange(ops.shape(token_ids)[1], dtype="int32")
        positions = positions - (ops.repeat(shift, num_beams, axis=0) if num_beams > 1 else shift)
        places |= {
            "padding_mask": key_positions >= 0,
            # Before a prompt, and in a row that has ended while others go on, any position that a table has will do.
            "positions": ops.clip(positions, 0, (model.reach or 2**30) - 1),
            "key_positions": ops.maximum(key_positions, 0),
        }
    hidden, cache = model.decode(token_ids, cache=cache, training=False, **places)
    return hidden, {**state, "cache": cache}


def step(model, ids, state):
    hidden, state = decode(model, ids[:, None], state)
    return model.logits(hidden)[:, 0], state


class StreamedPrompt:
    """`PromptedDecoder` of one prompt for a loop in Python: two `graphs`, start and step, serve all prompts."""

    def __init__(self, graphs, token_ids, max_length):
        start, self._step = graphs
        self._state = start(token_ids, max_length)

    def start(self, num_beams):
        return self._state

    def step(self, ids, state):
        return self._step(ids, state)
