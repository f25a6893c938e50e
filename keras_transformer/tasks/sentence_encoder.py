"""Strings to vectors: a tokenizer and an encoder, in Python and as a SavedModel."""

import numpy as np
import tensorflow as tf

from keras_transformer.generation.arguments import check_count
from keras_transformer.layers.arguments import check_booleans, check_one_of
from keras_transformer.tasks import saved_model
from keras_transformer.tasks.batches import TOKENS_TOGETHER, as_list, in_groups, of_like_length
from keras_transformer.text import clean

POOLINGS = ("mean", "first")
TEXTS_TOGETHER = 256  # of one call of the graph: more would only make the progress bar coarse


class SentenceEncoder:
    """Vectors whose cosines say how near texts are in meaning (Reimers and Gurevych 2019, "Sentence-BERT", section 3).

    A text's pieces stand between the tokenizer's start and end token. The vector is the mean of all their states, over
    its length. The same graph runs in Python and in the exported model. It sorts texts by their number of tokens and
    reads those of like length together, padded and masked: a text has the same vector alone and in any batch.

    Args:
        model: an `Encoder`, such as `interop.from_huggingface` returns, or a model that has one as its `encoder` (a
            copy in float32 serves if it computes in half precision).
        tokenizer: such as `text.WordPieceTokenizer`, with `start_token_id`, `end_token_id` and `pad_token_id`.
        pooling: "mean" of all states, or the "first" token's.
        normalize: whether vectors are divided by their length, so that a product of two is their cosine.
        max_length: tokens of a text that are read, with start and end; what comes after is left out.
        batch_tokens: tokens that the model reads at once, padding included. A processor with small caches is fastest
            with few, a GPU with many.

    Example: see `docs/tasks.md`.
    """

    def __init__(self, model, tokenizer, pooling="mean", normalize=True, max_length=256, batch_tokens=TOKENS_TOGETHER):
        encoder = getattr(model, "encoder", model)
        check_one_of(POOLINGS, pooling=pooling)
        check_booleans(normalize=normalize)
        check_count("batch_tokens", batch_tokens)
        if not isinstance(max_length, int) or max_length < 3:
            raise ValueError(
                "`max_length` must be an integer of at least 3, for the start, a token and the end. "
                f"Received: max_length={max_length!r}"
            )
        if encoder.position is None and max_length > encoder.max_sequence_length:
            raise ValueError(
                "`max_length` must not be more than the encoder has positions. "
                f"Received: max_length={max_length}, max_sequence_length={encoder.max_sequence_length}"
            )
        if tokenizer.vocabulary_size > encoder.vocabulary_size:
            raise ValueError(
                "`tokenizer` has more tokens than the model has embeddings. Received: "
                f"{tokenizer.vocabulary_size} tokens, {encoder.vocabulary_size} embeddings. "
                "Use the one it was trained with."
            )
        self.model = saved_model.in_dtype(encoder, "float32")
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.normalize = normalize
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self._graph = tf.function(
            self._encode, input_signature=[tf.TensorSpec([None], tf.string, name="texts")], autograph=False
        )

    def __call__(self, texts, verbose=0):
        """The vectors, float32 `(len(texts), D)`, of a list of strings, in its order.

        Args:
            texts: a list of strings.
            verbose: 1 shows a progress bar, 0 does not.
        """
        encoded = clean(as_list(texts)).numpy().tolist()
        vectors = np.zeros((len(encoded), self.model.hidden_dim), "float32")
        for rows in of_like_length(encoded, TEXTS_TOGETHER, verbose):
            vectors[rows] = self._graph(tf.constant([encoded[i] for i in rows]))["embeddings"].numpy()
        return vectors

    def _encode(self, texts):
        """`texts` `(B,)` to `{"embeddings"}` `(B, D)`, in the graph."""
        pieces = self.tokenizer(texts)[:, : self.max_length - 2]

        def column(token_id):
            return tf.fill([pieces.nrows(), 1], tf.constant(token_id, pieces.dtype))

        ids = tf.concat([column(self.tokenizer.start_token_id), pieces, column(self.tokenizer.end_token_id)], axis=1)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        vectors, order = in_groups(
            lengths, self.batch_tokens, lambda places: self._vectors(tf.gather(ids, places)), self.model.hidden_dim
        )
        return {"embeddings": tf.gather(vectors, tf.math.invert_permutation(order))}

    def _vectors(self, ids):
        """Ragged `ids` `(N, None)` to vectors `(N, D)`."""
        mask = tf.sequence_mask(ids.row_lengths())
        states = self.model({"token_ids": ids.to_tensor(self.tokenizer.pad_token_id), "padding_mask": mask})
        if self.pooling == "first":
            vectors = states[:, 0]
        else:
            weights = tf.cast(mask, states.dtype)[..., tf.newaxis]
            vectors = tf.reduce_sum(states * weights, axis=1) / tf.reduce_sum(weights, axis=1)
        return tf.math.l2_normalize(vectors, axis=1) if self.normalize else vectors

    def export(self, path, overwrite=False):
        """Writes a SavedModel: `serving_default` takes `texts` `[batch]` and returns `embeddings` `[batch, D]`.

        It holds the weights and the vocabulary, and needs `tensorflow` and `tensorflow_text` (imported before
        loading), not this library.

        Args:
            path: a directory that does not exist; it is there whole or not at all.
            overwrite: whether to replace a directory that exists.
        """
        saved_model.save(self._graph, self.model.variables, path, overwrite)
