"""The encoder by itself: token ids to states, as in BERT (Devlin et al. 2019)."""

import keras
from keras import ops

from keras_transformer.layers import Dropout, EncoderBlock, PositionEmbedding
from keras_transformer.layers.arguments import check_booleans, check_positive_integers
from keras_transformer.layers.block import patterns_config, set_patterns
from keras_transformer.layers.initializers import clone_initializer
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.layers.parts import as_position_part, clone, shared_config
from keras_transformer.layers.results import pack, unpack
from keras_transformer.models.model import Model
from keras_transformer.models.token_table import reversible_embedding

INPUTS = ("token_ids", "padding_mask", "segment_ids")


def bert_initializer():
    """What BERT draws all its matrices from: a normal of deviation 0.02, cut off at two deviations."""
    return keras.initializers.TruncatedNormal(stddev=0.02)


@keras.saving.register_keras_serializable(package="keras_transformer")
class Encoder(Model):
    """Embeddings and `num_layers` encoder blocks (Devlin et al. 2019, section 3; Vaswani et al. 2017, section 3.1).

    The defaults are those of BERT-base but for the vocabulary: embeddings of tokens, positions and segments are added,
    normalised and dropped out, then come post-norm blocks with the exact GELU.

    Args:
        vocabulary_size: `V`.
        num_layers, num_heads, hidden_dim, intermediate_dim: the blocks; `H` must divide `D`.
        dropout: rate on the embeddings and after each sublayer.
        max_sequence_length: rows of the table of positions; counts only if `position` is None.
        num_segments: rows of the table of segments, BERT's token types; None: no such table.
        pooler_activation: of a dense layer on the state of the first token, `pool`. BERT's is "tanh"; None: no such
            layer. It is trained only in a model that pools, such as `Classifier`.
        pad_token_id: ids that are left out where no `padding_mask` is given; None: no mask.
        attention_dropout: rate on attention weights; None means `dropout`.
        activation: of the feed-forward networks; Keras's "gelu" is the exact one, by the error function.
        normalize_first: False is post-norm. True is pre-norm, with no norm after the embeddings and one at the end.
        layer_norm_epsilon: added to the variance in layer normalisation.
        kernel_initializer: of the blocks' and the pooler's matrices; None: BERT's truncated normal of deviation 0.02,
            which the tables have always.
        position: what tells positions apart in place of the table. A part that adds, such as `PositionalEncoding()`,
            is added to the embeddings; one that rotates or scores, such as `RotaryEmbedding()`, is the blocks'.
        attention, feed_forward, normalization, residual: parts of the blocks, as in `layers.EncoderBlock`.

    Call arguments:
        inputs: `{"token_ids": (B, T)}`, integers, and optionally `"padding_mask"` `(B, T)`, True = real, and
            `"segment_ids"` `(B, T)`, integers below `num_segments`; 0 where they are not given.

    Returns:
        States `(B, T, D)`.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.models import Encoder
    >>> encoder = Encoder(100, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32)
    >>> tuple(encoder({"token_ids": np.ones((2, 7))}).shape)
    (2, 7, 16)
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        intermediate_dim=3072,
        dropout=0.1,
        max_sequence_length=512,
        num_segments=None,
        pooler_activation=None,
        pad_token_id=0,
        attention_dropout=None,
        activation="gelu",
        normalize_first=False,
        layer_norm_epsilon=1e-12,
        kernel_initializer=None,
        position=None,
        attention=None,
        feed_forward=None,
        normalization=None,
        residual=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integers(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            **({} if num_segments is None else {"num_segments": num_segments}),
        )
        check_booleans(normalize_first=normalize_first)
        if attention is None and hidden_dim % num_heads:
            raise ValueError(
                "`hidden_dim` must be a multiple of `num_heads`. "
                f"Received: hidden_dim={hidden_dim}, num_heads={num_heads}"
            )
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.max_sequence_length = max_sequence_length
        self.num_segments = num_segments
        self.pooler_activation = None if pooler_activation is None else keras.activations.get(pooler_activation)
        self.pad_token_id = pad_token_id
        self.attention_dropout = attention_dropout
        self.activation = keras.activations.get(activation)
        self.normalize_first = normalize_first
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        set_patterns(
            self, attention=attention, feed_forward=feed_forward, normalization=normalization, residual=residual
        )
        self.__dict__["position"] = as_position_part(position)  # tracked below or by the blocks, whichever has it
        self._build_layers()
        # All shapes are known, so the weights exist from the start: count_params and set_weights need no call.
        self.build({"token_ids": (None, None)})

    def _build_layers(self):
        given = {"dtype": self.dtype_policy}
        in_blocks = self.position if hasattr(self.position, "rotate") or hasattr(self.position, "scores") else None
        self.token_embedding = reversible_embedding(
            self.vocabulary_size,
            self.hidden_dim,
            embeddings_initializer=bert_initializer(),
            reverse_dtype=self.compute_dtype,  # else the product with the whole vocabulary is in float32 always
            name="token_embedding",
            **given,
        )
        self.position_embedding = None if in_blocks else self.position
        if self.position is None:
            self.position_embedding = PositionEmbedding(
                self.max_sequence_length, initializer=bert_initializer(), name="position_embedding", **given
            )
        self.segment_embedding = None
        if self.num_segments is not None:
            self.segment_embedding = keras.layers.Embedding(
                self.num_segments,
                self.hidden_dim,
                embeddings_initializer=bert_initializer(),
                name="segment_embedding",
                **given,
            )
        self.embedding_dropout = Dropout(self.dropout, name="embedding_dropout", **given)
        self.blocks = [
            EncoderBlock(
                self.intermediate_dim,
                self.num_heads,
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                activation=self.activation,
                normalize_first=self.normalize_first,
                layer_norm_epsilon=self.layer_norm_epsilon,
                kernel_initializer=self._kernel_initializer(),
                position=in_blocks,
                attention=self.attention,
                feed_forward=self.feed_forward,
                normalization=self.normalization,
                residual=self.residual,
                name=f"block_{index}",
                **given,
            )
            for index in range(self.num_layers)
        ]
        # Blocks whose output is normalised expect that of their input; others leave it to one norm after the last.
        norm = clone(
            self.normalization or LayerNormalization(epsilon=self.layer_norm_epsilon), name="stack_norm", **given
        )
        identity = keras.layers.Identity(name="stack_identity", **given)
        post_norm = self.blocks[-1].output_is_normalized
        self.embedding_norm, self.final_norm = (norm, identity) if post_norm else (identity, norm)
        self.pooler = None
        if self.pooler_activation is not None:
            self.pooler = keras.layers.Dense(
                self.hidden_dim,
                activation=self.pooler_activation,
                kernel_initializer=self._kernel_initializer(),
                name="pooler",
                # `call` does not use it: trained here, it would have no gradient. See `unfreeze_pooler`.
                trainable=False,
                **given,
            )

    def _kernel_initializer(self):
        return clone_initializer(self.kernel_initializer) or bert_initializer()

    def build(self, input_shape):
        states = (None, None, self.hidden_dim)
        self.token_embedding.build((None, None))
        if self.position_embedding is not None:
            self.position_embedding.build(states)
        if self.segment_embedding is not None:
            self.segment_embedding.build((None, None))
        self.embedding_norm.build(states)
        for block in self.blocks:
            block.build(states)
        self.final_norm.build(states)
        if self.pooler is not None:
            self.pooler.build((None, self.hidden_dim))

    def call(self, inputs, training=None):
        return self.encode(inputs, training=training)

    def encode(self, inputs, training=None, return_attention_scores=False):
        """States `(B, T, D)`; on request also the list of the attention scores `(B, H, T, T)`, one a block."""
        padding_mask = self.padding_mask(inputs)
        x = self.embed(inputs, training=training)
        scores = []
        for block in self.blocks:
            x = block(x, padding_mask=padding_mask, training=training, return_attention_scores=return_attention_scores)
            x, block_scores, _ = unpack(x, return_attention_scores)
            scores.append(block_scores)
        return pack(self.final_norm(x), scores if return_attention_scores else None)

    def embed(self, inputs, training=None):
        """What the first block is given: `(B, T, D)`."""
        x = self.token_embedding(inputs["token_ids"])
        if self.position_embedding is not None:
            x = self.position_embedding.add(x, ops.arange(ops.shape(x)[1], dtype="int32"))
        if self.segment_embedding is not None:
            segment_ids = inputs.get("segment_ids")
            if segment_ids is None:
                segment_ids = ops.zeros_like(inputs["token_ids"])
            x = x + self.segment_embedding(segment_ids)
        return self.embedding_dropout(self.embedding_norm(x), training=training)

    def padding_mask(self, inputs):
        """The mask `(B, T)` of `inputs`, or the one that leaves pad ids out; None if there is no pad id."""
        unknown = sorted(set(inputs) - set(INPUTS))
        if "token_ids" not in inputs or unknown:
            raise ValueError(
                f"`inputs` must be a dict with `token_ids`, and optionally {' and '.join(INPUTS[1:])}. "
                f"Received: keys={sorted(inputs)}"
            )
        if self.segment_embedding is None and inputs.get("segment_ids") is not None:
            raise ValueError(
                "`segment_ids` need a table of segments. Received: segment_ids with num_segments=None. Leave them out, "
                "or make the encoder with `num_segments=2`."
            )
        mask = inputs.get("padding_mask")
        if mask is None and self.pad_token_id is not None:
            mask = ops.not_equal(inputs["token_ids"], self.pad_token_id)
        return mask

    def pool(self, states):
        """What the pooler makes of the first token's state: `(B, D)` of states `(B, T, D)`. Without one, that state."""
        return states[:, 0] if self.pooler is None else self.pooler(states[:, 0])

    def unfreeze_pooler(self):
        """Lets the pooler be trained, unless the encoder is frozen as a whole. For models that pool."""
        if self.pooler is not None and self.trainable:
            self.pooler.trainable = True

    def attention_scores(self, inputs):
        """Who looks at whom: a list of `(B, H, T, T)`, one a block."""
        return self.encode(inputs, return_attention_scores=True)[1]

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "max_sequence_length": self.max_sequence_length,
            "num_segments": self.num_segments,
            "pooler_activation": self.pooler_activation and keras.activations.serialize(self.pooler_activation),
            "pad_token_id": self.pad_token_id,
            "attention_dropout": self.attention_dropout,
            "activation": keras.activations.serialize(self.activation),
            "normalize_first": self.normalize_first,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "position": shared_config(self.position),
            **patterns_config(self),
        }
