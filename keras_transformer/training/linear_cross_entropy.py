"""The vocabulary's end: projection, softmax and cross-entropy in one, a chunk of tokens at a time."""

import keras
from keras import ops

from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.token_mean import token_mean


def linear_cross_entropy(hidden, table, labels, weights, label_smoothing=0.1, chunk_size=None, training=True):
    """Label-smoothed cross-entropy of the logits `hidden table^T`, which are never all there at once.

    The loss of each token is that of `smoothed_cross_entropy`. Of `chunk_size` tokens at a time the logits are made,
    summed up and, while training, turned into the gradients, which are `g = w (p - (1 - e) [v = y] - e/V)` for the
    logits, `g table` for `hidden` and `g^T hidden` for `table`. So the memory for `(N, V)` becomes that for
    `(chunk_size, V)`, no product is done twice, and what the metrics need comes from the same pass.

    Args:
        hidden: `(N, D)` of any float dtype, in which the products are computed.
        table: `(V, D)`.
        labels: integers `(N,)`.
        weights: `(N,)`; 0 leaves a token out, whatever its states and its label are.
        label_smoothing: `e`.
        chunk_size: tokens of a chunk, at most; None: 512, and 1,024 with a vocabulary of more than 16,384.
        training: whether the result is differentiable with respect to `hidden` and `table`.

    Returns:
        float32 `(3,)`: sums over the tokens, each times its weight, of the loss, of the cross-entropy without
        smoothing, and of whether the label's probability is greater than all others. Only the first has a gradient.
    """
    # Logits of less than 32 MB lie in memory that glibc keeps. With more, what each chunk costs by itself counts.
    chunk_size = chunk_size or (512 if table.shape[0] <= 2**14 else 1024)
    labels, weights = ops.cast(labels, "int32"), ops.cast(weights, "float32")
    # PyTorch saves no Keras variable; TensorFlow's gradient by hand, called eagerly, takes no variable of its own.
    hidden, table = ops.convert_to_tensor(hidden), ops.copy(table)

    def sweep(hidden, table):
        return _sweep(hidden, table, labels, weights, label_smoothing, chunk_size, with_gradients=training)

    if not training:
        return sweep(hidden, table)[0]

    @ops.custom_gradient
    def sums_of(hidden, table):
        sums, of_hidden, of_table = sweep(hidden, table)

        def gradient(*args, upstream=None):  # Keras hands it over by name on PyTorch, by place elsewhere
            upstream = (args[0] if upstream is None else upstream)[0]
            return ops.cast(upstream * of_hidden, hidden.dtype), ops.cast(upstream * of_table, table.dtype)

        return sums, gradient

    return sums_of(hidden, table)


def _sweep(hidden, table, labels, weights, label_smoothing, chunk_size, with_gradients):
    """The three sums, and with gradients also those of the first sum, float32 `(N, D)` and `(V, D)`.

    A chunk costs three products, the softmax, and a pass for the largest probability; smoothing is added before.
    """
    tokens, dim = ops.shape(hidden)[0], hidden.shape[1]
    chunks = -(-tokens // chunk_size)
    size = -(-tokens // ops.maximum(chunks, 1)) if ops.is_tensor(tokens) else -(-tokens // max(chunks, 1))
    # What does not count may be anything, NaN too.
    counts = ops.not_equal(weights, 0)
    hidden = ops.where(counts[:, None], hidden, ops.zeros((), hidden.dtype))
    labels = ops.where(counts, labels, 0)
    weights = weights[:, None]
    weighted = weights * ops.cast(hidden, "float32")
    kernel = ops.cast(table, hidden.dtype)
    before = _of_smoothing(weights, weighted, table, labels, label_smoothing, with_gradients)

    def unfinished(chunk, *_):
        return chunk < chunks

    def extend(chunk, sums, *gradients):
        # All chunks are of one size: the last starts early enough, and what the one before has counted weighs nothing.
        start = ops.minimum(chunk * size, tokens - size)
        new = ops.cast(ops.arange(size) + start >= chunk * size, "float32")[:, None]
        x = ops.slice(hidden, (start, 0), (size, dim))
        y = ops.slice(labels, (start,), (size,))
        w = new * ops.slice(weights, (start, 0), (size, 1))
        logits = ops.cast(ops.matmul(x, ops.transpose(kernel)), "float32")
        cross_entropy, of_logits = _softmax_cross_entropy(logits, y)
        sums = sums + _sums(cross_entropy, of_logits, w)
        if with_gradients:
            of_hidden, of_table = gradients
            of_logits = ops.cast(of_logits, x.dtype)
            of_x = w * ops.cast(ops.matmul(of_logits, kernel), "float32")
            of_x = of_x + ops.slice(of_hidden, (start, 0), (size, dim))
            x = ops.cast(new * ops.slice(weighted, (start, 0), (size, dim)), x.dtype)
            of_kernel = ops.matmul(ops.transpose(of_logits), x)
            gradients = ops.slice_update(of_hidden, (start, 0), of_x), of_table + ops.cast(of_kernel, "float32")
        return chunk + 1, sums, *gradients

    return _loop(unfinished, extend, (0, *before))[1:]


def _of_smoothing(weights, weighted, table, labels, label_smoothing, with_gradients):
    """What smoothing adds to the results of `_sweep`, for all tokens at once and in float32: zero without.

    It is `e (z_y - mean z)` for a token's loss, and `e [v = y] - e/V` for the gradient of its logits, which is nothing
    in half precision for a large `V`.

    Args:
        weights: `(N, 1)`. weighted: they times the hidden states, `(N, D)`.
    """
    if not label_smoothing:
        shapes = [(3,), ops.shape(weighted), table.shape] if with_gradients else [(3,)]
        return [ops.zeros(shape, "float32") for shape in shapes]
    table = ops.cast(table, "float32")
    of_label, of_mean = ops.take(table, labels, axis=0), ops.mean(table, axis=0)
    sums = ops.stack([ops.sum(weighted * (of_label - of_mean)), 0.0, 0.0]) * label_smoothing
    if not with_gradients:
        return [sums]
    of_hidden = (label_smoothing * weights) * (of_label - of_mean)
    of_table = ops.segment_sum(label_smoothing * weighted, labels, num_segments=table.shape[0])
    return [sums, of_hidden, of_table - label_smoothing / table.shape[0] * ops.sum(weighted, axis=0)]


def _loop(condition, body, state):
    """`ops.while_loop`, of whose rounds one is in memory at a time: TensorFlow's own starts ten."""
    if keras.backend.backend() != "tensorflow":
        return ops.while_loop(condition, body, state)
    from keras_transformer.training.tensorflow import one_by_one

    return one_by_one(condition, body, state)


def _softmax_cross_entropy(logits, labels):
    """Of float32 logits `(C, V)`: the cross-entropies `(C,)` and their gradients `p - [v = y]`, `(C, V)`."""
    if keras.backend.backend() == "tensorflow":
        from keras_transformer.training.tensorflow import softmax_cross_entropy

        return softmax_cross_entropy(logits, labels)
    log_p = ops.log_softmax(logits, axis=-1)
    of_label = ops.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    places = ops.stack([ops.arange(ops.shape(log_p)[0], dtype="int32"), labels], axis=-1)
    return -of_label, ops.scatter_update(ops.exp(log_p), places, ops.exp(of_label) - 1.0)


def _sums(cross_entropy, of_logits, weights):
    """The three sums of `linear_cross_entropy` over a chunk, without what smoothing adds, for weights `(C, 1)`."""
    # The label's own entry is not above 0. A tie is a miss, since equal logits predict nothing; what differs by no more
    # than rounding is a tie.
    of_others = ops.max(of_logits, axis=-1)
    hit = ops.cast(ops.exp(-cross_entropy) > of_others * (1.0 + 1e-5), "float32")
    return ops.sum(ops.stack([cross_entropy, cross_entropy, hit], axis=-1) * weights, axis=0)


@keras.saving.register_keras_serializable(package="keras_transformer")
class LinearCrossEntropy(SmoothedCrossEntropy):
    """`SmoothedCrossEntropy` that is fused with the projection to the vocabulary, in chunks of tokens.

    A model of this library that is compiled with it hands it the decoder's states and the table instead of logits,
    and reports the metrics `cross_entropy` and `accuracy` over real tokens from the same pass; other metrics, which
    would need the logits, are refused there. On logits, as in a model of your own, it is `SmoothedCrossEntropy`.

    Args:
        label_smoothing: `e`; the paper's is 0.1.
        chunk_size: how many tokens' logits live at a time, or None for the choice of `linear_cross_entropy`.
        tokens_per_batch: as in `SmoothedCrossEntropy`.
    """

    def __init__(self, label_smoothing=0.1, chunk_size=None, name="linear_cross_entropy", **kwargs):
        super().__init__(label_smoothing, name=name, **kwargs)
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise ValueError(f"`chunk_size` must be a positive integer or None. Received: chunk_size={chunk_size}")
        self.chunk_size = chunk_size

    def of_states(self, hidden, table, labels, sample_weight=None, training=True):
        """The loss, as `SmoothedCrossEntropy` is one; and means over this replica's tokens and what they are of.

        The means are of cross-entropy and accuracy, by weight, and what follows them is the sum of the weights.

        Args:
            hidden: `(..., D)`. table: `(V, D)`. labels, sample_weight: `(...)`.
        """
        labels = ops.reshape(labels, (-1,))
        weights = ops.ones_like(labels, "float32") if sample_weight is None else ops.reshape(sample_weight, (-1,))
        weights = ops.cast(weights, "float32")
        hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
        sums = linear_cross_entropy(
            hidden, table, labels, weights, self.label_smoothing, self.chunk_size, training=training
        )
        count = ops.sum(weights)
        means = sums / ops.where(count > 0, count, 1.0)
        return token_mean(sums[0], count, self.tokens_per_batch), means[1], means[2], count

    def get_config(self):
        return {**super().get_config(), "chunk_size": self.chunk_size}
