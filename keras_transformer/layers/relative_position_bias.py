"""A learned score for each bucket of distances (Raffel et al. 2020, "T5", section 2.1)."""

import bisect

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.arguments import check_booleans, check_positive_integers
from keras_transformer.layers.position_scores import PositionScores
from keras_transformer.layers.positions import diagonals, relative_positions, skew


def bucket_borders(num_buckets, max_distance):
    """The smallest distance of each bucket, for distances to one side: a list of `num_buckets` integers.

    The first half of the buckets, `e`, are a distance each. Of the other half, `m`, the k-th begins where
    `e + floor(m log(d/e) / log(max_distance/e)) = e + k`, that is at the smallest `d` with
    `d^m e^k >= max_distance^k e^m`: whole numbers, since logarithms round to either side of a border.
    """
    exact = num_buckets // 2
    further = num_buckets - exact
    borders = list(range(exact + 1))
    for k in range(1, further):
        reach = max_distance**k * exact**further
        borders.append(
            bisect.bisect_left(range(max_distance), reach, key=lambda d, k=k: d**further * exact**k)  # type: ignore[misc]
        )
    return borders


def relative_buckets(relative, num_buckets=32, max_distance=128, bidirectional=True):
    """The bucket of each relative position (key minus query): NumPy integers of the shape of `relative`.

    To both sides: half of the buckets for keys up to the query, half for those after it. Else keys after the query
    are all in the bucket of distance zero. The last bucket of a side takes all distances from `max_distance`, and some
    below it.
    """
    relative = np.asarray(relative)
    if bidirectional:
        num_buckets //= 2
    borders = bucket_borders(num_buckets, max_distance)
    behind = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    bucket = np.searchsorted(borders, behind, side="right") - 1
    return bucket + np.where(relative > 0, num_buckets, 0) if bidirectional else bucket


@keras.saving.register_keras_serializable(package="keras_transformer")
class RelativePositionBias(PositionScores):
    """A learned number for each head and bucket of distances is added to the scores (Raffel et al. 2020, section 2.1).

    Distances are in buckets that grow logarithmically, as in the authors' code (`_relative_position_bucket` of
    Mesh TensorFlow). One layer may be handed to all blocks, as in T5: they share its table.

    Differs from the paper: nothing. T5 does not divide dot products by `sqrt(K)`, attention here does: to load T5's
    weights, multiply its query kernel by `sqrt(K)`.

    Args:
        num_buckets: rows of the table.
        max_distance: the distance from which all are in the last bucket.
        bidirectional: whether keys after the query have buckets of their own (an encoder), or count as distance zero
            (a decoder, which does not see them).
        num_heads: `H`; None: known when attention or the first call builds the layer.
        embeddings_initializer: of the table `(num_buckets, H)`.

    Call arguments:
        query: `(B, T, H, K)`; only its shape matters.
        query_positions, key_positions: integers `(T,)`, `(S,)`, consecutive, or `(1|B, T)`, `(1|B, S)`.

    Returns:
        `(1|B, H, T, S)` in the dtype of the table.

    Raises:
        ValueError: if there are too few buckets or `num_buckets` is odd where it is halved, if `max_distance` leaves
            no distances to the larger buckets, if the query has other than `H` heads, if positions are no integers.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import RelativePositionBias
    >>> bias = RelativePositionBias(num_heads=2)
    >>> tuple(bias(np.zeros((1, 3, 2, 4)), np.arange(3), np.arange(5)).shape)
    (1, 2, 3, 5)
    """

    def __init__(
        self,
        num_buckets=32,
        max_distance=128,
        bidirectional=True,
        num_heads=None,
        embeddings_initializer="uniform",
        **kwargs,
    ):
        check_positive_integers(num_buckets=num_buckets, max_distance=max_distance)
        check_booleans(bidirectional=bidirectional)
        sides = 2 if bidirectional else 1
        if num_buckets < 2 * sides or num_buckets % sides:
            raise ValueError(
                f"`num_buckets` must be at least {2 * sides}{' and even' if bidirectional else ''} "
                f"with bidirectional={bidirectional}. Received: num_buckets={num_buckets}"
            )
        if max_distance <= num_buckets // sides // 2:
            raise ValueError(
                f"`max_distance` must be larger than {num_buckets // sides // 2}, the number of buckets that are one "
                f"distance each. Received: max_distance={max_distance} with num_buckets={num_buckets}"
            )
        super().__init__(num_heads=num_heads, **kwargs)
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        if num_heads is not None:
            self.build_for_attention(num_heads, None)

    def build(self, query_shape):
        self.check_query(query_shape)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, query_shape[2]),
            initializer=self.embeddings_initializer,
            autocast=False,  # scores are added in float32
        )

    def compute_scores(self, query, query_positions, key_positions):
        self.check_heads(query.shape[2], self.embeddings.shape[1])
        furthest = self.max_distance
        buckets = relative_buckets(np.arange(-furthest, furthest + 1), self.num_buckets, furthest, self.bidirectional)
        by_distance = ops.take(self.embeddings, buckets.astype("int32"), axis=0)

        def bias(relative):
            return ops.take(by_distance, ops.clip(relative, -furthest, furthest) + furthest, axis=0)

        if len(query_positions.shape) == len(key_positions.shape) == 1:
            diagonal = bias(diagonals(query_positions, key_positions))  # (T + S - 1, H)
            by_pair = skew(ops.broadcast_to(diagonal, (1, ops.shape(query_positions)[0], *ops.shape(diagonal))))
        else:
            by_pair = bias(relative_positions(query_positions, key_positions))
        return ops.transpose(by_pair, (0, 3, 1, 2))

    def get_config(self):
        return {
            **super().get_config(),
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
