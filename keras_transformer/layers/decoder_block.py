"""The decoder's block: causal self-attention, attention to the encoder, feed-forward."""

import keras

from keras_transformer.layers.block import Block
from keras_transformer.layers.masks import keras_mask


@keras.saving.register_keras_serializable(package="keras_transformer")
class DecoderBlock(Block):
    """One layer of the decoder (Vaswani et al. 2017, section 3.1).

    Constructor, call arguments and weights are those of `keras_hub.layers.TransformerDecoder`; in place of its
    two cache arrays there is one `cache` value. Whether the block attends to an encoder is decided when it is
    built.

    Args: as in `EncoderBlock`.

    Call arguments:
        decoder_sequence: `(B, T, D)`.
        encoder_sequence: `(B, S, D)`; None in a decoder-only model, or with a cache.
        decoder_padding_mask, encoder_padding_mask: `(B, T)`, `(B, S)`; True = real. By default the masks that
            Keras carries along with the sequences.
        decoder_attention_mask, encoder_attention_mask: as `attention_mask` of `MultiHeadAttention`, for
            self-attention and for attention to the encoder.
        use_causal_mask: whether a position attends only to itself and those before it.
        return_attention_scores: whether to return `{"self": (B, H, T, T), "cross": (B, H, T, S)}` too.
        cache: None, or a value of `make_cache`.

    Returns:
        `output[, scores][, cache]`, as asked for; `output` is `(B, T, D)`.
    """

    def build(self, decoder_sequence_shape, encoder_sequence_shape=None):
        self._check_width(decoder_sequence_shape[-1])
        self._self_attention_layer = self._make_attention(
            decoder_sequence_shape, decoder_sequence_shape, "self_attention"
        )
        self._self_attention_layer_norm = self._make_norm(decoder_sequence_shape, "self_attention_layer_norm")
        self._self_attention_dropout = self._make_dropout("self_attention_dropout")
        self._cross_attention_layer = None
        if encoder_sequence_shape is not None:
            self._cross_attention_layer = self._make_attention(
                decoder_sequence_shape, encoder_sequence_shape, "cross_attention"
            )
            self._cross_attention_layer_norm = self._make_norm(decoder_sequence_shape, "cross_attention_layer_norm")
            self._cross_attention_dropout = self._make_dropout("cross_attention_dropout")
        self._feedforward = self._make_feed_forward(decoder_sequence_shape)
        self._feedforward_layer_norm = self._make_norm(decoder_sequence_shape, "feedforward_layer_norm")
        self._feedforward_dropout = self._make_dropout("feedforward_dropout")

    def make_cache(self, batch_size, max_length, encoder_sequence=None):
        """An empty cache of `max_length` positions, with the encoder's keys and values projected once.

        `batch_size` may be a multiple `n` of the batch of `encoder_sequence`: `n` rows then share a sentence.
        """
        cache = {"self": self._self_attention_layer.make_cache(batch_size, max_length)}
        if self._cross_attention_layer is not None:
            cache["cross"] = self._cross_attention_layer.project_memory(encoder_sequence)
        return cache

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
    ):
        has_memory = encoder_sequence is not None or (cache is not None and "cross" in cache)
        if has_memory != (self._cross_attention_layer is not None):
            built, called = ("with", "without") if not has_memory else ("without", "with")
            raise ValueError(
                f"This `DecoderBlock` was built {built} `encoder_sequence` and is called {called} it. "
                "Build one block for each use."
            )
        if decoder_padding_mask is None and cache is None:
            decoder_padding_mask = keras_mask(decoder_sequence)
        if encoder_padding_mask is None:
            encoder_padding_mask = keras_mask(encoder_sequence)
        scores, new_cache = {}, dict(cache or {})

        def attend(layer, name, x, memory, padding_mask, attention_mask, causal):
            results = layer(
                x,
                memory,
                value_mask=padding_mask,
                attention_mask=attention_mask,
                use_causal_mask=causal,
                return_attention_scores=return_attention_scores,
                training=training,
                cache=None if cache is None else cache[name],
            )
            results = list(results) if isinstance(results, tuple) else [results]
            if cache is not None:
                new_cache[name] = results.pop()
            if return_attention_scores:
                scores[name] = results.pop()
            return results[0]

        def self_attention(x):
            return attend(
                self._self_attention_layer, "self", x, x, decoder_padding_mask, decoder_attention_mask, use_causal_mask
            )

        def cross_attention(x):
            return attend(
                self._cross_attention_layer,
                "cross",
                x,
                encoder_sequence if cache is None else None,
                encoder_padding_mask,
                encoder_attention_mask,
                False,
            )

        (x,) = self._residual(decoder_sequence, self_attention, "self_attention", training)
        if has_memory:
            (x,) = self._residual(x, cross_attention, "cross_attention", training)
        (x,) = self._residual(x, self._feedforward, "feedforward", training)
        results = [x]
        if return_attention_scores:
            results.append(scores)
        if cache is not None:
            results.append(new_cache)
        return results[0] if len(results) == 1 else tuple(results)
