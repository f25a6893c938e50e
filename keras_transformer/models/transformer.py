"""The encoder-decoder Transformer (Vaswani et al. 2017, figure 1)."""

import math

import keras
from keras import ops

from keras_transformer import generation
from keras_transformer.generation.arguments import check_token_ids
from keras_transformer.generation.buckets import bucket
from keras_transformer.generation.compiled import Remembered
from keras_transformer.layers import DecoderBlock, Dropout, EncoderBlock, ProjectionGlorotUniform
from keras_transformer.layers.arguments import check_booleans, check_positive_integers, check_positive_numbers
from keras_transformer.layers.block import patterns_config, set_patterns
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.layers.packing import restarting_positions
from keras_transformer.layers.parts import as_position_part, clone, shared_config
from keras_transformer.layers.quantized import changed_sublayers
from keras_transformer.layers.results import pack, unpack
from keras_transformer.models.compiled_search import SHORTEST, cut, in_buckets
from keras_transformer.models.decoding import CachedDecoder, StreamedDecoder, step
from keras_transformer.models.position_places import check_reach, position_places, within_reach
from keras_transformer.models.presets import preset_config
from keras_transformer.models.step_kernels import StepKernels, logits_of, stored
from keras_transformer.models.token_table import reversible_embedding
from keras_transformer.models.vocabulary_end import VocabularyEnd, output_table_of, with_column, with_ones


@keras.saving.register_keras_serializable(package="keras_transformer")
class Transformer(VocabularyEnd):
    """Embeddings, `num_layers` encoder and decoder blocks, and the softmax's logits (Vaswani et al. 2017).

    One table of embeddings serves source, target and output (section 3.4), scaled by `sqrt(D)` on the way in.

    Differs from the paper: attention's projections have biases, as in the authors' code they have not; the
    attention weights are dropped out too unless `attention_dropout=0.0`.

    Args:
        vocabulary_size: `V`; of source and target together, or of the source if `target_vocabulary_size` is given.
        num_layers: `N`, of the encoder and of the decoder.
        num_heads: `H`.
        hidden_dim: `D`, a multiple of `num_heads`.
        intermediate_dim: `F`.
        dropout: rate on the embeddings and after each sublayer.
        target_vocabulary_size: None shares one table; a number gives the target its own, tied to the output.
        pad_token_id: ids that the encoder leaves out where no `encoder_padding_mask` is given; None: no mask.
            `generate` fills with it after the end token.
        unk_token_id, start_token_id, end_token_id: the other special ids.
        attention_dropout: rate on attention weights; None means `dropout`.
        activation: of the feed-forward networks.
        normalize_first: False is the paper's post-norm. True is pre-norm, with a layer normalisation after each
            of the two stacks.
        layer_norm_epsilon: added to the variance in layer normalisation.
        attention, feed_forward, normalization, residual: parts of the blocks, as in `layers.EncoderBlock`.
        num_decoder_layers: `N` of the decoder; None means `num_layers`.
        encoder_position, decoder_position: what a stack knows of positions: a part that adds to the embeddings, such
            as `PositionEmbedding(512)`; or a part of self-attention that all blocks share, as T5's
            `RelativePositionBias()`, in the decoder with `bidirectional=False`. None means `PositionalEncoding()`.
        embedding_scale: what embeddings are multiplied by on the way in; None means `sqrt(D)`.
        tie_word_embeddings: whether the output's table is that of the target's embeddings.
        use_output_bias: whether the logits have a bias, as in Marian.

    Call arguments:
        inputs: `{"encoder_token_ids": (B, S), "decoder_token_ids": (B, T)}`, integers, and optionally
            `"encoder_padding_mask"` `(B, S)` and `"decoder_padding_mask"` `(B, T)`, True = real. Packed rows, such as
            `text.pack` makes, have integers `"encoder_segment_ids"` `(B, S)` and `"decoder_segment_ids"` `(B, T)`: 0 is
            padding, a token attends to those of its own segment alone, on both sides, and positions count from 0 in
            each run of equal ids.

    Returns:
        Logits `(B, T, V)`: at position `t` those of the token after `decoder_token_ids[:, t]`.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.models import Transformer
    >>> model = Transformer(100, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32)
    >>> logits = model({"encoder_token_ids": np.ones((2, 7)), "decoder_token_ids": np.ones((2, 5))})
    >>> tuple(logits.shape)
    (2, 5, 100)
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers=6,
        num_heads=8,
        hidden_dim=512,
        intermediate_dim=2048,
        dropout=0.1,
        target_vocabulary_size=None,
        pad_token_id=0,
        unk_token_id=1,
        start_token_id=2,
        end_token_id=3,
        attention_dropout=None,
        activation="relu",
        normalize_first=False,
        layer_norm_epsilon=1e-5,
        attention=None,
        feed_forward=None,
        normalization=None,
        residual=None,
        num_decoder_layers=None,
        encoder_position=None,
        decoder_position=None,
        embedding_scale=None,
        tie_word_embeddings=True,
        use_output_bias=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integers(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            num_decoder_layers=num_layers if num_decoder_layers is None else num_decoder_layers,
        )
        check_booleans(tie_word_embeddings=tie_word_embeddings, use_output_bias=use_output_bias)
        if embedding_scale is not None:
            check_positive_numbers(embedding_scale=embedding_scale)
        if attention is None and hidden_dim % num_heads:
            raise ValueError(
                "`hidden_dim` must be a multiple of `num_heads`. "
                f"Received: hidden_dim={hidden_dim}, num_heads={num_heads}"
            )
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.target_vocabulary_size = target_vocabulary_size
        self.pad_token_id = pad_token_id
        self.unk_token_id = unk_token_id
        self.start_token_id = start_token_id
        self.end_token_id = end_token_id
        self.attention_dropout = attention_dropout
        self.activation = keras.activations.get(activation)
        self.normalize_first = normalize_first
        self.layer_norm_epsilon = layer_norm_epsilon
        self.num_decoder_layers = num_decoder_layers
        self.embedding_scale = embedding_scale
        self.tie_word_embeddings = tie_word_embeddings
        self.use_output_bias = use_output_bias
        # What is not tracked here is tracked by the blocks.
        self.__dict__["encoder_position"] = as_position_part(encoder_position)
        self.__dict__["decoder_position"] = as_position_part(decoder_position)
        self.encoder_position_embedding, encoder_part = position_places(self.encoder_position, self.dtype_policy)
        self.decoder_position_embedding, decoder_part = position_places(self.decoder_position, self.dtype_policy)
        set_patterns(
            self, attention=attention, feed_forward=feed_forward, normalization=normalization, residual=residual
        )

        def block(kind, name, position):
            return kind(
                intermediate_dim,
                num_heads,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation=self.activation,
                normalize_first=normalize_first,
                layer_norm_epsilon=layer_norm_epsilon,
                kernel_initializer=ProjectionGlorotUniform(),
                attention=self.attention,
                feed_forward=self.feed_forward,
                normalization=self.normalization,
                residual=self.residual,
                position=position,
                dtype=self.dtype_policy,
                name=name,
            )

        def table(size, name, is_tied):
            return reversible_embedding(
                size,
                hidden_dim,
                tie_weights=is_tied,
                embeddings_initializer=keras.initializers.RandomNormal(stddev=hidden_dim**-0.5),
                reverse_dtype=self.compute_dtype,  # else the largest product of the model is in float32 always
                dtype=self.dtype_policy,
                name=name,
            )

        def final_norm(blocks, name):
            if blocks[-1].output_is_normalized:
                return keras.layers.Identity(dtype=self.dtype_policy, name=name)
            norm = self.normalization or LayerNormalization(epsilon=layer_norm_epsilon)
            return clone(norm, dtype=self.dtype_policy, name=name)

        has_own_target = target_vocabulary_size is not None
        self.token_embedding = table(vocabulary_size, "token_embedding", tie_word_embeddings or has_own_target)
        self.target_token_embedding = (
            table(target_vocabulary_size, "target_token_embedding", tie_word_embeddings)
            if has_own_target
            else self.token_embedding
        )
        self.encoder_dropout = Dropout(dropout, dtype=self.dtype_policy, name="encoder_dropout")
        self.decoder_dropout = Dropout(dropout, dtype=self.dtype_policy, name="decoder_dropout")
        self.encoder_blocks = [block(EncoderBlock, f"encoder_block_{i}", encoder_part) for i in range(num_layers)]
        self.decoder_blocks = [
            block(DecoderBlock, f"decoder_block_{i}", decoder_part) for i in range(num_decoder_layers or num_layers)
        ]
        self.encoder_norm = final_norm(self.encoder_blocks, "encoder_norm")
        self.decoder_norm = final_norm(self.decoder_blocks, "decoder_norm")
        self._generate_functions = Remembered()
        # All shapes are known, so the weights exist from the start: count_params and set_weights need no call.
        self.build({"encoder_token_ids": (None, None), "decoder_token_ids": (None, None)})

    @classmethod
    def from_preset(cls, name, **kwargs):
        """The model of a row of the paper's table 3, or a smaller one: "tiny", "base", "big".

        Args:
            name: the preset.
            **kwargs: what the preset leaves open (`vocabulary_size`), and what shall differ from it.
        """
        return cls(**{**preset_config(name), **kwargs})

    def build(self, input_shape):
        states = (None, None, self.hidden_dim)
        self.token_embedding.build((None, None))
        if self.target_vocabulary_size is not None:
            self.target_token_embedding.build((None, None))
        for layer in (self.encoder_position_embedding, self.decoder_position_embedding):
            if layer is not None and not layer.built:
                layer.build(states)
        for block in self.encoder_blocks:
            block.build(states)
        for block in self.decoder_blocks:
            block.build(states, states)
        self.encoder_norm.build(states)
        self.decoder_norm.build(states)
        if self.use_output_bias:
            size = self.target_vocabulary_size or self.vocabulary_size
            self.output_bias = self.add_weight(shape=(size,), initializer="zeros", name="output_bias")

    def call(self, inputs, training=None):
        missing = {"encoder_token_ids", "decoder_token_ids"} - set(inputs)
        if missing:
            raise ValueError(
                "`inputs` must be a dict with `encoder_token_ids` and `decoder_token_ids`. "
                f"Received: keys={sorted(inputs)}"
            )
        segments = _segments(inputs)
        padding_mask = self.encoder_padding_mask(inputs)
        states = self.encode(
            inputs["encoder_token_ids"], padding_mask, training=training, segment_ids=segments["encoder_segment_ids"]
        )
        hidden = self.decode(
            inputs["decoder_token_ids"],
            states,
            padding_mask,
            decoder_padding_mask=inputs.get("decoder_padding_mask"),
            training=training,
            **segments,
        )
        return self.end(hidden)

    def encoder_padding_mask(self, inputs):
        """The mask `(B, S)` of `inputs`, or the one that leaves segment 0 or pad ids out; None if there is neither."""
        mask = inputs.get("encoder_padding_mask")
        if mask is None and inputs.get("encoder_segment_ids") is not None:
            mask = ops.not_equal(inputs["encoder_segment_ids"], 0)
        elif mask is None and self.pad_token_id is not None:
            mask = ops.not_equal(inputs["encoder_token_ids"], self.pad_token_id)
        return mask

    def encode(self, token_ids, padding_mask=None, training=None, return_attention_scores=False, segment_ids=None):
        """The encoder's states `(B, S, D)` of ids `(B, S)`; on request also the list of its attention scores."""
        positions = None if segment_ids is None else restarting_positions(segment_ids)
        x = self._embed(self.token_embedding, self.encoder_position_embedding, token_ids, positions)
        x = self.encoder_dropout(x, training=training)
        scores = []
        for block in self.encoder_blocks:
            x = block(
                x,
                padding_mask=padding_mask,
                training=training,
                return_attention_scores=return_attention_scores,
                segment_ids=segment_ids,
                positions=positions,
            )
            x, block_scores, _ = unpack(x, return_attention_scores)
            scores.append(block_scores)
        return pack(self.encoder_norm(x), scores if return_attention_scores else None)

    def decode(
        self,
        token_ids,
        encoder_states=None,
        encoder_padding_mask=None,
        decoder_padding_mask=None,
        decoder_attention_mask=None,
        training=None,
        return_attention_scores=False,
        cache=None,
        decoder_segment_ids=None,
        encoder_segment_ids=None,
    ):
        """The decoder's states `(B, T, D)` of ids `(B, T)`: the same code in training and step by step.

        Returns:
            `states[, scores][, cache]`, as asked for: the scores are a list of `{"self", "cross"}`, the cache is
            what `make_cache` gave, after these ids; with it `encoder_states` may be None.
        """
        positions = None if decoder_segment_ids is None else restarting_positions(decoder_segment_ids)
        places = positions
        if cache is not None:
            places = cache[0]["self"]["position"] + ops.arange(ops.shape(token_ids)[1])
        x = self._embed(self.target_token_embedding, self.decoder_position_embedding, token_ids, places)
        x = self.decoder_dropout(x, training=training)
        scores, new_cache = [], []
        for index, block in enumerate(self.decoder_blocks):
            results = block(
                x,
                encoder_states if cache is None else None,
                decoder_padding_mask=decoder_padding_mask,
                decoder_attention_mask=decoder_attention_mask,
                encoder_padding_mask=encoder_padding_mask,
                training=training,
                return_attention_scores=return_attention_scores,
                cache=None if cache is None else cache[index],
                segment_ids=decoder_segment_ids,
                encoder_segment_ids=encoder_segment_ids,
                positions=positions,
            )
            x, block_scores, block_cache = unpack(results, return_attention_scores, cache is not None)
            scores.append(block_scores)
            new_cache.append(block_cache)
        return pack(
            self.decoder_norm(x),
            scores if return_attention_scores else None,
            None if cache is None else tuple(new_cache),
        )

    def logits(self, hidden):
        """Logits `(B, T, V)` of the decoder's states `(B, T, D)`."""
        logits = logits_of(self.target_token_embedding, hidden)
        return logits + ops.cast(self.output_bias, logits.dtype) if self.use_output_bias else logits

    def states_for_table(self, hidden):
        return with_ones(hidden) if self.use_output_bias else hidden

    def output_table(self):
        table = output_table_of(self.target_token_embedding)
        return with_column(table, self.output_bias) if self.use_output_bias else table

    def make_cache(self, encoder_states, max_length, num_beams=1):
        """An empty cache for `max_length` decoder positions of `num_beams` rows a sentence."""
        sentences = ops.shape(encoder_states)[0]
        return tuple(
            block.make_cache(sentences, max_length, encoder_states, num_beams) for block in self.decoder_blocks
        )

    def attention_scores(self, inputs):
        """Who looks at whom: `{"encoder", "self", "cross"}`, each a list of `(B, H, T, S)`, one a layer."""
        segments = _segments(inputs)
        padding_mask = self.encoder_padding_mask(inputs)
        states, encoder = self.encode(
            inputs["encoder_token_ids"],
            padding_mask,
            return_attention_scores=True,
            segment_ids=segments["encoder_segment_ids"],
        )
        _, decoder = self.decode(
            inputs["decoder_token_ids"], states, padding_mask, return_attention_scores=True, **segments
        )
        return {
            "encoder": encoder,
            "self": [scores["self"] for scores in decoder],
            "cross": [scores["cross"] for scores in decoder],
        }

    def generate(
        self, encoder_token_ids, max_length=None, num_beams=1, length_penalty=0.6, jit_compile=False, **kwargs
    ):
        """The best continuation of the start token for each source.

        Args:
            encoder_token_ids: `(B, S)` integers, padded with `pad_token_id`.
            max_length: how many ids to generate at most, the end token included; None: 50 more than the source
                has (Vaswani et al. 2017, section 6.1), counted for each sentence by itself, and no more than a
                table of positions has rows.
            num_beams: 1 is greedy search.
            length_penalty: a float is the alpha of GNMT's penalty, or a callable of `keras_transformer.generation`.
            jit_compile: whether XLA compiles the search, on TensorFlow. It then takes seconds the first time for each
                shape, of which there are few: batch and source are padded (`docs/generation.md`).
            **kwargs: further keywords of `generation.search`, named after Hugging Face: `do_sample`, `temperature`,
                `top_k`, `top_p`, `min_p`, `seed`, `num_return_sequences`, `min_length`, `repetition_penalty`,
                `no_repeat_ngram_size`, `suppress_tokens`, `prefix_ids`, `return_alignments` and more.

        Returns:
            `generation.Hypotheses` of NumPy arrays: `token_ids` `(B, max_length)`, `lengths` `(B,)` and `scores`
            `(B,)`; if `num_return_sequences` is given, with an axis of that length after the batch. With
            `return_alignments=True`, `generation.AlignedHypotheses`.
        """
        options = {"max_length": max_length, "num_beams": num_beams, "length_penalty": length_penalty, **kwargs}
        encoder_token_ids = self._source(encoder_token_ids)
        settings, tensors = generation.as_settings_and_tensors(
            options, self.target_vocabulary_size or self.vocabulary_size, encoder_token_ids.shape[0]
        )
        longest = settings.get("max_length")
        if longest is not None:
            check_reach("`max_length`", longest, self.decoder_position_embedding)
            if jit_compile:  # one graph for lengths that are alike, as for batches and sources
                rows = ops.full((encoder_token_ids.shape[0],), longest, "int32")
                tensors["limits"] = ops.minimum(tensors.get("limits", longest), rows)
                settings["max_length"] = within_reach(
                    bucket(longest, SHORTEST, steps=2), self.decoder_position_embedding
                )
        search = self._generate_functions(
            (*sorted(settings.items()), *tensors, jit_compile, changed_sublayers(self)),
            lambda: self.compiled_search(jit_compile, **settings),
        )
        result = cut(search(encoder_token_ids, tensors), longest)
        return type(result)(*(ops.convert_to_numpy(x) for x in result))

    def compiled_search(self, jit_compile=False, kernels=None, **settings):
        """`search` with these settings as a compiled function of ids and a dict of the tensors among its keywords.

        `kernels`, of `stored_kernels`, stand in for those of the layers, as they were when that was called.
        """
        if settings.get("max_length") is not None:
            check_reach("`max_length`", settings["max_length"], self.decoder_position_embedding)

        kernels = StepKernels(self._step_layers(), jit_compile, kernels)

        def search(ids, tensors):
            return self.search(ids, kernels=kernels, **settings, **tensors)

        if not jit_compile:
            return generation.compiled(search)
        return in_buckets(self, generation.compiled(search, jit_compile=True), settings.get("max_length"))

    def stored_kernels(self):
        """Variables with the decoder's kernels laid out for `compiled_search`, to be saved with its graph."""
        return stored(self._step_layers())

    def _step_layers(self):
        """The layers whose kernels each step of a search multiplies by."""
        blocks = self.decoder_blocks
        return [*(layer for block in blocks for layer in block.step_projections()), self.target_token_embedding]

    def search(
        self,
        encoder_token_ids,
        max_length=None,
        num_beams=1,
        length_penalty=0.6,
        limits=None,
        kernels=None,
        **kwargs,
    ):
        """`generate` on tensors, to be used inside a graph; `limits` `(B,)` bounds each sentence by itself."""
        padding_mask = self.encoder_padding_mask({"encoder_token_ids": encoder_token_ids})
        if max_length is None:
            limits = self.limits(encoder_token_ids) if limits is None else limits
            max_length = within_reach(ops.shape(encoder_token_ids)[1] + 50, self.decoder_position_embedding)
        decoder = CachedDecoder(self, encoder_token_ids, padding_mask, max_length, kernels)
        start_ids = ops.full((ops.shape(encoder_token_ids)[0],), self.start_token_id, "int32")
        kwargs = {
            "max_length": max_length,
            "end_token_id": self.end_token_id,
            "pad_token_id": self.pad_token_id or 0,
            "num_beams": num_beams,
            "length_penalty": length_penalty,
            "limits": limits,
            **kwargs,
        }
        return generation.search(decoder, start_ids, **kwargs)

    def limits(self, encoder_token_ids):
        """The most tokens `(B,)` that are generated for sources `(B, S)` where nothing is said of it."""
        mask = self.encoder_padding_mask({"encoder_token_ids": encoder_token_ids})
        mask = ops.ones_like(encoder_token_ids) if mask is None else mask
        return ops.sum(ops.cast(mask, "int32"), axis=1) + 50

    def stream(self, encoder_token_ids, max_length=None, processors=(), **kwargs):
        """The ids that `generate` finds for one source by greedy search, each as soon as it is known.

        Args:
            encoder_token_ids: `(1, S)` integers.
            max_length: as in `generate`.
            processors: a tuple of `generation.LogitsProcessor`.
            **kwargs: of `generation.logits_processors`.

        Returns:
            An iterator of ints, the end token included.
        """
        generation.check_keywords(kwargs, generation.PROCESSOR_KEYWORDS)
        generation.check_options(max_length=max_length, processors=processors, **kwargs)
        encoder_token_ids = self._source(encoder_token_ids)
        if encoder_token_ids.shape[0] != 1:
            raise ValueError(
                "`encoder_token_ids` must be one source, of shape (1, length), to be streamed. "
                f"Received: shape={tuple(encoder_token_ids.shape)}. Use `generate` for several."
            )
        if max_length is not None:
            check_reach("`max_length`", max_length, self.decoder_position_embedding)
        else:
            real = self.encoder_padding_mask({"encoder_token_ids": encoder_token_ids})
            max_length = 50 + (encoder_token_ids.shape[1] if real is None else int(ops.sum(ops.cast(real, "int32"))))
            max_length = within_reach(max_length, self.decoder_position_embedding)

        def start(ids, max_length):
            mask = self.encoder_padding_mask({"encoder_token_ids": ids})
            return CachedDecoder(self, ids, mask, max_length).start(1)["cache"], mask

        graphs = self._generate_functions(
            ("stream", changed_sublayers(self)),
            lambda: (
                generation.compiled(start),
                generation.compiled(lambda ids, cache, mask: step(self, ids, cache, mask)),
            ),
        )
        cache_length = -(-max_length // 64) * 64  # a few lengths, and so a few graphs, for all sentences
        decoder = StreamedDecoder(graphs, encoder_token_ids, cache_length)
        processors = (*generation.logits_processors(**kwargs), *processors)
        return generation.greedy_stream(decoder, self.start_token_id, max_length, self.end_token_id, processors)

    def _source(self, encoder_token_ids):
        ids = check_token_ids("encoder_token_ids", encoder_token_ids, self.vocabulary_size)
        if ids.ndim != 2:
            raise ValueError(f"`encoder_token_ids` must have the shape (batch, length). Received: shape={ids.shape}")
        check_reach("The length of `encoder_token_ids`", ids.shape[1], self.encoder_position_embedding)
        return ops.convert_to_tensor(ids)

    def _embed(self, table, position_embedding, token_ids, positions=None):
        x = table(token_ids)
        scale = math.sqrt(self.hidden_dim) if self.embedding_scale is None else self.embedding_scale
        x = x * ops.cast(scale, x.dtype)
        if position_embedding is None:
            return x
        return position_embedding.add(x, ops.arange(ops.shape(x)[1]) if positions is None else positions)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "target_vocabulary_size": self.target_vocabulary_size,
            "pad_token_id": self.pad_token_id,
            "unk_token_id": self.unk_token_id,
            "start_token_id": self.start_token_id,
            "end_token_id": self.end_token_id,
            "attention_dropout": self.attention_dropout,
            "activation": keras.activations.serialize(self.activation),
            "normalize_first": self.normalize_first,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            **patterns_config(self),
            "num_decoder_layers": self.num_decoder_layers,
            "encoder_position": shared_config(self.encoder_position),
            "decoder_position": shared_config(self.decoder_position),
            "embedding_scale": self.embedding_scale,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_output_bias": self.use_output_bias,
        }


def _segments(inputs):
    """The segment ids of both sides, None where rows are not packed."""
    segments = {name: inputs.get(name) for name in ("encoder_segment_ids", "decoder_segment_ids")}
    given = [name for name, ids in segments.items() if ids is not None]
    if len(given) == 1:
        raise ValueError(
            "A packed row has segments on both sides: `inputs` must hold `encoder_segment_ids` and "
            f"`decoder_segment_ids`, or neither. Received: {given[0]} alone"
        )
    return segments
