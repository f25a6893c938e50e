"""A learned vector for each distance (Shaw et al. 2018), skewed into place (Huang et al. 2018, "Music Transformer")."""

import keras
from keras import ops

from keras_transformer.layers.arguments import check_booleans, check_one_of, check_positive_integers
from keras_transformer.layers.position_scores import PositionScores
from keras_transformer.layers.positions import diagonals, relative_positions, skew

BEYOND = ("clip", "zero")


@keras.saving.register_keras_serializable(package="keras_transformer")
class RelativePositionEmbedding(PositionScores):
    """`q_i . a_(j-i)` is added to the scores: a vector for each distance from query to key, as if added to the key
    (Shaw et al. 2018, equations 4 and 5, the `a^K`).

    The vectors of a distance, not of a pair, are multiplied by the queries, and the products are moved to the keys'
    places: by a skew (Huang et al. 2018, section 3.4.1) where positions are consecutive and the table has a vector for
    each of their distances, else by a gather. Besides the scores, memory is `O(T K)` where Shaw's is `O(T S K)`.

    Differs from the papers: Shaw et al. also add vectors to the values (equation 3), which is left out, as in the Music
    Transformer. `beyond="clip"` is Shaw's equation of section 3.2; `beyond="zero"`, `per_head=True` and
    `bidirectional=False` are the Music Transformer's.

    Args:
        max_distance: the largest distance that has a vector of its own. (Tensor2Tensor's `max_relative_position` counts
            distance zero in its Music Transformer, so it is one more; in Shaw's attention it's the same.)
        bidirectional: whether keys after the query have vectors; if not, their scores are zero, and a mask must keep
            queries from them.
        beyond: what larger distances have: "clip", the vector of the largest distance, or "zero", none.
        per_head: whether each head has its own vectors.
        num_heads, key_dim: `H` (only with `per_head`) and `K`; None: known when attention or the first call builds the
            layer.
        embeddings_initializer: of the table.

    Weights: `(R, K)`, or `(H, R, K)` with `per_head`. Row `max_distance + (j - i)` is of key `j` and query `i`, so `R`
    is `2 max_distance + 1`, or `max_distance + 1` if not `bidirectional`: the order and shapes of Tensor2Tensor.

    Call arguments:
        query: `(B, T, H, K)`, scaled by `1/sqrt(K)`.
        query_positions, key_positions: integers `(T,)`, `(S,)`, consecutive, or `(1|B, T)`, `(1|B, S)`.

    Returns:
        `(B, H, T, S)` in the dtype of the query; products are formed in float32 or wider and rounded once.

    Raises:
        ValueError: if `max_distance` is negative, if `beyond` is unknown, if the query has another number of heads or
            width than the table, if positions are no integers.

    Example:

    >>> import numpy as np
    >>> from keras import ops
    >>> from keras_transformer.layers import RelativePositionEmbedding
    >>> relative = RelativePositionEmbedding(max_distance=2, key_dim=1, embeddings_initializer="ones")
    >>> relative.set_weights([np.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]])])
    >>> ops.convert_to_numpy(relative(np.ones((1, 3, 1, 1)), np.arange(3), np.arange(4)))[0, 0]
    array([[ 0.,  1.,  2.,  2.],
           [-1.,  0.,  1.,  2.],
           [-2., -1.,  0.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        max_distance,
        bidirectional=True,
        beyond="clip",
        per_head=False,
        num_heads=None,
        key_dim=None,
        embeddings_initializer="uniform",
        **kwargs,
    ):
        if not isinstance(max_distance, int) or max_distance < 0:
            raise ValueError(f"`max_distance` must be an integer of at least 0. Received: max_distance={max_distance}")
        check_one_of(BEYOND, beyond=beyond)
        check_booleans(bidirectional=bidirectional, per_head=per_head)
        if key_dim is not None:
            check_positive_integers(key_dim=key_dim)
        super().__init__(num_heads=num_heads, **kwargs)
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.beyond = beyond
        self.per_head = per_head
        self.key_dim = key_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        if key_dim is not None and (num_heads is not None or not per_head):
            self.build_for_attention(num_heads, key_dim)

    def build(self, query_shape):
        self.check_query(query_shape)
        heads, width = query_shape[2:]
        rows = self.max_distance * (2 if self.bidirectional else 1) + 1
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(heads, rows, width) if self.per_head else (rows, width),
            initializer=self.embeddings_initializer,
            autocast=False,  # products are formed in float32 and rounded once
        )

    def compute_scores(self, query, query_positions, key_positions):
        if self.per_head:
            self.check_heads(query.shape[2], self.embeddings.shape[0])
        if query.shape[3] != self.embeddings.shape[-1]:
            raise ValueError(
                f"`query` must have heads of width {self.embeddings.shape[-1]}, for which {self.name} was made. "
                f"Received: query.shape={tuple(query.shape)}"
            )
        wide = keras.backend.result_type(query.dtype, self.embeddings.dtype, "float32")
        embeddings, wide_query = ops.cast(self.embeddings, wide), ops.cast(query, wide)
        equation = "bthk,hrk->btrh" if self.per_head else "bthk,rk->btrh"

        if self._on_diagonals(query_positions, key_positions):
            row, counts = self._row(diagonals(query_positions, key_positions))
            vectors = ops.take(embeddings, row, axis=-2)
            if counts is not None:
                vectors = vectors * ops.cast(counts, wide)[:, None]
            by_pair = skew(ops.einsum(equation, wide_query, vectors))
        else:
            products = ops.einsum(equation, wide_query, embeddings)
            row, counts = self._row(relative_positions(query_positions, key_positions))  # (1|B, T, S)
            batch, length, rows, heads = ops.shape(products)
            # Flat, a gather has one index for all heads, and moves them together.
            first = ops.reshape(ops.arange(batch * length, dtype="int32") * rows, (batch, length, 1))
            by_pair = ops.take(ops.reshape(products, (-1, heads)), first + row, axis=0)
            if counts is not None:
                by_pair = by_pair * ops.cast(counts, wide)[..., None]
        return ops.cast(ops.transpose(by_pair, (0, 3, 1, 2)), query.dtype)

    def _on_diagonals(self, query_positions, key_positions):
        """Whether to multiply by a vector for each diagonal and skew, or by the whole table and gather: by the fewer.

        A block of a long sequence, or a step of decoding, has few diagonals; a table of near distances has few rows.
        """
        if len(query_positions.shape) + len(key_positions.shape) > 2:
            return False
        queries, keys = query_positions.shape[0], key_positions.shape[0]
        return queries is None or keys is None or queries + keys - 1 <= self.embeddings.shape[-2]

    def _row(self, relative):
        """The table's row for each relative position, and whether it counts; None if all do."""
        last = self.max_distance if self.bidirectional else 0
        counts = None
        if self.beyond == "zero":
            counts = ops.abs(relative) <= self.max_distance
        if not self.bidirectional:
            counts = relative <= 0 if counts is None else ops.logical_and(counts, relative <= 0)
        return ops.clip(relative, -self.max_distance, last) + self.max_distance, counts

    def get_config(self):
        return {
            **super().get_config(),
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "beyond": self.beyond,
            "per_head": self.per_head,
            "key_dim": self.key_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
