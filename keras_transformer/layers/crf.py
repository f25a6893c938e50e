"""A linear-chain conditional random field: scores of labels in sequence, and the best sequence of all."""

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.arguments import check_positive_integers

FORBIDDEN = -1e4  # added to the score of what is not allowed: exp of it is 0, and sums of it stay finite


@keras.saving.register_keras_serializable(package="keras_transformer")
class CRF(keras.layers.Layer):
    """Linear-chain conditional random field over emissions (Lafferty et al. 2001; Lample et al. 2016, section 2.2).

    A sequence of labels `y_1 ... y_n` has the score `start[y_1] + sum_t x_t[y_t] + sum_t transitions[y_(t-1), y_t] +
    end[y_n]` and a probability in proportion to `exp` of it. The sum over all sequences is made by the forward
    algorithm in log space, in float32 or wider under any policy.

    Positions that the mask leaves out, at the end or between others, are passed over: the sequence is that of the real
    ones. A sequence without any has the log-likelihood 0.

    Args:
        num_labels: `L`.
        allowed: bools `(L + 1, L + 1)`, whether label `j` may follow label `i`; the last row is for the begin, the last
            column for the end of a sequence. None: all may. See `allowed_transitions`. What is not allowed has no
            probability; the loss of labels that break the rule is in the ten thousands.

    Call arguments:
        inputs: emissions `(B, T, L)`: logits.
        padding_mask: `(B, T)`, True = real. By default the mask that Keras carries along with `inputs`.

    Returns:
        `log p(y_t = l)` over all sequences, `(B, T, L)`; 0 where there is padding. The other methods are for training
        and decoding: `log_likelihood` and `decode`.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import CRF, allowed_transitions
    >>> crf = CRF(3, allowed_transitions(["O", "B-PER", "I-PER"]))
    >>> emissions = np.array([[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]])
    >>> tuple(crf(emissions).shape)
    (1, 2, 3)
    >>> np.array(crf.decode(emissions)).tolist()  # and not [2, 2]: no span begins with I
    [[1, 2]]
    """

    def __init__(self, num_labels, allowed=None, **kwargs):
        super().__init__(**kwargs)
        check_positive_integers(num_labels=num_labels)
        self.num_labels = num_labels
        if allowed is not None:
            allowed = np.asarray(allowed)
            if allowed.shape != (num_labels + 1, num_labels + 1):
                raise ValueError(
                    "`allowed` must have the shape (num_labels + 1, num_labels + 1). "
                    f"Received: shape={allowed.shape}, num_labels={num_labels}"
                )
            allowed = allowed.astype(bool).tolist()
        self.allowed = allowed
        self.supports_masking = True

    def build(self, inputs_shape):
        if inputs_shape[-1] != self.num_labels:
            raise ValueError(
                "`inputs` must be emissions with a score for each label. "
                f"Received: shape={tuple(inputs_shape)}, num_labels={self.num_labels}"
            )

        def weight(name, *shape):
            return self.add_weight(name=name, shape=shape, initializer="zeros", autocast=False)

        self.transitions = weight("transitions", self.num_labels, self.num_labels)
        self.start = weight("start", self.num_labels)
        self.end = weight("end", self.num_labels)

    def call(self, inputs, padding_mask=None, mask=None):
        return ops.cast(self.log_marginals(inputs, mask if padding_mask is None else padding_mask), self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return previous_mask

    def log_likelihood(self, emissions, labels, padding_mask=None):
        """`log p(labels)` of each sequence, `(B,)`.

        Args:
            emissions: `(B, T, L)`.
            labels: integers `(B, T)`; what they are at padding does not count.
            padding_mask: `(B, T)`, True = real; None: all are.
        """
        x, real, first = _time_major(emissions, padding_mask)
        transitions, start, end = self._scores(x.dtype)
        flat = ops.reshape(transitions, (-1,))
        labels = ops.transpose(ops.clip(ops.cast(labels, "int32"), 0, self.num_labels - 1))
        emitted = ops.squeeze(ops.take_along_axis(x, labels[..., None], axis=-1), -1)
        entered = ops.take(start, labels)

        def step(carry, at):
            alpha, score, previous = carry
            x, real, first, label, emitted, entered = _columns(at, 5)
            label = ops.cast(label, "int32")
            followed = ops.where(first > 0, entered, ops.take(flat, previous * self.num_labels + label))
            score = ops.where(real > 0, score + emitted + followed, score)
            carry = _forward(alpha, x, real, first, transitions, start), score, ops.where(real > 0, label, previous)
            return carry, carry

        zero = x[0, :, 0] * 0
        initial = (ops.zeros_like(x[0]), zero, ops.zeros_like(labels[0]))
        (alpha, score, last), _ = ops.scan(step, initial, _joined(x, real, first, labels, emitted, entered))
        total = score + ops.take(end, last) - ops.logsumexp(alpha + end, axis=-1)
        return ops.where(ops.any(real, axis=0), total, 0.0)

    def decode(self, emissions, padding_mask=None):
        """The most probable sequence of labels (Viterbi 1967), int32 `(B, T)`, 0 where there is padding."""
        x, real, first = _time_major(emissions, padding_mask)
        transitions, start, end = self._scores(x.dtype)
        same = ops.broadcast_to(ops.arange(self.num_labels, dtype="int32"), ops.shape(x[0]))

        def forward(carry, at):
            best, _ = carry
            x, real, first = _columns(at, 2)
            real, first = (flag[:, None] > 0 for flag in (real, first))
            through = best[:, :, None] + transitions
            score = ops.where(first, start, ops.max(through, axis=1)) + x
            back = ops.where(first, same, ops.cast(ops.argmax(through, axis=1), "int32"))
            carry = ops.where(real, score, best), ops.where(real, back, same)
            return carry, carry

        (best, _), (_, backs) = ops.scan(forward, (ops.zeros_like(x[0]), same), _joined(x, real, first))
        last = ops.cast(ops.argmax(best + end, axis=-1), "int32")

        def backward(label, back):
            before = ops.squeeze(ops.take_along_axis(back, label[:, None], axis=1), 1)
            return before, label

        _, labels = ops.scan(backward, last, backs, reverse=True)
        return ops.transpose(ops.where(real, labels, 0))

    def log_marginals(self, emissions, padding_mask=None):
        """`log p(y_t = l)` over all sequences, `(B, T, L)`; 0 where there is padding."""
        x, real, first = _time_major(emissions, padding_mask)
        transitions, start, end = self._scores(x.dtype)

        def forward(alpha, at):
            x, real, first = _columns(at, 2)
            alpha = _normalized(_forward(alpha, x, real, first, transitions, start))
            return alpha, alpha

        def backward(beta, at):
            """`beta` is of the position after: what comes of each label that is before it."""
            x, real = _columns(at, 1)
            through = ops.logsumexp(transitions + (x + beta)[:, None, :], axis=-1)
            return _normalized(ops.where(real[:, None] > 0, through, beta)), beta

        _, alphas = ops.scan(forward, ops.zeros_like(x[0]), _joined(x, real, first))
        _, betas = ops.scan(backward, ops.zeros_like(x[0]) + end, _joined(x, real), reverse=True)
        both = alphas + betas
        marginals = both - ops.logsumexp(both, axis=-1, keepdims=True)
        return ops.transpose(ops.where(real[..., None], marginals, 0.0), (1, 0, 2))

    def _scores(self, dtype):
        """Transitions `(L, L)`, start and end `(L,)`, with what is not allowed far below all else."""
        weights = [ops.cast(weight, dtype) for weight in (self.transitions, self.start, self.end)]
        if self.allowed is None:
            return weights
        penalty = np.where(np.array(self.allowed), 0.0, FORBIDDEN)
        parts = penalty[:-1, :-1], penalty[-1, :-1], penalty[:-1, -1]
        return [weight + ops.convert_to_tensor(part, dtype) for weight, part in zip(weights, parts)]

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {**super().get_config(), "num_labels": self.num_labels, "allowed": self.allowed}


def _time_major(emissions, padding_mask):
    """Emissions `(T, B, L)` in float32 or wider, which are real and which the first real one, `(T, B)`."""
    x = ops.convert_to_tensor(emissions)
    x = ops.transpose(ops.cast(x, keras.backend.result_type(x.dtype, "float32")), (1, 0, 2))
    if padding_mask is None:
        real = ops.ones_like(x[..., 0], "bool")
    else:
        real = ops.cast(ops.transpose(ops.convert_to_tensor(padding_mask)), "bool")
    first = ops.logical_and(real, ops.equal(ops.cumsum(ops.cast(real, "int32"), axis=0), 1))
    return x, real, first


def _forward(alpha, x, real, first, transitions, start):
    """One step of the forward algorithm: log sums of the sequences that end in each label, `(B, L)`."""
    through = ops.logsumexp(alpha[:, :, None] + transitions, axis=1)
    return ops.where(real[:, None] > 0, ops.where(first[:, None] > 0, start, through) + x, alpha)


def _normalized(x):
    """What is the same for all labels is taken away: over thousands of positions it would outgrow the differences."""
    return x - ops.logsumexp(x, axis=-1, keepdims=True)


def _joined(x, *rows):
    """`(T, B, L)` and some `(T, B)` as one tensor: Keras 3.15 scans over several only if their length is static."""
    return ops.concatenate([x, *(ops.cast(row, x.dtype)[..., None] for row in rows)], axis=-1)


def _columns(at, count):
    """What `_joined` put together, at one position: `(B, L)` and `count` `(B,)`."""
    return at[:, :-count], *(at[:, column - count] for column in range(count))
