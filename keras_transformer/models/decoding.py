"""What search needs of an encoder-decoder: a start, a step with the cache as a value, a change of beams."""

from keras import ops


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

    def start(self, num_beams):
        return self._model.make_cache(self._encoder_states, self._max_length, num_beams)

    def step(self, ids, state):
        """Logits `(N, V)` after the ids `(N,)`, and the state after them."""
        hidden, state = self._model.decode(
            ids[:, None], encoder_padding_mask=self._encoder_padding_mask, cache=state, training=False
        )
        return self._model.logits(hidden)[:, 0], state

    def reorder(self, state, rows):
        """The state whose row `i` continues row `rows[i]`, a row of the same sentence."""

        def follow(cache):
            return {
                "key": ops.take(cache["key"], rows, axis=0),
                "value": ops.take(cache["value"], rows, axis=0),
                "position": cache["position"],
            }

        return tuple({**block, "self": follow(block["self"])} for block in state)
