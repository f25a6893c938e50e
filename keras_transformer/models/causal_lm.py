"""The decoder-only Transformer: GPT's (Radford et al. 2018, section 3.1) and its relatives."""

import keras
import numpy as np
from keras import ops

from keras_transformer import generation
from keras_transformer.generation.arguments import check_count, check_token_ids
from keras_transformer.generation.buckets import bucket
from keras_transformer.generation.compiled import Remembered
from keras_transformer.generation.prompts import joined, right_aligned, with_prompts
from keras_transformer.layers import (
    DecoderBlock,
    Dropout,
    PositionEmbedding,
    ProjectionGlorotUniform,
)
from keras_transformer.layers.arguments import check_booleans, check_positive_integers, check_positive_numbers
from keras_transformer.layers.block import PATTERNS, set_patterns
from keras_transformer.layers.initializers import clone_initializer
from keras_transformer.layers.masks import as_boolean
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.layers.packing import restarting_positions
from keras_transformer.layers.parts import as_part, as_position_part, clone, shared_config
from keras_transformer.layers.quantized import changed_sublayers
from keras_transformer.layers.results import pack, unpack
from keras_transformer.models.position_places import position_places, within_reach
from keras_transformer.models.presets import CAUSAL_PRESETS, preset_config
from keras_transformer.models.prompt_buckets import SHORTEST, in_buckets
from keras_transformer.models.prompted import PromptedDecoder, StreamedPrompt, step
from keras_transformer.models.step_kernels import StepKernels, logits_of
from keras_transformer.models.token_table import reversible_embedding
from keras_transformer.models.vocabulary_end import VocabularyEnd, output_table_of


@keras.saving.register_keras_serializable(package="keras_transformer")
class CausalLM(VocabularyEnd):
    """Embeddings, `num_layers` causal blocks without an encoder, and the logits of the next token.

    By default GPT-2's wiring (Radford et al. 2019, section 2.3): pre-norm, a normalisation at the end, the output tied
    to the embeddings, GELU (there its approximation, `activation=layers.gelu_tanh`).

    Args:
        vocabulary_size: `V`.
        num_layers, num_heads: of the blocks and of their attention, `H`.
        hidden_dim: `D`, a multiple of `num_heads`.
        intermediate_dim: `F`.
        dropout: rate on the embeddings and after each sublayer.
        pad_token_id: fills what `generate` returns after the end token; None: the end token does, or 0.
        start_token_id: the token that texts begin with; None: there is none.
        end_token_id: the token that ends a text; None: there is none.
        attention_dropout: rate on attention weights; None means `dropout`.
        activation: of the feed-forward networks.
        normalize_first: True is pre-norm, with a normalisation after the last block; False is post-norm.
        layer_norm_epsilon: added to the variance in layer normalisation.
        kernel_initializer: of the blocks' kernels; None means `layers.ProjectionGlorotUniform()`.
        embedding_scale: what embeddings are multiplied by on the way in, before positions are added.
        tie_word_embeddings: whether the output's table is that of the embeddings.
        position: what knows of positions: `PositionEmbedding(1024)`, which adds to the embeddings; or a part of
            attention that all blocks share, `RotaryEmbedding()`, `AlibiBias()` or
            `RelativePositionBias(bidirectional=False)`; None means `PositionalEncoding()`, the paper's sinusoids.
        attention: as in `layers.EncoderBlock`, or a list of such parts that the layers take in turn: GPT-3's dense
            and banded layers are `[attention, banded]` (Brown et al. 2020, section 2.1).
        feed_forward, normalization, residual: parts of the blocks, as in `layers.EncoderBlock`.

    Call arguments:
        inputs: `{"token_ids": (B, T)}`, integers, and optionally `"padding_mask"` `(B, T)`, True = real, and
            `"segment_ids"` `(B, T)` of packed rows. Padding at the right end needs no mask, since causality hides it;
            with a mask, positions count real tokens, so that it may be anywhere.

    Returns:
        Logits `(B, T, V)`: at position `t` those of the token after `token_ids[:, t]`.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import MultiHeadAttention, RotaryEmbedding
    >>> from keras_transformer.layers.patterns import SlidingWindow
    >>> from keras_transformer.models import CausalLM
    >>> model = CausalLM(
    ...     100,
    ...     num_layers=4,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=64,
    ...     position=RotaryEmbedding(),
    ...     attention=[MultiHeadAttention(2, 8), MultiHeadAttention(2, 8, pattern=SlidingWindow(3))],
    ... )
    >>> tuple(model({"token_ids": np.ones((2, 5))}).shape)
    (2, 5, 100)
    >>> model.generate([[5, 6, 7]], max_length=8).token_ids.shape
    (1, 8)
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        dropout=0.1,
        pad_token_id=0,
        start_token_id=None,
        end_token_id=None,
        attention_dropout=None,
        activation="gelu",
        normalize_first=True,
        layer_norm_epsilon=1e-5,
        kernel_initializer=None,
        embedding_scale=1.0,
        tie_word_embeddings=True,
        position=None,
        attention=None,
        feed_forward=None,
        normalization=None,
        residual=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integers(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
        )
        check_positive_numbers(embedding_scale=embedding_scale)
        check_booleans(tie_word_embeddings=tie_word_embeddings)
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
        self.pad_token_id = pad_token_id
        self.start_token_id = start_token_id
        self.end_token_id = end_token_id
        self.attention_dropout = attention_dropout
        self.activation = keras.activations.get(activation)
        self.normalize_first = normalize_first
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.embedding_scale = embedding_scale
        self.tie_word_embeddings = tie_word_embeddings
        set_patterns(self, feed_forward=feed_forward, normalization=normalization, residual=residual)
        self.__dict__["attention"] = _in_turn(attention)
        self.__dict__["position"] = as_position_part(position)  # tracked below or by the blocks
        self.position_embedding, self.__dict__["_block_position"] = position_places(self.position, self.dtype_policy)

        self.token_embedding = reversible_embedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_word_embeddings,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            reverse_dtype=self.compute_dtype,  # else the largest product of the model is in float32 always
            dtype=self.dtype_policy,
            name="token_embedding",
        )
        self.embedding_dropout = Dropout(dropout, dtype=self.dtype_policy, name="embedding_dropout")
        self.blocks = [self._block(index) for index in range(num_layers)]
        if self.blocks[-1].output_is_normalized:
            self.final_norm = keras.layers.Identity(dtype=self.dtype_policy, name="final_norm")
        else:
            norm = self.normalization or LayerNormalization(epsilon=layer_norm_epsilon)
            self.final_norm = clone(norm, dtype=self.dtype_policy, name="final_norm")
        self._generate_functions = Remembered()
        # All shapes are known, so the weights exist from the start: count_params and set_weights need no call.
        self.build({"token_ids": (None, None)})

    def _block(self, index):
        parts = self.attention
        return DecoderBlock(
            self.intermediate_dim,
            self.num_heads,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation=self.activation,
            normalize_first=self.normalize_first,
            layer_norm_epsilon=self.layer_norm_epsilon,
            kernel_initializer=clone_initializer(self.kernel_initializer or ProjectionGlorotUniform()),
            position=self._block_position,
            attention=parts[index % len(parts)] if isinstance(parts, list) else parts,
            feed_forward=self.feed_forward,
            normalization=self.normalization,
            residual=self.residual,
            dtype=self.dtype_policy,
            name=f"block_{index}",
        )

    @classmethod
    def from_preset(cls, name, **kwargs):
        """A known size: "nanogpt_cpu", "nanogpt", "gpt2", "gpt2_medium", "gpt2_large", "gpt2_xl".

        Args:
            name: the preset.
            **kwargs: what the preset leaves open (`vocabulary_size`), and what shall differ from it;
                `sequence_length` is that of the table of positions, unless a `position` is given.
        """
        config = {**preset_config(name, CAUSAL_PRESETS), **kwargs}
        sequence_length = config.pop("sequence_length")
        if config.get("position") is None:
            config["position"] = PositionEmbedding(
                sequence_length, keras.initializers.RandomNormal(stddev=0.02), dtype=config.get("dtype")
            )
        return cls(**{"intermediate_dim": 4 * config["hidden_dim"], **config})

    def build(self, input_shape):
        states = (None, None, self.hidden_dim)
        self.token_embedding.build((None, None))
        for layer in (self.position_embedding, *self.blocks, self.final_norm):
            if layer is not None and not layer.built:
                layer.build(states)

    def call(self, inputs, training=None):
        if not isinstance(inputs, dict) or "token_ids" not in inputs:
            received = f"keys={sorted(inputs)}" if isinstance(inputs, dict) else type(inputs).__name__
            raise ValueError(f"`inputs` must be a dict with `token_ids`. Received: {received}")
        hidden = self.decode(
            inputs["token_ids"], inputs.get("padding_mask"), inputs.get("segment_ids"), training=training
        )
        return self.end(hidden)

    def decode(
        self,
        token_ids,
        padding_mask=None,
        segment_ids=None,
        attention_mask=None,
        positions=None,
        key_positions=None,
        training=None,
        return_attention_scores=False,
        cache=None,
    ):
        """The states `(B, T, D)` of ids `(B, T)`: the same code in training and step by step.

        Args:
            token_ids, padding_mask, segment_ids: see "Call arguments"; with a cache of length `L` the mask is that of
                its places, `(B, L)`.
            attention_mask: who may attend to whom besides, as in `layers.DecoderBlock`.
            positions: integers `(B, T)`; None: counted, from what is in the cache.
            key_positions: with a cache and `positions`, `(B, L)`.
            training, return_attention_scores: as in `layers.DecoderBlock`.
            cache: None, or what `make_cache` gave, or the one after earlier ids.

        Returns:
            `states[, scores][, cache]`, as asked for: the scores are a list of `(B, H, T, S)`, the cache is that after
            these ids.
        """
        padding_mask = as_boolean(padding_mask, "padding_mask")
        if positions is None and segment_ids is not None:
            positions = restarting_positions(segment_ids)
        elif positions is None and padding_mask is not None and cache is None:
            positions = ops.maximum(ops.cumsum(ops.cast(padding_mask, "int32"), axis=1) - 1, 0)
        x = self.embedding_dropout(self._embed(token_ids, positions, cache), training=training)
        scores, new_cache = [], []
        for index, block in enumerate(self.blocks):
            results = block(
                x,
                decoder_padding_mask=padding_mask,
                decoder_attention_mask=attention_mask,
                segment_ids=segment_ids,
                positions=positions,
                key_positions=key_positions,
                training=training,
                return_attention_scores=return_attention_scores,
                cache=None if cache is None else cache[index],
            )
            x, block_scores, block_cache = unpack(results, return_attention_scores, cache is not None)
            scores.append(block_scores and block_scores["self"])
            new_cache.append(block_cache)
        return pack(
            self.final_norm(x),
            scores if return_attention_scores else None,
            None if cache is None else tuple(new_cache),
        )

    def _embed(self, token_ids, positions, cache):
        x = self.token_embedding(token_ids)
        if self.embedding_scale != 1:
            x = x * ops.cast(self.embedding_scale, x.dtype)
        if self.position_embedding is None:
            return x
        if positions is None:
            positions = ops.arange(ops.shape(token_ids)[1], dtype="int32")
            if cache is not None:
                positions = ops.expand_dims(cache[0]["self"]["position"] + positions, 0)
        return self.position_embedding.add(x, positions)

    def logits(self, hidden):
        """Logits `(B, T, V)` of the states `(B, T, D)`."""
        return logits_of(self.token_embedding, hidden)

    def output_table(self):
        return output_table_of(self.token_embedding)

    def make_cache(self, batch_size, max_length):
        """An empty cache for `batch_size` rows of up to `max_length` tokens."""
        return tuple(block.make_cache(batch_size, max_length) for block in self.blocks)

    def attention_scores(self, inputs):
        """Who looks at whom: a list of `(B, H, T, T)`, one a layer."""
        _, scores = self.decode(
            inputs["token_ids"], inputs.get("padding_mask"), inputs.get("segment_ids"), return_attention_scores=True
        )
        return scores

    def generate(
        self,
        token_ids,
        padding_mask=None,
        max_length=None,
        num_beams=1,
        length_penalty=0.6,
        jit_compile=False,
        **kwargs,
    ):
        """The best continuation of each prompt.

        Args:
            token_ids: `(B, P)` integers, the prompts.
            padding_mask: `(B, P)`, True = real, where prompts are of several lengths; padding may be at either end.
            max_length: the most tokens of a sentence, prompt and end token counted; None: 50 more than its prompt has,
                as far as there are positions.
            num_beams: 1 is greedy search.
            length_penalty: a float is the alpha of GNMT's penalty, or a callable of `keras_transformer.generation`. It
                is of the generated tokens alone, whose scores are compared.
            jit_compile: whether XLA compiles the search, on TensorFlow. It then takes seconds the first time for each
                shape, of which there are few: batch and prompts are padded (`docs/generation.md`).
            **kwargs: further keywords of `generation.search`, as in `Transformer.generate`. `min_length` and `limits`
                count the prompt, and `repetition_penalty` and `no_repeat_ngram_size` see it, as in Hugging Face. There
                is no source for `return_alignments` to point at.

        Returns:
            `generation.Hypotheses` of NumPy arrays: `token_ids` `(B, max_length)`, prompt and continuation, then
            padding; `lengths` `(B,)` of both; `scores` `(B,)` of the continuation. If `num_return_sequences` is given,
            with an axis of that length after the batch.
        """
        options = {"max_length": max_length, "num_beams": num_beams, "length_penalty": length_penalty, **kwargs}
        token_ids, padding_mask = self._prompts(token_ids, padding_mask, max_length)
        settings, tensors = generation.as_settings_and_tensors(options, self.vocabulary_size, len(token_ids))
        max_length = settings.get("max_length")
        if jit_compile and max_length is not None:  # one graph for lengths that are alike, as for batches and prompts
            settings["max_length"] = within_reach(bucket(max_length, SHORTEST, steps=2), self.position_embedding)
        search = self._generate_functions(
            (*sorted(settings.items()), jit_compile, changed_sublayers(self)),
            lambda: self._compiled_search(jit_compile, settings),
        )
        if jit_compile:
            result = in_buckets(search, token_ids, padding_mask, tensors, max_length)
        else:
            mask = {} if padding_mask is None else {"padding_mask": ops.convert_to_tensor(padding_mask)}
            result = search(ops.convert_to_tensor(token_ids), {**tensors, **mask})
        return type(result)(*(ops.convert_to_numpy(x) for x in result))

    def _compiled_search(self, jit_compile, settings):
        layers = [layer for block in self.blocks for layer in block.step_projections()]
        kernels = StepKernels([*layers, self.token_embedding], jit_compile)
        return generation.compiled(
            lambda ids, tensors: self.search(ids, kernels=kernels, **settings, **tensors), jit_compile=jit_compile
        )

    def search(
        self,
        token_ids,
        padding_mask=None,
        max_length=None,
        num_beams=1,
        length_penalty=0.6,
        limits=None,
        min_length=None,
        processors=(),
        kernels=None,
        **kwargs,
    ):
        """`generate` on tensors, to be used inside a graph."""
        generation.check_options(num_beams=num_beams, min_length=min_length, **kwargs)
        token_ids = ops.cast(token_ids, "int32")
        batch, places = ops.shape(token_ids)
        lengths = ops.full((batch,), places, "int32")
        if padding_mask is not None:
            token_ids, lengths = right_aligned(token_ids, as_boolean(padding_mask, "padding_mask"))
        if max_length is None:
            max_length, limits = places + 50, lengths + 50 if limits is None else limits
            if self.reach is not None:
                smaller = min if isinstance(max_length, int) else ops.minimum
                max_length = smaller(max_length, self.reach)
        # After the shortest prompt there is, which only a running graph knows, or that there may be.
        room = max_length - (places if padding_mask is None else 1)
        limits = max_length if limits is None else ops.minimum(ops.cast(limits, "int32"), max_length)
        end_token_id = kwargs.pop("end_token_id", self.end_token_id)
        pad_token_id = kwargs.pop("pad_token_id", self.pad_token_id)
        if pad_token_id is None:
            pad_token_id = self.end_token_id or 0
        names = [name for name in kwargs if name in generation.PROCESSOR_KEYWORDS]
        processors = with_prompts(
            (
                *generation.logits_processors(min_length=min_length, **{name: kwargs.pop(name) for name in names}),
                *processors,
            ),
            token_ids,
            lengths,
        )
        found = generation.search(
            PromptedDecoder(self, token_ids, room, None if padding_mask is None else lengths, kernels),
            token_ids[:, -1],
            max_length=room,
            end_token_id=-1 if end_token_id is None else end_token_id,
            pad_token_id=pad_token_id,
            num_beams=num_beams,
            length_penalty=length_penalty,
            limits=limits - lengths,
            processors=processors,
            **kwargs,
        )
        return joined(token_ids, lengths, found, max_length, pad_token_id)

    def stream(self, token_ids, padding_mask=None, max_length=None, processors=(), **kwargs):
        """The tokens with which `generate` continues one prompt by greedy search, each as soon as it is known.

        Args:
            token_ids: `(1, P)` integers.
            padding_mask: `(1, P)`, True = real; None: all are.
            max_length: as in `generate`.
            processors: a tuple of `generation.LogitsProcessor`.
            **kwargs: of `generation.logits_processors`.

        Returns:
            An iterator of ints, the end token included, the prompt not.
        """
        generation.check_keywords(kwargs, generation.PROCESSOR_KEYWORDS)
        generation.check_options(max_length=max_length, processors=processors, **kwargs)
        token_ids, padding_mask = self._prompts(token_ids, padding_mask, max_length)
        if len(token_ids) != 1:
            raise ValueError(
                "`token_ids` must be one prompt, of shape (1, length), to be streamed. "
                f"Received: shape={token_ids.shape}. Use `generate` for several."
            )
        if padding_mask is not None:
            token_ids = token_ids[padding_mask][None]
        prompt = token_ids.shape[1]
        if max_length is None:
            max_length = min(prompt + 50, self.reach or prompt + 50)
        graphs = self._generate_functions(
            ("stream", changed_sublayers(self)),
            lambda: (
                generation.compiled(lambda ids, max_length: PromptedDecoder(self, ids, max_length).start(1)),
                generation.compiled(lambda ids, state: step(self, ids, state)),
            ),
        )
        room = -(-max_length // 64) * 64 - prompt  # a few lengths of caches, and so a few graphs, for all prompts
        decoder = StreamedPrompt(graphs, ops.convert_to_tensor(token_ids), room)
        processors = (*generation.logits_processors(**kwargs), *processors)
        processors = with_prompts(processors, ops.convert_to_tensor(token_ids), ops.array([prompt], "int32"))
        end_token_id = -1 if self.end_token_id is None else self.end_token_id
        return generation.greedy_stream(decoder, int(token_ids[0, -1]), max_length - prompt, end_token_id, processors)

    def _prompts(self, token_ids, padding_mask, max_length):
        """The prompts as NumPy arrays, the mask None if it hides nothing; refused if they leave nothing to do."""
        token_ids = check_token_ids("token_ids", token_ids, self.vocabulary_size)
        if token_ids.ndim != 2 or token_ids.shape[1] == 0:
            raise ValueError(
                "`token_ids` must have the shape (batch, length), with at least one token in each row to go on from. "
                f"Received: shape={token_ids.shape}"
            )
        lengths = np.full(len(token_ids), token_ids.shape[1])
        if padding_mask is not None:
            padding_mask = ops.convert_to_numpy(padding_mask) != 0
            if padding_mask.shape != token_ids.shape:
                raise ValueError(
                    f"`padding_mask` must have the shape of `token_ids`, {token_ids.shape}. "
                    f"Received: shape={padding_mask.shape}"
                )
            lengths = padding_mask.sum(axis=1)
            if not lengths.all():
                raise ValueError(
                    "`padding_mask` must leave a token in each row, to go on from. "
                    f"Received: none in row {int(np.argmin(lengths))}"
                )
        longest = max(lengths, default=0)
        if max_length is not None:
            check_count("max_length", max_length)
            if max_length <= longest:
                raise ValueError(
                    "`max_length` counts the prompt and must be larger than the longest. "
                    f"Received: max_length={max_length} for a prompt of {longest} tokens."
                )
        if self.reach is not None and max(longest + 1, max_length or 0) > self.reach:
            raise ValueError(
                f"The model's table has {self.reach} positions, for a prompt and what follows it. "
                f"Received: max_length={max_length}, and a prompt of {longest} tokens."
            )
        if padding_mask is not None and padding_mask.all():
            padding_mask = None
        return token_ids, padding_mask

    @property
    def reach(self):
        """How many positions there are, the rows of a table; None: any number."""
        return getattr(self.position_embedding, "sequence_length", None)

    def get_config(self):
        attention = self.attention
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "pad_token_id": self.pad_token_id,
            "start_token_id": self.start_token_id,
            "end_token_id": self.end_token_id,
            "attention_dropout": self.attention_dropout,
            "activation": keras.activations.serialize(self.activation),
            "normalize_first": self.normalize_first,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "embedding_scale": self.embedding_scale,
            "tie_word_embeddings": self.tie_word_embeddings,
            "position": shared_config(self.position),
            **{name: keras.saving.serialize_keras_object(getattr(self, name)) for name in PATTERNS},
            "attention": [keras.saving.serialize_keras_object(part) for part in attention]
            if isinstance(attention, list)
            else keras.saving.serialize_keras_object(attention),
        }


def _in_turn(attention):
    """The pattern of attention, or the list of patterns that layers take in turn, without weights."""
    if not isinstance(attention, (list, tuple)):
        part = as_part(attention, "attention", *PATTERNS["attention"])
        return None if part is None else clone(part)
    if not attention:
        raise ValueError(f"`attention` must be a part or a list of them. Received: attention={attention!r}")
    return [_in_turn(part) for part in attention]
