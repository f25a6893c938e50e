"""What the position parts that add to the scores of attention have in common."""

import keras
from keras import ops

from keras_transformer.layers.positions import as_positions


class PositionScores(keras.layers.Layer):
    """A position part whose `scores` are added to the scaled dot products of queries and keys.

    Attention calls `scores` for any block of its queries and keys. To call the layer is the same thing, so that it
    can stand in a Functional model too.
    """

    def __init__(self, num_heads=None, **kwargs):
        if num_heads is not None and (not isinstance(num_heads, int) or num_heads < 1):
            raise ValueError(f"`num_heads` must be a positive integer or None. Received: num_heads={num_heads}")
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.supports_masking = True

    def build_for_attention(self, num_heads, key_dim):
        """Creates the weights for `num_heads` heads of queries of width `key_dim`."""
        self.build((None, None, num_heads, key_dim))

    def scores(self, query, query_positions, key_positions):
        """What is added to the scores, broadcastable to `(B, H, T, S)`.

        Args:
            query: `(B, T, H, K)`, scaled by `1/sqrt(K)`.
            query_positions, key_positions: integers `(T,)`, `(S,)`, consecutive, or `(1|B, T)`, `(1|B, S)`.
        """
        query = ops.convert_to_tensor(query)
        self.check_query(query.shape)
        if not self.built:
            self.build(query.shape)
        query_positions = as_positions(query_positions, "query_positions", of=query.shape)
        key_positions = as_positions(key_positions, "key_positions", of=(query.shape[0], None))
        return self.compute_scores(query, query_positions, key_positions)

    def compute_scores(self, query, query_positions, key_positions):
        """`scores` of tensors, the positions int32."""
        raise NotImplementedError

    def call(self, query, query_positions, key_positions):
        return self.scores(query, query_positions, key_positions)

    def compute_mask(self, inputs, previous_mask=None):
        """None: the mask of the queries has no meaning for their scores."""
        return None

    def check_query(self, shape):
        if len(shape) != 4:
            raise ValueError(
                f"`query` must be of the shape (B, T, H, K), with the heads apart. Received: shape={tuple(shape)}"
            )

    def check_heads(self, found, expected):
        if found != expected:
            raise ValueError(
                f"`query` must have {expected} heads, for which {self.name} was made. Received: {found} heads. "
                "One table can be shared only by attention layers of as many heads."
            )

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}
