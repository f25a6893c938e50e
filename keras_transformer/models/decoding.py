"""What search needs of an encoder-decoder: a start, a step with the cache as a value, a change of beams."""

from keras import ops


def step(model, ids, cache, encoder_padding_mask):
    """Logits `(N, V)` after the ids `(N,)`, and the cache after them."""
    hidden, cache = model.decode(ids[:, None], encoder_padding_mask=encoder_padding_mask, cache=cache, training=False)
    return model.logits(hidden)[:, 0], cache


class CachedDecoder:
    """Steps through `model`'s decoder for a batch of sources (see `generation.Decoder`).

    Only self-attention's cache belongs to a beam. The encoder's keys and values belong to the sentence: they are
    projected once, not repeated for each beam, and stay where they are when beams change places.
    """

    def __init__(self, model, encoder_token_ids, encoder_padding_mask, max_length):
        self._model = model
        self._encoder_padding_mask = encoder_padding_mask
        self._encoder_states = model.encode(encoder_token_ids, encoder_padding_mask, training=False)
        self._max_length = max_length

    @property
    def source_length(self):
        return ops.shape(self._encoder_states)[1]

    def start(self, num_beams):
        return self._model.make_cache(self._encoder_states, self._max_length, num_beams)

    def step(self, ids, state):
        """Logits `(N, V)` after the ids `(N,)`, and the state after them."""
        return step(self._model, ids, state, self._encoder_padding_mask)

    def step_with_alignments(self, ids, state):
        """What `step` returns, and the attention to the source `(N, S)`: of the last block, the mean of its heads.

        That is what fairseq reports by default; CTranslate2 takes the first head of the last block alone.
        """
        hidden, scores, state = self._model.decode(
            ids[:, None],
            encoder_padding_mask=self._encoder_padding_mask,
            cache=state,
            training=False,
            return_attention_scores=True,
        )
        return self._model.logits(hidden)[:, 0], state, ops.mean(scores[-1]["cross"][:, :, 0], axis=1)

    def reorder(self, state, rows):
        """The state whose row `i` continues row `rows[i]`, a row of the same sentence."""

        def follow(cache):
            return {
                "key": ops.take(cache["key"], rows, axis=0),
                "value": ops.take(cache["value"], rows, axis=0),
                "position": cache["position"],
            }

        return tuple({**block, "self": follow(block["self"])} for block in state)


class StreamedDecoder:
    """`CachedDecoder` of one sentence for a loop in Python: two `graphs`, start and step, serve all sentences."""

    def __init__(self, graphs, encoder_token_ids, max_length):
        start, self._step = graphs
        self._cache, self._encoder_padding_mask = start(encoder_token_ids, max_length)

    def start(self, num_beams):
        return self._cache

    def step(self, ids, state):
        return self._step(ids, state, self._encoder_padding_mask)
