"""What search needs of an encoder-decoder: a start, a step with the cache as a value, a change of beams."""

from keras import ops

from keras_transformer.models import beams
from keras_transformer.models.step_kernels import StepKernels


def step(model, ids, cache, encoder_padding_mask):
    """Logits `(N, V)` after the ids `(N,)`, and the cache after them."""
    hidden, cache = model.decode(ids[:, None], encoder_padding_mask=encoder_padding_mask, cache=cache, training=False)
    return model.logits(hidden)[:, 0], cache


class CachedDecoder:
    """Steps through `model`'s decoder for a batch of sources (see `generation.Decoder`).

    The encoder's keys and values are projected once and serve all beams of the sentence. The decoder's own stay where
    they were written when beams change places: what changes is a table of whose keys each beam sees.

    Args:
        kernels: the `StepKernels` of the decoder; None: its layers use their own.
    """

    def __init__(self, model, encoder_token_ids, encoder_padding_mask, max_length, kernels=None):
        self._model = model
        self._encoder_padding_mask = encoder_padding_mask
        self._encoder_states = model.encode(encoder_token_ids, encoder_padding_mask, training=False)
        self._max_length = max_length
        self._kernels = kernels or StepKernels()

    @property
    def source_length(self):
        return ops.shape(self._encoder_states)[1]

    def start(self, num_beams):
        cache = self._model.make_cache(self._encoder_states, self._max_length, num_beams)
        state = {"cache": cache, "kernels": self._kernels.start()}
        if num_beams > 1:
            state["lineage"] = beams.start(ops.shape(self._encoder_states)[0], num_beams, self._max_length)
        return state

    def step(self, ids, state):
        """Logits `(N, V)` after the ids `(N,)`, and the state after them."""
        with self._kernels.carried(state["kernels"]):
            hidden, cache = self._decode(ids, state)
            return self._model.logits(hidden)[:, 0], {**state, "cache": cache}

    def step_with_alignments(self, ids, state):
        """What `step` returns, and the attention to the source `(N, S)`: of the last block, the mean of its heads.

        That is what fairseq reports by default; CTranslate2 takes the first head of the last block alone.
        """
        with self._kernels.carried(state["kernels"]):
            hidden, scores, cache = self._decode(ids, state, return_attention_scores=True)
            alignments = ops.mean(scores[-1]["cross"][:, :, 0], axis=1)
            return self._model.logits(hidden)[:, 0], {**state, "cache": cache}, alignments

    def _decode(self, ids, state, **kwargs):
        return self._model.decode(
            ids[:, None],
            encoder_padding_mask=self._encoder_padding_mask,
            decoder_attention_mask=beams.mask(state["lineage"]) if "lineage" in state else None,
            cache=state["cache"],
            training=False,
            **kwargs,
        )

    def reorder(self, state, rows):
        """The state whose row `i` continues row `rows[i]`, a row of the same sentence."""
        written = state["cache"][0]["self"]["position"]
        return {**state, "lineage": beams.reorder(state["lineage"], rows, written)}


class StreamedDecoder:
    """`CachedDecoder` of one sentence for a loop in Python: two `graphs`, start and step, serve all sentences."""

    def __init__(self, graphs, encoder_token_ids, max_length):
        start, self._step = graphs
        self._cache, self._encoder_padding_mask = start(encoder_token_ids, max_length)

    def start(self, num_beams):
        return self._cache

    def step(self, ids, state):
        return self._step(ids, state, self._encoder_padding_mask)
