"""Scaled dot-product attention (Vaswani et al. 2017, equation 1) and multi-head attention (section 3.2.2).

Shapes: `B` batch, `T` query length, `S` source length, `H` heads, `D` model width, `K` width of a head.
The mathematics is in the free functions; the layer owns the parameters.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.initializers import clone_initializer
from keras_transformer.layers.masks import combine_masks


def masked_softmax(scores, mask=None):
    """Softmax over the last axis, over the places where `mask` is True; zero elsewhere.

    Computed in float32 or wider. A row with no place left is zero everywhere, and its gradient is finite.
    """
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    if mask is None:
        return _softmax(scores)
    # Far below any score and, unlike -inf, without NaN in a row that has nothing else.
    lowest = np.finfo(keras.backend.standardize_dtype(scores.dtype)).min / 2
    weights = _softmax(ops.where(mask, scores, ops.cast(lowest, scores.dtype)))
    return ops.where(mask, weights, ops.zeros((), weights.dtype))


def _softmax(scores):
    # Keras warns of a softmax over one element, which here is a sequence of one token and nothing to warn of.
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


def dot_product_attention(query, key, value, mask=None, dropout=None):
    """`softmax(Q K^T / sqrt(K)) V` (Vaswani et al. 2017, equation 1) for each head.

    Args:
        query: `(B, T, H, K)`.
        key: `(B, S, H, K)`.
        value: `(B, S, H, V)`.
        mask: bool, broadcastable to `(B, H, T, S)`; True = may attend.
        dropout: a function of the weights, applied before they weigh the values.

    Returns:
        `(B, T, H, V)` and the weights before dropout, `(B, H, T, S)`, both in the dtype of `query`. A query
        with nothing to attend to has weights of zero and a sum of exactly zero.
    """
    scale = 1.0 / math.sqrt(query.shape[-1])
    query = query * ops.cast(scale, query.dtype)
    # Both factors of the scores keep K last, so that each is copied row by row. Of the letters "bhtk,bhsk->bhts" Keras
    # makes, on TensorFlow, a product with keys that are transposed element by element; of dots it does not.
    query, key, value = (ops.swapaxes(x, 1, 2) for x in (query, key, value))  # (B, H, T, K)
    scores = ops.einsum("...tk,...sk->...ts", query, key)
    weights = ops.cast(masked_softmax(scores, mask), query.dtype)
    dropped = weights if dropout is None else dropout(weights)
    return ops.swapaxes(ops.einsum("...ts,...sk->...tk", dropped, value), 1, 2), weights


def project(dense, inputs, contracted):
    """What the `Dense` or `EinsumDense` `dense` makes of `inputs`, computed as the product of two matrices.

    Einsum with an axis of heads in the kernel is lowered to products with transposed copies around them; in a
    training step on a CPU that took longer than the products. Bias and activation come before the result takes its
    shape: TensorFlow joins the three into one operation, and the gradient of the bias is a sum over one axis.

    Args:
        contracted: how many last axes of `inputs`, and first axes of the kernel, are summed over.
    """
    if dense.quantization_mode is not None:
        return dense(inputs)
    kernel, x = (ops.cast(a, dense.compute_dtype) for a in (dense.kernel, inputs))
    width = math.prod(kernel.shape[:contracted])
    y = ops.matmul(ops.reshape(x, (-1, width)), _with_shape(kernel, (width, math.prod(kernel.shape[contracted:]))))
    if dense.bias is not None:
        y = y + _with_shape(ops.cast(dense.bias, y.dtype), (y.shape[-1],))
    # TensorFlow has an operation for asking for a shape; called eagerly, that is time for each.
    shape = inputs.shape if None not in inputs.shape else ops.shape(inputs)
    return ops.reshape(dense.activation(y), (*shape[:-contracted], *kernel.shape[contracted:]))


def _with_shape(x, shape):
    return x if tuple(x.shape) == shape else ops.reshape(x, shape)


@keras.saving.register_keras_serializable(package="keras_transformer")
class MultiHeadAttention(keras.layers.Layer):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), with a key/value cache as a value.

    `MultiHead(Q, K, V) = Concat(head_1, ..., head_H) W^O`, `head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V)`.

    Weights, names and attribute paths are those of `keras.layers.MultiHeadAttention`, so `set_weights` and a
    `.weights.h5` of that layer load. The results are the same, except that a query with nothing to attend to
    has scores and a weighted sum of exactly zero on every path, where Keras gives two different answers.

    Differs from the paper: the projections have biases (`use_bias=False` takes them away), and the attention
    weights may be dropped out.

    Args:
        num_heads: `H`.
        key_dim: `K`, width of a head's queries and keys.
        value_dim: width of a head's values; None means `key_dim`.
        dropout: rate on the attention weights while training.
        use_bias: whether the four projections have biases.
        output_shape: width of the result; None means the query's.

    Call arguments:
        query: `(B, T, D)`.
        value: `(B, S, D)`; None with a cache made by `project_memory`.
        key: `(B, S, D)`; None means `value`.
        query_mask, value_mask, key_mask: `(B, T)`, `(B, S)`, `(B, S)`; True = real. By default those that Keras
            carries along with the inputs.
        attention_mask: `(T, S)`, `(B, T, S)` or `(B, H, T, S)`; True (nonzero) = may attend.
        return_attention_scores: whether to return the weights `(B, H, T, S)` too.
        use_causal_mask: whether a query attends only to keys at its own position and before it.
        cache: None; or the value of `make_cache`: the keys and values of `value` are written at its
            `"position"`, and queries attend to all written so far (`S` is then the cache's length, and
            `use_causal_mask` is needed to leave the unwritten part out); or the value of `project_memory`:
            queries attend to that. In the latter case the batch of `query` may be `n` times that of the memory,
            `n` rows after each other sharing one row of it, as the beams of a sentence do.

    Returns:
        `output[, scores][, cache]`, as asked for: `(B, T, D)`, `(B, H, T, S)`, and the cache after this call.

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
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        seed=None,
        **kwargs,
    ):
        for name, value in {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim}.items():
            if not (value is None and name == "value_dim") and (not isinstance(value, int) or value <= 0):
                raise ValueError(
                    f"Received an invalid value for argument `{name}`, expected a positive integer. "
                    f"Received: {name}={value}"
                )
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim or key_dim
        self.dropout = dropout
        self.use_bias = use_bias
        self._output_shape = (output_shape,) if isinstance(output_shape, int) else output_shape
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.seed = seed
        self.supports_masking = True

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = value_shape if key_shape is None else key_shape
        for name, shape in {"query": query_shape, "value": value_shape, "key": key_shape}.items():
            if len(shape) != 3:
                raise ValueError(f"`{name}` must have the shape (batch, length, width). Received: shape={shape}")
        heads = (None, self.num_heads)
        output_dim = self._output_shape[0] if self._output_shape else query_shape[-1]
        self._query_dense = self._projection("abc,cde->abde", (*heads, self.key_dim), "de", "query")
        self._query_dense.build(query_shape)
        self._key_dense = self._projection("abc,cde->abde", (*heads, self.key_dim), "de", "key")
        self._key_dense.build(key_shape)
        self._value_dense = self._projection("abc,cde->abde", (*heads, self.value_dim), "de", "value")
        self._value_dense.build(value_shape)
        self._output_dense = self._projection("abcd,cde->abe", (None, output_dim), "e", "attention_output")
        self._output_dense.build((*query_shape[:2], self.num_heads, self.value_dim))
        self._dropout_layer = Dropout(self.dropout, seed=self.seed, dtype=self.dtype_policy)

    def _projection(self, equation, output_shape, bias_axes, name):
        projection = keras.layers.EinsumDense(
            equation,
            output_shape=output_shape,
            bias_axes=bias_axes if self.use_bias else None,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            bias_initializer=clone_initializer(self.bias_initializer),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
            name=name,
        )
        projection.supports_masking = True  # else Keras warns, where it is called, that a mask is lost: we use it
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

    def make_cache(self, batch_size, max_length):
        """An empty cache for self-attention over up to `max_length` positions."""
        shape = (batch_size, max_length, self.num_heads)
        return {
            "key": ops.zeros((*shape, self.key_dim), self.compute_dtype),
            "value": ops.zeros((*shape, self.value_dim), self.compute_dtype),
            "position": ops.zeros((), "int32"),
        }

    def project_memory(self, value, key=None):
        """Keys and values of `value` `(B, S, D)`, computed once, to be passed as the `cache` of cross-attention."""
        key = value if key is None else key
        return {"key": project(self._key_dense, key, 1), "value": project(self._value_dense, value, 1)}

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
    ):
        projected_query = project(self._query_dense, query, 1)  # (B, T, H, K)
        position = 0
        if cache is None:
            memory = self.project_memory(value, key)
        elif "position" in cache:
            position = cache["position"]
            memory = self._write(cache, self.project_memory(value, key))
            cache = memory
        else:
            memory = cache
            projected_query = ops.reshape(  # beams of one sentence side by side, as further queries of it
                projected_query, (ops.shape(memory["key"])[0], -1, self.num_heads, self.key_dim)
            )
        mask = combine_masks(
            attention_mask=attention_mask,
            query_mask=query_mask,
            key_mask=_both(value_mask, key_mask),
            query_positions=position + ops.arange(ops.shape(query)[1]) if use_causal_mask else None,
            key_positions=ops.arange(ops.shape(memory["key"])[1]) if use_causal_mask else None,
        )
        heads, scores = dot_product_attention(
            projected_query,
            memory["key"],
            memory["value"],
            mask,
            dropout=lambda weights: self._dropout_layer(weights, training=training),
        )
        if cache is not None and "position" not in cache:
            rows, length = ops.shape(query)[0], ops.shape(query)[1]
            heads = ops.reshape(heads, (rows, length, self.num_heads, self.value_dim))
            if return_attention_scores:  # (B, H, n T, S) -> (B n, H, T, S)
                source = ops.shape(scores)[-1]
                scores = ops.reshape(scores, (ops.shape(scores)[0], self.num_heads, -1, length, source))
                scores = ops.reshape(ops.swapaxes(scores, 1, 2), (rows, self.num_heads, length, source))
        output = project(self._output_dense, heads, 2)
        results = [output]
        if return_attention_scores:
            results.append(scores)
        if cache is not None:
            results.append(cache)
        return results[0] if len(results) == 1 else tuple(results)

    def _write(self, cache, new):
        """The cache with the keys and values of `new` at its position, and the position after them."""
        start = (0, cache["position"], 0, 0)
        return {
            "key": ops.slice_update(cache["key"], start, new["key"]),
            "value": ops.slice_update(cache["value"], start, new["value"]),
            "position": cache["position"] + ops.shape(new["key"])[1],
        }

    def compute_mask(self, inputs, previous_mask):
        return previous_mask

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "output_shape": self._output_shape,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "seed": self.seed,
        }


def _both(first, second):
    if first is None or second is None:
        return second if first is None else first
    return ops.logical_and(ops.cast(first, "bool"), ops.cast(second, "bool"))
