"""F1 of entities: spans of words whose begin, end and type are all right (Tjong Kim Sang and De Meulder 2003)."""

import keras
import numpy as np
from keras import ops

from keras_transformer.layers import split_label

BEGINS = {("E", "E"), ("E", "I"), ("S", "E"), ("S", "I"), ("O", "E"), ("O", "I")}
ENDS = {("B", "B"), ("B", "S"), ("B", "O"), ("I", "B"), ("I", "S"), ("I", "O")}


def _begins(before, after):
    """Whether a span begins at a word with the label `after`, behind one with the label `before`."""
    (prefix, kind), (next_prefix, next_kind) = split_label(before), split_label(after)
    if next_prefix == "O":
        return False
    return next_prefix in "BS" or (prefix, next_prefix) in BEGINS or kind != next_kind


def _ends(before, after):
    """Whether a span ends at a word with the label `before`, followed by one with the label `after`."""
    (prefix, kind), (next_prefix, next_kind) = split_label(before), split_label(after)
    if prefix == "O":
        return False
    return prefix in "ES" or (prefix, next_prefix) in ENDS or kind != next_kind


def entities(labels):
    """The spans that the labels of a sentence stand for, whatever their scheme, well formed or not.

    The rules are those of CoNLL's `conlleval`: a span begins at B or S, where the type changes, and at an I or E with
    nothing to go on from.

    Args:
        labels: strings: IOB1, BIO or BIOES.

    Returns:
        A list of `(type, start, end)`, the end exclusive.

    Example:

    >>> from keras_transformer.training import entities
    >>> entities(["I-PER", "I-PER", "O", "B-LOC"])
    [('PER', 0, 2), ('LOC', 3, 4)]
    """
    found, start = [], None
    for place, (before, after) in enumerate(zip(["O", *labels], [*labels, "O"])):
        if start is not None and _ends(before, after):
            found.append((split_label(before)[1], start, place))
            start = None
        if _begins(before, after):
            start = place
    return found


@keras.saving.register_keras_serializable(package="keras_transformer")
class EntityF1(keras.metrics.Metric):
    """F1 of entities over all that was seen, equal to `seqeval.metrics.f1_score(average="micro")`.

    Positions of weight 0 are taken out, and a sentence is what is left of its row: hand it to
    `compile(weighted_metrics=...)`. Sentences that were cut into windows count as several.

    Args:
        labels: their names in the order of their ids: IOB1, BIO or BIOES.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.training import EntityF1
    >>> metric = EntityF1(["O", "B-PER", "I-PER"])
    >>> metric.update_state([[1, 2, 0, 1]], np.eye(3)[[[1, 2, 0, 0]]])
    >>> round(float(metric.result()), 3)
    0.667
    """

    def __init__(self, labels, name="entity_f1", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.labels = list(labels)
        for label in self.labels:
            prefix, kind = split_label(label)
            if prefix not in ("O", "B", "I", "E", "S") or (prefix == "O") != (not kind):
                raise ValueError(
                    "A label of an entity must be O, or one of B, I, E and S with a type, as in B-PER. "
                    f"Received: {label!r}"
                )
        self._direction = "up"
        # "O" is put before, after and between sentences, whether or not it is among the labels.
        names = [*self.labels, "O"]
        tables = [np.array([[rule(a, b) for b in names] for a in names]) for rule in (_begins, _ends)]
        self._begins, self._ends = (table.astype("int32").reshape(-1) for table in tables)
        kinds = sorted({split_label(name)[1] for name in names})
        self._kinds = np.array([kinds.index(split_label(name)[1]) for name in names], "int32")
        self.correct = self.add_weight(name="correct", initializer="zeros")
        self.predicted = self.add_weight(name="predicted", initializer="zeros")
        self.true = self.add_weight(name="true", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts the entities of a batch.

        Args:
            y_true: ids `(B, T)`.
            y_pred: logits or probabilities `(B, T, L)`.
            sample_weight: `(B, T)`; 0 takes a position out.
        """
        outside = len(self.labels)
        y_true = ops.cast(y_true, "int32")
        y_pred = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        if sample_weight is not None:
            # The places that count, in their order, before those that do not: both are "O" there.
            counts = ops.cast(ops.greater(ops.convert_to_tensor(sample_weight), 0), "int32")
            length = ops.shape(y_true)[1]
            order = ops.argsort((1 - counts) * length + ops.arange(length, dtype="int32"), axis=1)
            counts = ops.take_along_axis(counts, order, axis=1)
            y_true, y_pred = (
                ops.where(ops.equal(counts, 1), ops.take_along_axis(ids, order, axis=1), outside)
                for ids in (y_true, y_pred)
            )
        true, predicted = self._spans(y_true), self._spans(y_pred)
        same = [ops.equal(ours, theirs) for ours, theirs in zip(true, predicted)]
        begins, both = ops.greater(true[0], 0), ops.logical_and(same[0], ops.logical_and(same[1], same[2]))
        for weight, found in (
            (self.correct, ops.logical_and(begins, both)),
            (self.predicted, ops.greater(predicted[0], 0)),
            (self.true, begins),
        ):
            weight.assign_add(ops.sum(ops.cast(found, self.dtype)))

    def _spans(self, ids):
        """For each position whether a span begins there, of which type, and where the next end from there on is."""
        count = len(self.labels) + 1
        edge = ops.full_like(ids[:, :1], len(self.labels))
        before, after = ops.concatenate([edge, ids], axis=1), ops.concatenate([ids, edge], axis=1)
        pairs = before * count + after
        begins = ops.take(ops.convert_to_tensor(self._begins), pairs[:, :-1])
        ends = ops.take(ops.convert_to_tensor(self._ends), pairs[:, 1:])
        length = ops.shape(ids)[1]
        places = ops.where(ops.greater(ends, 0), ops.arange(length, dtype="int32"), length)
        nearest = ops.associative_scan(ops.minimum, places, reverse=True, axis=1)
        return begins, ops.take(ops.convert_to_tensor(self._kinds), ids), nearest

    def result(self):
        # 2 P R / (P + R), and 0 where there is no entity at all.
        return 2 * self.correct / ops.maximum(self.predicted + self.true, 1)

    def get_config(self):
        return {"labels": self.labels, "name": self.name, "dtype": self.dtype}
