"""The vocabulary's end: projection, softmax and cross-entropy in one, a chunk of tokens at a time."""

import keras
from keras import ops

from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.token_mean import token_mean


def linear_cross_entropy(hidden, table, labels, weights, label_smoothing=0.1, chunk_size=1024, training=True):
    """Label-smoothed cross-entropy of the logits `hidden table^T`, which are never all there at once.

    The loss of each token is that of `smoothed_cross_entropy`. Of `chunk_size` tokens at a time the logits are made,
    summed up and, while training, turned into the gradients, which are `g = w (p - (1 - e) [v = y] - e/V)` for the
    logits, `g table` for `hidden` and `g^T hidden` for `table`. So the memory for `(N, V)` becomes that for
    `(chunk_size, V)`, no product is done twice, and what the metrics need comes from the same pass.

    Args:
        hidden: `(N, D)` of any float dtype, in which the products are computed.
        table: `(V, D)`.
        labels: integers `(N,)`.
        weights: `(N,)`; 0 leaves a token out.
        label_smoothing: `e`.
        chunk_size: tokens of a chunk, at most.
        training: whether the result is differentiable with respect to `hidden` and `table`.

    Returns:
        float32 `(3,)`: sums over the tokens, each times its weight, of the loss, of the cross-entropy without
        smoothing, and of whether the label's logit is greater than all others. Only the first has a gradient.
    """
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
    """The three sums, and with gradients also those of the first sum, float32 `(N, D)` and `(V, D)`."""
    tokens, dim = ops.shape(hidden)[0], hidden.shape[1]
    chunks = -(-tokens // chunk_size)
    size = -(-tokens // ops.maximum(chunks, 1)) if ops.is_tensor(tokens) else -(-tokens // max(chunks, 1))
    kernel = ops.cast(table, hidden.dtype)

    def unfinished(chunk, *_):
        return chunk < chunks

    def extend(chunk, sums, *gradients):
        # All chunks are of one size: the last starts early enough, and what the one before has counted weighs nothing.
        start = ops.minimum(chunk * size, tokens - size)
        x = ops.slice(hidden, (start, 0), (size, dim))
        y = ops.slice(labels, (start,), (size,))
        w = ops.where(ops.arange(size) + start >= chunk * size, ops.slice(weights, (start,), (size,)), 0.0)
        new_sums, of_logits = _chunk(ops.matmul(x, ops.transpose(kernel)), y, w, label_smoothing, with_gradients)
        if with_gradients:
            of_hidden, of_table = gradients
            of_logits = ops.cast(of_logits, x.dtype)
            of_x = ops.cast(ops.matmul(of_logits, kernel), "float32")
            of_x = of_x + ops.slice(of_hidden, (start, 0), (size, dim))
            of_kernel = ops.cast(ops.matmul(ops.transpose(of_logits), x), "float32")
            gradients = ops.slice_update(of_hidden, (start, 0), of_x), of_table + of_kernel
        return chunk + 1, sums + new_sums, *gradients

    zeros = (ops.zeros(ops.shape(hidden), "float32"), ops.zeros(table.shape, "float32")) if with_gradients else ()
    return ops.while_loop(unfinished, extend, (0, ops.zeros((3,), "float32"), *zeros))[1:]


def _chunk(logits, labels, weights, label_smoothing, with_gradient):
    """The three sums of `linear_cross_entropy` over a chunk `(C, V)`, and the gradient of the first or None."""
    z = ops.cast(logits, "float32")
    vocabulary_size = z.shape[-1]
    of_label = ops.take_along_axis(z, labels[:, None], axis=-1)
    highest = ops.max(z, axis=-1, keepdims=True)
    exponentials = ops.exp(z - highest)
    total = ops.sum(exponentials, axis=-1, keepdims=True)
    cross_entropy = (highest + ops.log(total) - of_label)[:, 0]
    loss = cross_entropy + label_smoothing * (of_label[:, 0] - ops.mean(z, axis=-1))
    # A tie is a miss: equal logits predict nothing.
    hit = ops.equal(ops.sum(ops.cast(z >= of_label, "int32"), axis=-1), 1)
    values = ops.stack([loss, cross_entropy, ops.cast(hit, "float32")])
    # Not a product: the loss of a token that does not count may be infinite.
    sums = ops.sum(ops.where(weights > 0, values * weights, 0.0), axis=-1)
    if not with_gradient:
        return sums, None
    spread = label_smoothing / vocabulary_size
    is_label = ops.equal(ops.arange(vocabulary_size, dtype="int32"), labels[:, None])
    target = ops.where(is_label, 1.0 - label_smoothing + spread, spread)
    w = weights[:, None]
    return sums, ops.where(w > 0, (exponentials / total - target) * w, 0.0)


@keras.saving.register_keras_serializable(package="keras_transformer")
class LinearCrossEntropy(SmoothedCrossEntropy):
    """`SmoothedCrossEntropy` that is fused with the projection to the vocabulary, in chunks of tokens.

    A model of this library that is compiled with it hands it the decoder's states and the table instead of logits,
    and reports the metrics `cross_entropy` and `accuracy` over real tokens from the same pass; other metrics, which
    would need the logits, are refused there. On logits, as in a model of your own, it is `SmoothedCrossEntropy`.

    Args:
        label_smoothing: `e`; the paper's is 0.1.
        chunk_size: how many tokens' logits live at a time.
        tokens_per_batch: as in `SmoothedCrossEntropy`.
    """

    def __init__(self, label_smoothing=0.1, chunk_size=1024, name="linear_cross_entropy", **kwargs):
        super().__init__(label_smoothing, name=name, **kwargs)
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise ValueError(f"`chunk_size` must be a positive integer. Received: chunk_size={chunk_size}")
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
