"""The decoder's block: causal self-attention, attention to the encoder, feed-forward."""

import keras

from keras_transformer.layers.block import Block
from keras_transformer.layers.masks import keras_mask
from keras_transformer.layers.quantized import sublayers
from keras_transformer.layers.rematerialization import as_a_whole
from keras_transformer.layers.results import pack


@keras.saving.register_keras_serializable(package="keras_transformer")
class DecoderBlock(Block):
    """One layer of the decoder (Vaswani et al. 2017, section 3.1).

    Constructor, call arguments and weights are those of `keras_hub.layers.TransformerDecoder`; in place of its
    two cache arrays there is one `cache` value. Whether the block attends to an encoder is decided when it is
    built.

    Args: as in `EncoderBlock`. `attention` is cloned for self-attention and for attention to the encoder, `position`
        counts in self-attention alone.

    Call arguments:
        decoder_sequence: `(B, T, D)`.
        encoder_sequence: `(B, S, E)`; None in a decoder-only model, or with a cache.
        decoder_padding_mask, encoder_padding_mask: `(B, T)`, `(B, S)`; True = real. By default the masks that
            Keras carries along with the sequences. With a cache the first is of all its places, and None by default.
        decoder_attention_mask, encoder_attention_mask: as `attention_mask` of `MultiHeadAttention`, for
            self-attention and for attention to the encoder.
        use_causal_mask: whether a position attends only to itself and those before it.
        return_attention_scores: whether to return `{"self": (B, H, T, T), "cross": (B, H, T, S)}` too.
        cache: None, or a value of `make_cache`.
        segment_ids, encoder_segment_ids: integers `(B, T)` and `(B, S)` of packed rows: a query attends to its own
            segment alone, in self-attention and in attention to the encoder.
        positions: integers `(T,)` or `(B, T)`; None means 0 to T - 1, or from 0 in each segment, or with a cache those
            after what is in it.
        key_positions: with a cache and `positions`, those of all its places, `(1, L)` or `(B, L)`; else None.

    Returns:
        `output[, scores][, cache]`, as asked for; `output` is `(B, T, D)`.
    """

    @as_a_whole
    def build(self, decoder_sequence_shape, encoder_sequence_shape=None):
        self._self_attention_layer = self._build_attention(
            decoder_sequence_shape, decoder_sequence_shape, "self_attention", self.position
        )
        self._build_residual(decoder_sequence_shape, "self_attention")
        self._cross_attention_layer = None
        if encoder_sequence_shape is not None:
            self._cross_attention_layer = self._build_attention(
                decoder_sequence_shape, encoder_sequence_shape, "cross_attention"
            )
            self._build_residual(decoder_sequence_shape, "cross_attention")
        self._feedforward = self._build_feed_forward(decoder_sequence_shape)
        self._build_residual(decoder_sequence_shape, "feedforward")

    def make_cache(self, batch_size, max_length, encoder_sequence=None, num_beams=1):
        """An empty cache of `max_length` positions, with the encoder's keys and values projected once.

        `batch_size` may be a multiple `n` of the batch of `encoder_sequence`: `n` rows then share a sentence.
        `num_beams` is as in `MultiHeadAttention.make_cache`.
        """
        if not self.built:
            raise ValueError("The block must be built before it can make a cache: call it first. Received: built=False")
        if (encoder_sequence is None) != (self._cross_attention_layer is None):
            built, made = ("with", "without") if encoder_sequence is None else ("without", "with")
            raise ValueError(
                f"This `DecoderBlock` was built {built} `encoder_sequence`, and a cache is asked for {made} it. "
                "Build one block for each use."
            )
        cache = {"self": self._self_attention_layer.make_cache(batch_size, max_length, num_beams)}
        if self._cross_attention_layer is not None:
            cache["cross"] = self._cross_attention_layer.project_memory(encoder_sequence)
        return cache

    def step_projections(self):
        """The `Dense` and `EinsumDense` layers that a call with a cache goes through.

        The encoder's keys and values are in the cache.
        """
        cross = self._cross_attention_layer
        made_before = () if cross is None else (cross._key_dense, cross._value_dense)
        return [
            layer
            for _, layer in sublayers(self)
            if isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense))
            and layer.built  # a part that was handed in is only the pattern of the one that is called
            and not any(layer is other for other in made_before)
        ]

    def call(
        self,
        decoder_sequence,
        encoder_sequence=None,
        decoder_padding_mask=None,
        decoder_attention_mask=None,
        encoder_padding_mask=None,
        encoder_attention_mask=None,
        use_causal_mask=True,
        training=None,
        return_attention_scores=False,
        cache=None,
        segment_ids=None,
        encoder_segment_ids=None,
        positions=None,
        key_positions=None,
    ):
        has_memory = encoder_sequence is not None or (isinstance(cache, dict) and "cross" in cache)
        if has_memory != (self._cross_attention_layer is not None):
            built, called = ("with", "without") if not has_memory else ("without", "with")
            raise ValueError(
                f"This `DecoderBlock` was built {built} `encoder_sequence` and is called {called} it. "
                "Build one block for each use."
            )
        if encoder_segment_ids is not None and segment_ids is None:
            raise ValueError(
                "`encoder_segment_ids` says which segment of the encoder a query may attend to, by the query's own. "
                "Received: segment_ids=None. Pass `segment_ids` too."
            )
        if cache is not None and (not isinstance(cache, dict) or "self" not in cache):
            raise ValueError(f"`cache` must be a value of `make_cache`. Received: cache={cache!r}")
        if decoder_padding_mask is None and cache is None:
            decoder_padding_mask = keras_mask(decoder_sequence)
        if encoder_padding_mask is None:
            encoder_padding_mask = keras_mask(encoder_sequence)
        scores: dict | None = {} if return_attention_scores else None
        new_cache = None if cache is None else dict(cache)
        self_attention = self._attention(
            "self",
            scores,
            new_cache,
            value_mask=decoder_padding_mask,
            attention_mask=decoder_attention_mask,
            use_causal_mask=use_causal_mask,
            segment_ids=segment_ids,
            positions=positions,
            key_positions=key_positions,
            training=training,
        )
        cross_attention = self._attention(
            "cross",
            scores,
            new_cache,
            memory=encoder_sequence if cache is None else None,
            value_mask=encoder_padding_mask,
            attention_mask=encoder_attention_mask,
            segment_ids=None if encoder_segment_ids is None else segment_ids,
            key_segment_ids=encoder_segment_ids,
            training=training,
        )
        x = self._residual(decoder_sequence, self_attention, "self_attention", training)
        if has_memory:
            x = self._residual(x, cross_attention, "cross_attention", training)
        x = self._residual(x, self._feedforward, "feedforward", training)
        return pack(x, scores, new_cache)

    def compute_output_shape(self, decoder_sequence_shape, encoder_sequence_shape=None):
        return decoder_sequence_shape
