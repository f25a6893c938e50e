"""What a model does whose last step is a product with the table of embeddings, when its loss takes that over."""

import contextlib
from typing import Any

import keras
from keras import ops

from keras_transformer.models.model import Model
from keras_transformer.training import LinearCrossEntropy
from keras_transformer.training.token_mean import share_of_replica


class VocabularyEnd(Model):
    """A `keras.Model` that, with `compile(loss=LinearCrossEntropy(...))`, makes no logits in `fit` and `evaluate`.

    Inside a training or test step `call` returns the states that it would have projected (`end` does so), and
    `compute_loss` gives them to the loss together with `output_table()`. Everywhere else a call returns logits.
    """

    _at_states = False
    _token_metrics: Any = ()

    def output_table(self):
        """The table `(V, D)` whose products with the states are the logits."""
        raise NotImplementedError

    def logits(self, hidden):
        """Logits `(..., V)` of states `(..., D)`."""
        raise NotImplementedError

    def end(self, hidden):
        """What `call` returns for its last states."""
        return self.states_for_table(hidden) if self._at_states else self.logits(hidden)

    def states_for_table(self, hidden):
        """The states whose products with `output_table()` are the logits: `hidden`, unless the logits have a bias."""
        return hidden

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **kwargs):
        super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, **kwargs)
        self._token_metrics = ()
        if isinstance(loss, LinearCrossEntropy):
            if metrics or weighted_metrics:
                raise ValueError(
                    "`LinearCrossEntropy` makes no logits for other metrics to see; it reports `cross_entropy` and "
                    f"`accuracy` itself. Received: metrics={metrics}, weighted_metrics={weighted_metrics}. Leave them "
                    "out, or use `SmoothedCrossEntropy`."
                )
            self._token_metrics = _TokenMetrics()

    def compile_from_config(self, config):
        """Keras does this by itself only for models that leave `compile` alone."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        return [*super().metrics, *self._token_metrics]

    def train_step(self, *args, **kwargs):
        with self._stopping_at_states():
            return super().train_step(*args, **kwargs)

    def test_step(self, *args, **kwargs):
        with self._stopping_at_states():
            return super().test_step(*args, **kwargs)

    @contextlib.contextmanager
    def _stopping_at_states(self):
        self._at_states = bool(self._token_metrics)
        try:
            yield
        finally:
            self._at_states = False

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not self._at_states:
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        loss, *values, count = self.loss.of_states(y_pred, self.output_table(), y, sample_weight, training=training)
        for metric, value in zip(self._token_metrics, values, strict=True):
            metric.update_state(value, sample_weight=count)
        return loss + share_of_replica(sum(self.losses))


def output_table_of(embedding):
    """The table `(V, D)` by which a `ReversibleEmbedding` makes logits."""
    return embedding.embeddings if embedding.tie_weights else ops.transpose(embedding.reverse_embeddings)


def with_ones(hidden):
    """States `(..., D + 1)`, of which the last is 1: the factor of a bias that is the last column of the table."""
    return ops.concatenate([hidden, ops.ones_like(hidden[..., :1])], axis=-1)


def with_column(table, bias):
    """The table `(V, D + 1)` of a table `(V, D)` and a bias `(V,)`."""
    return ops.concatenate([table, ops.cast(bias, table.dtype)[:, None]], axis=1)


class _TokenMetrics:
    """Made when the model is compiled, and not an attribute of it: a built layer takes no further state."""

    def __init__(self):
        self._metrics = [keras.metrics.Mean(name) for name in ("cross_entropy", "accuracy")]

    def __iter__(self):
        return iter(self._metrics)

    def __bool__(self):
        return True
