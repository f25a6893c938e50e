"""Multi-head attention (Vaswani et al. 2017, section 3.2.2): the layer, which owns the parameters.

The mathematics is in `dot_product`, masks are in `masks`, axes other than a sequence's in `attention_axes`.
Shapes: `B` batch, `T` query length, `S` source length, `H` heads, `G` heads of keys and values, `D` model width,
`K` width of a head.
"""

import functools
import math

import keras
from keras import ops

from keras_transformer.layers import patterns
from keras_transformer.layers.arguments import check_booleans, check_positive_integers, check_rates
from keras_transformer.layers.attention_axes import AttentionAxes
from keras_transformer.layers.attention_inputs import (
    check_cache,
    check_cache_sizes,
    check_inputs,
    check_is_cache,
    check_same_dims,
    integers_of_places,
    places_of,
)
from keras_transformer.layers.attention_places import Places, completed
from keras_transformer.layers.cached_attention import BLOCK, cached_attention
from keras_transformer.layers.dot_product import attend_by_heads, dot_product_attention, fused_attention
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.initializers import clone_initializer
from keras_transformer.layers.masks import Visibility, causal, keras_mask
from keras_transformer.layers.parts import as_position_part, shared_config
from keras_transformer.layers.projection import project
from keras_transformer.layers.quantized import QuantizableLayer
from keras_transformer.layers.rematerialization import Rematerialized, as_a_whole
from keras_transformer.layers.results import pack
from keras_transformer.layers.shared_memory import (
    is_one,
    scores_row_by_row,
    sharing,
    side_by_side,
    visibility_side_by_side,
)

LONG = 2048 * 2048
"""`T x S` from which attention on TensorFlow goes block by block; four times that if no pattern hides any of them."""


@keras.saving.register_keras_serializable(package="keras_transformer")
class MultiHeadAttention(Rematerialized, QuantizableLayer):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), with a key/value cache as a value.

    `MultiHead(Q, K, V) = Concat(head_1, ..., head_H) W^O`, `head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V)`.

    A drop-in for `keras.layers.MultiHeadAttention`: its arguments, its results, its weights in its order under its
    attribute paths (`set_weights` and a `.weights.h5` of that layer load). What differs is where Keras contradicts
    itself: a query with nothing to attend to has scores and a weighted sum of exactly zero on every path, an explicit
    `query_mask` counts, and `use_causal_mask` and `sliding_window` go by the order of the attended axes.

    Differs from the paper: the projections have biases (`use_bias=False` takes them away), and the attention
    weights may be dropped out.

    Args:
        num_heads: `H`.
        key_dim: `K`, width of a head's queries and keys.
        value_dim: width of a head's values; None means `key_dim`.
        dropout: rate on the attention weights while training.
        use_bias: whether the projections have biases.
        use_output_bias: whether the last of them has one; None means as `use_bias`. GPT-Neo has it there alone.
        output_shape: width of the result, or its last axes as a tuple; None means the query's width.
        attention_axes: axes attended over, of inputs of any rank; None means all but the batch and the width.
        sliding_window: None, or a query attends to keys less than this many positions away.
        flash_attention: True: always the path that never holds `T x S` numbers (no scores, and as in Keras no dropout
            with it); False: never; None: where it pays, dropout included.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer,
            kernel_constraint, bias_constraint: of each projection.
        use_gate: whether each head's sum is multiplied by `sigmoid(Q W^G)` (Qiu et al. 2025, arXiv:2505.06708).
        seed: of the dropout.
        num_key_value_heads: `G`, a divisor of `H`: `H / G` heads of queries share a head of keys and values (Ainslie
            et al. 2023, section 2.2); None means `H`.
        position: None, or a part that tells positions apart: `RotaryEmbedding`, `RelativePositionBias`, `AlibiBias`,
            `RelativePositionEmbedding`. Of a part that adds to its input, as `PositionalEncoding`, queries and keys
            are told, values are not (Press et al. 2021, "Shortformer", section 4). The part is used as handed: layers
            that are given the same one share its weights.
        pattern: None, or who may attend to whom as a function of positions, from `layers.patterns`.

    Call arguments:
        query: `(B, T, D)`; or `(B, *dims, D)`, of which `attention_axes` are attended over.
        value: `(B, S, D)`; None with a cache made by `project_memory`.
        key: `(B, S, D)`; None means `value`.
        query_mask, value_mask, key_mask: `(B, T)`, `(B, S)`, `(B, S)`; True = real. By default those that Keras
            carries along with the inputs. With a cache of `make_cache` the last two are of all its places, by default
            None: a mask that Keras carries along is of the new ones.
        attention_mask: `(T, S)`, `(B, T, S)` or `(B, H, T, S)`; True (nonzero) = may attend. With `attention_axes`,
            Keras's shape: `(*batch axes, H, *T, *S)`, in which axes before `*T` may be missing.
        return_attention_scores: whether to return the weights `(B, H, T, S)` too.
        use_causal_mask: whether a query attends only to keys at its own position and before it.
        cache: None; or the value of `make_cache`: the keys and values of `value` are written at its
            `"position"`, and queries attend to all written so far (`S` is then the cache's length); or the value of
            `project_memory`: queries attend to that. In the latter case the batch of `query` may be `n` times that of
            the memory, `n` rows after each other sharing one row of it, as the beams of a sentence do.
        segment_ids, key_segment_ids: `(B, T)`, `(B, S)` int32 of packed rows: a query attends to keys of its own
            segment, a run of equal ids, or with `key_segment_ids` to keys of its id, each in one piece. Of inputs with
            more axes `B` is the product of those that are not attended over.
        positions, key_positions: integers `(1, T)` or `(B, T)`, and of `S`. By default positions count from 0, within
            each segment if there are `segment_ids`, with a cache from its `"position"`. The second is by default the
            first where that is given. With a cache of `make_cache` it is those of all places of the cache, as where
            each row starts with a prompt of another length.

    Returns:
        `output[, scores][, cache]`, as asked for: `(B, T, D)`, `(B, H, T, S)`, and the cache after this call.

    Raises:
        ValueError: an argument, a shape, a dtype or a combination that has no meaning.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import MultiHeadAttention
    >>> attention = MultiHeadAttention(num_heads=2, key_dim=4)
    >>> output, scores = attention(
    ...     np.ones((1, 3, 8)), np.ones((1, 5, 8)), return_attention_scores=True
    ... )
    >>> tuple(output.shape), tuple(scores.shape)
    ((1, 3, 8), (1, 2, 3, 5))
    """

    def __init__(
        self,
        num_heads,
        key_dim,
        value_dim=None,
        dropout=0.0,
        use_bias=True,
        output_shape=None,
        attention_axes=None,
        sliding_window=None,
        flash_attention=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        use_gate=False,
        seed=None,
        num_key_value_heads=None,
        position=None,
        pattern=None,
        use_output_bias=None,
        **kwargs,
    ):
        check_positive_integers(num_heads=num_heads, key_dim=key_dim)
        optional = {
            "value_dim": value_dim,
            "sliding_window": sliding_window,
            "num_key_value_heads": num_key_value_heads,
        }
        check_positive_integers(**{name: value for name, value in optional.items() if value is not None})
        if num_key_value_heads is not None and num_heads % num_key_value_heads:
            raise ValueError(
                "`num_heads` must be a multiple of `num_key_value_heads`. "
                f"Received: num_heads={num_heads}, num_key_value_heads={num_key_value_heads}"
            )
        check_rates(dropout=dropout)
        check_booleans(use_bias=use_bias, use_gate=use_gate)
        if use_output_bias is not None:
            check_booleans(use_output_bias=use_output_bias)
        if flash_attention not in (None, True, False):
            raise ValueError(
                f"`flash_attention` must be True, False or None. Received: flash_attention={flash_attention!r}"
            )
        if flash_attention is None and keras.config.is_flash_attention_enabled():
            flash_attention = True
        if flash_attention and dropout > 0:
            raise ValueError(
                "Dropout is not supported when flash attention is enabled. "
                f"Set dropout to 0, or leave `flash_attention` None. Received: dropout={dropout}"
            )
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim or key_dim
        self.dropout = dropout
        self.use_bias = use_bias
        self.use_output_bias = use_output_bias
        self._output_shape = _as_tuple(output_shape, "output_shape")
        for width in self._output_shape or ():
            check_positive_integers(output_shape=width)
        self.attention_axes = _as_tuple(attention_axes, "attention_axes")
        self.sliding_window = sliding_window
        self.flash_attention = flash_attention
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        # Of the projections, as in Keras: as this layer's own it would be counted once more for the output.
        self._projection_activity_regularizer = keras.regularizers.get(activity_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.use_gate = use_gate
        self.seed = seed
        self.num_key_value_heads = num_key_value_heads
        self.position = as_position_part(position)
        self.pattern = patterns.get(pattern)
        self.supports_masking = True

    @as_a_whole
    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = value_shape if key_shape is None else key_shape
        for name, shape in {"query": query_shape, "value": value_shape, "key": key_shape}.items():
            if len(shape) < 3 or len(shape) != len(query_shape):
                raise ValueError(
                    f"`{name}` must have the shape (batch, length, width), or more axes, as many as `query`. "
                    f"Received: shape={tuple(shape)}, with a query of shape {tuple(query_shape)}"
                )
            if shape[-1] is None:
                raise ValueError(f"The last axis of `{name}` must be known. Received: shape={tuple(shape)}")
        check_same_dims(value_shape[:-1], key_shape[:-1])
        self._widths = {"query": query_shape[-1], "value": value_shape[-1], "key": key_shape[-1]}
        self._axes = AttentionAxes(len(query_shape), self.attention_axes)
        groups = self.num_key_value_heads or self.num_heads
        self._query_dense = self._to_heads("query", query_shape, self.num_heads, self.key_dim)
        self._key_dense = self._to_heads("key", key_shape, groups, self.key_dim)
        if self.use_gate:
            self._gate_dense = self._to_heads("gate", query_shape, self.num_heads, self.value_dim, activation="sigmoid")
        self._value_dense = self._to_heads("value", value_shape, groups, self.value_dim)
        self._output_dense = self._from_heads("attention_output", query_shape)
        self._dropout_layer = Dropout(self.dropout, seed=self.seed, dtype=self.dtype_policy)
        if isinstance(self.position, keras.layers.Layer) and not self.position.built:
            if hasattr(self.position, "build_for_attention"):
                self.position.build_for_attention(self.num_heads, self.key_dim)
            else:
                self.position.build(query_shape)

    def _to_heads(self, name, input_shape, heads, width, activation=None):
        dims = "abcdefgh"[: len(input_shape) - 1]
        output_shape = (*[None] * (len(dims) - 1), heads, width)
        bias_axes = "yz" if self.use_bias else None
        return self._projection(name, f"{dims}x,xyz->{dims}yz", bias_axes, input_shape, output_shape, activation)

    def _from_heads(self, name, query_shape):
        dims = "abcdefgh"[: len(query_shape) - 1]
        widths = self._output_shape or query_shape[-1:]
        out = "stuvwx"[: len(widths)]
        input_shape = (*query_shape[:-1], self.num_heads, self.value_dim)
        output_shape = (*[None] * (len(dims) - 1), *widths)
        has_bias = self.use_bias if self.use_output_bias is None else self.use_output_bias
        bias_axes = out if has_bias else None
        return self._projection(name, f"{dims}yz,yz{out}->{dims}{out}", bias_axes, input_shape, output_shape)

    def _projection(self, name, equation, bias_axes, input_shape, output_shape, activation=None):
        projection = keras.layers.EinsumDense(
            equation,
            output_shape=output_shape,
            activation=activation,
            bias_axes=bias_axes,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            bias_initializer=clone_initializer(self.bias_initializer),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            activity_regularizer=self._projection_activity_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
            name=name,
        )
        projection.supports_masking = True  # else Keras warns, where it is called, that a mask is lost: we use it
        projection.build(input_shape)
        return projection

    # Keras's public names for the projections; the underscored attributes are the paths in its weight files.
    @property
    def query_dense(self):
        return self._query_dense

    @property
    def key_dense(self):
        return self._key_dense

    @property
    def value_dense(self):
        return self._value_dense

    @property
    def output_dense(self):
        return self._output_dense

    def make_cache(self, batch_size, max_length, num_beams=1):
        """An empty cache for self-attention over up to `max_length` positions.

        With `num_beams` the rows of `query` are `batch_size * num_beams`, the beams of a sentence after each other.
        What they write at a position lies side by side, as `num_beams` keys: it stays there when beams change places,
        and `attention_mask` `(batch_size * num_beams, T, max_length * num_beams)` says which of it a beam sees.
        """
        check_cache_sizes(batch_size, max_length, num_beams)
        shape = (batch_size, self.num_key_value_heads or self.num_heads, max_length * num_beams)
        return {
            "key": ops.zeros((*shape, self.key_dim), self.compute_dtype),
            "value": ops.zeros((*shape, self.value_dim), self.compute_dtype),
            "position": ops.zeros((), "int32"),
        }

    def project_memory(self, value, key=None, positions=None):
        """Keys and values of `value` `(B, S, D)`, computed once, to be passed as the `cache` of cross-attention.

        `positions` `(S,)`, consecutive, `(1, S)` or `(B, S)`, are the keys'; None means 0 to S - 1.
        """
        if not self.built:
            raise ValueError("The layer must be built before it can project: call it first. Received: built=False")
        key = value if key is None else key
        check_inputs(self._axes, self._widths, value=value, key=key)
        keys, values = self._project_source(value, key, positions)
        return {"key": ops.swapaxes(keys, 1, 2), "value": ops.swapaxes(values, 1, 2)}

    def _project_source(self, value, key, positions):
        """Keys `(B, S, G, K)` and values `(B, S, G, V)`."""
        if positions is None and self.position is not None:
            positions = ops.arange(self._axes.length(ops.shape(key)))
        values = project(self._value_dense, value)
        return self._placed(self._key_dense, key, positions), self._axes.flatten(values)

    def _placed(self, dense, inputs, positions):
        """Queries or keys `(B, T, H, K)` of `inputs` that know their place, if it is for the position part to say."""
        if hasattr(self.position, "add"):
            told = self.position.add(self._axes.flatten(inputs), positions)
            inputs = self._axes.unflatten(told, ops.shape(inputs)[:-1])
        projected = self._axes.flatten(project(dense, inputs))
        return self.position.rotate(projected, positions) if hasattr(self.position, "rotate") else projected

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        cache=None,
        segment_ids=None,
        key_segment_ids=None,
        positions=None,
        key_positions=None,
    ):
        check_is_cache(cache)
        check_booleans(return_attention_scores=return_attention_scores, use_causal_mask=use_causal_mask)
        self._check_call(query, value, key, cache, attention_mask, return_attention_scores, segment_ids)
        given = integers_of_places(
            places_of(self._axes, query),
            places_of(self._axes, value) if cache is None else (cache["key"].shape[0], cache["key"].shape[2]),
            Places(positions, key_positions, segment_ids, key_segment_ids),
        )
        is_written = cache is not None and "position" in cache
        if is_written:  # a mask that Keras carries along is one of what is new: those of a cache are of all its places
            value_mask = None if value_mask is keras_mask(value) else value_mask
            key_mask = None if key_mask is keras_mask(key) else key_mask
        query_dims = ops.shape(query)[:-1]
        source_dims = ops.shape(value)[:-1] if cache is None else ops.shape(cache["key"])[:3:2]
        rows, batch = query_dims[0], source_dims[0]
        # Rows that share a row of the cache attend to it side by side.
        num_beams = sharing(rows, batch) if is_written else 1
        parts = (self.position, self.pattern, self.sliding_window)
        places = completed(
            given,
            self._axes.length(query_dims),
            self._axes.length(source_dims),
            first=cache["position"] if is_written else None,
            num_beams=num_beams,
            are_needed=use_causal_mask or is_written or any(part is not None for part in parts),
        )

        # What there is to attend to.
        if cache is None or is_written:
            keys, values = self._project_source(
                value, value if key is None else key, places.query if is_written else places.key
            )
        if is_written:
            cache = _write(cache, keys, values, num_beams)
        if cache is not None:
            keys, values = cache["key"], cache["value"]
        written, is_written_key = cache["position"] * num_beams if is_written else None, None
        if is_written and (given.query is not None or not use_causal_mask):  # causality else hides what comes later
            is_written_key = ops.expand_dims(ops.arange(source_dims[1]) < written, 0)

        # Who attends to whom.
        visibility = Visibility(
            attention_mask=self._axes.flatten_attention_mask(attention_mask, self.num_heads, query_dims, source_dims),
            query_mask=self._axes.flatten_padding_mask(query_mask, query_dims, "query_mask"),
            key_mask=_all(
                self._axes.flatten_padding_mask(value_mask, source_dims, "value_mask"),
                self._axes.flatten_padding_mask(key_mask, source_dims, "key_mask"),
                is_written_key,
            ),
            query_positions=places.query,
            key_positions=places.key,
            query_segments=places.query_segments,
            key_segments=places.key_segments,
            patterns=self._patterns(use_causal_mask),
        )

        queries = self._placed(self._query_dense, query, places.query)
        queries = queries * ops.cast(1.0 / math.sqrt(self.key_dim), queries.dtype)
        if cache is None:
            from_zero = given.query is given.key is given.query_segments is None
            heads, scores = self._attend(
                queries, keys, values, visibility, training, return_attention_scores, from_zero
            )
        else:
            queries, visibility = side_by_side(queries, batch), visibility_side_by_side(visibility, batch, rows)
            heads, scores = self._attend_to_cache(
                queries, keys, values, visibility, training, return_attention_scores, written
            )
            heads = ops.reshape(heads, (*query_dims, self.num_heads, self.value_dim))
            scores = None if scores is None else scores_row_by_row(scores, rows, query_dims[1])

        heads = self._axes.unflatten(heads, query_dims)
        if self.use_gate:
            heads = heads * project(self._gate_dense, query)
        if return_attention_scores:
            scores = self._axes.unflatten_scores(scores, query_dims, source_dims)
        return pack(project(self._output_dense, heads), scores, cache)

    def _patterns(self, use_causal_mask):
        """The functions of positions that say who attends to whom."""
        found = [] if self.pattern is None else [self.pattern]
        if self.sliding_window is not None:
            found.append(patterns.SlidingWindow(self.sliding_window))
        if use_causal_mask:
            found.append(causal)
        return tuple(found)

    def _attend(self, query, key, value, visibility, training, return_scores, from_zero):
        """The heads' sums `(B, T, H, V)` and their weights, or None; by the path that suits the call."""
        drops = bool(training) and self.dropout > 0
        biased = hasattr(self.position, "scores")
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if on_tensorflow and not return_scores and self._goes_by_blocks(query, key, visibility):
            from keras_transformer.layers.linear_memory import linear_memory_attention

            dropout = (self.dropout, self._dropout_layer.seed_generator.next()) if drops else None
            position = self.position if biased else None
            return linear_memory_attention(query, key, value, visibility, position, dropout), None
        if not (on_tensorflow or return_scores or drops or biased):
            is_causal = from_zero and visibility.is_just(causal)
            mask = None if is_causal else visibility.mask()
            return fused_attention(query, key, value, mask, is_causal, self.flash_attention), None
        bias = None
        if biased:
            bias = self.position.scores(query, visibility.query_positions, visibility.key_positions)
        heads, scores = dot_product_attention(
            query,
            key,
            value,
            visibility.mask(),
            bias,
            dropout=(lambda weights: self._dropout_layer(weights, training=True)) if drops else None,
        )
        return heads, scores if return_scores else None

    def _attend_to_cache(self, query, key, value, visibility, training, return_scores, written):
        """`_attend` to keys and values that lie head by head, `written` of which are there (None: all)."""
        drops = bool(training) and self.dropout > 0
        position = self.position if hasattr(self.position, "scores") else None
        is_long = (key.shape[2] is None or key.shape[2] > BLOCK) and key.shape[0] != 0
        if written is not None and is_long and not (drops or return_scores):
            return cached_attention(query, key, value, visibility, position, written), None
        bias = None
        if position is not None:
            bias = position.scores(query, visibility.query_positions, visibility.key_positions)
        heads, scores = attend_by_heads(
            ops.swapaxes(query, 1, 2),
            key,
            value,
            visibility.mask(),
            bias,
            dropout=(lambda weights: self._dropout_layer(weights, training=True)) if drops else None,
        )
        return ops.swapaxes(heads, 1, 2), scores if return_scores else None

    def _goes_by_blocks(self, query, key, visibility):
        """Whether to take the path without `T x S` numbers: where asked for, and where it is faster or saves much."""
        if 0 in (*query.shape[:2], key.shape[1]):  # there is nothing to go through
            return False
        if self.flash_attention is not None or None in (query.shape[1], key.shape[1]):
            return self.flash_attention
        return query.shape[1] * key.shape[1] >= (LONG if visibility.patterns else 4 * LONG)

    def _check_call(self, query, value, key, cache, attention_mask, return_scores, segment_ids):
        if self.flash_attention and return_scores:
            raise ValueError(
                "Returning attention scores is not supported when flash attention is enabled. "
                "Leave `flash_attention` None to get them. Received: return_attention_scores=True"
            )
        if cache is None or "position" in cache:
            if value is None:
                raise ValueError("`value` may be None only with a `cache` of `project_memory`. Received: value=None")
            check_inputs(self._axes, self._widths, query=query, value=value, key=value if key is None else key)
        else:
            check_inputs(self._axes, self._widths, query=query)
        if cache is None:
            return
        heads = self.num_key_value_heads or self.num_heads
        check_cache(cache, query, heads, self.key_dim, self.value_dim, attention_mask)
        if not self._axes.is_sequence:
            raise ValueError(
                f"A `cache` is for sequences (batch, length, width). Received: a query of shape {tuple(query.shape)}"
            )
        if "position" in cache and segment_ids is not None:
            raise ValueError(
                "A `cache` of `make_cache` holds one segment a row: `segment_ids` must be None. "
                f"Received: segment_ids={segment_ids}"
            )

    def compute_mask(self, inputs, previous_mask):
        return previous_mask

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        check_same_dims(value_shape[:-1], (key_shape or value_shape)[:-1])
        return (*query_shape[:-1], *(self._output_shape or query_shape[-1:]))

    def compute_output_spec(self, *args, **kwargs):
        return keras.Operation.compute_output_spec(self, *args, **kwargs)  # from `call`: scores and cache too

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "use_output_bias": self.use_output_bias,
            "output_shape": self._output_shape,
            "attention_axes": self.attention_axes,
            "sliding_window": self.sliding_window,
            "flash_attention": self.flash_attention,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self._projection_activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "use_gate": self.use_gate,
            "seed": self.seed,
            "num_key_value_heads": self.num_key_value_heads,
            "position": shared_config(self.position),
            "pattern": keras.saving.serialize_keras_object(self.pattern),
        }


def _write(cache, keys, values, num_beams):
    """The cache with `keys` and `values` `(B num_beams, T, G, K)` at its position, and the position after them."""
    start = (0, 0, cache["position"] * num_beams, 0)

    def written(array, new):
        batch = ops.shape(array)[0]
        if not is_one(num_beams):  # the beams of a sentence at each position, side by side
            _, length, *rest = ops.shape(new)
            new = ops.swapaxes(ops.reshape(new, (batch, num_beams, length, *rest)), 1, 2)
            new = ops.reshape(new, (batch, length * num_beams, *rest))
        return _slice_update(array, start, ops.cast(ops.swapaxes(new, 1, 2), array.dtype))

    return {
        **cache,
        "key": written(cache["key"], keys),
        "value": written(cache["value"], values),
        "position": cache["position"] + ops.shape(keys)[1],
    }


def _slice_update(array, start, new):
    """`ops.slice_update`, with the gradient that TensorFlow's lacks."""
    if keras.backend.backend() != "tensorflow":
        return ops.slice_update(array, start, new)

    @ops.custom_gradient
    def update(array, new):
        def gradient(upstream):
            overwritten = _slice_update(upstream, start, ops.zeros_like(new))
            return overwritten, ops.slice(upstream, start, ops.shape(new))

        return ops.slice_update(array, start, new), gradient

    return update(array, new)


def _all(*masks):
    given = [mask for mask in masks if mask is not None]
    return functools.reduce(ops.logical_and, given) if given else None


def _as_tuple(value, argument):
    if value is None:
        return None
    value = (value,) if isinstance(value, int) else value
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(v, int) for v in value):
        raise ValueError(
            f"`{argument}` must be an int, a list or a tuple of them, or None. Received: {argument}={value}"
        )
    return tuple(value)
