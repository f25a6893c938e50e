"""Strings or words to labels: a tokenizer around a model of logits for tokens, in Python and as a SavedModel."""

from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf

from keras_transformer import text
from keras_transformer.generation.arguments import check_count
from keras_transformer.tasks import saved_model
from keras_transformer.tasks.batches import TOKENS_TOGETHER, as_list, in_groups, of_like_length


class TaggedWord(NamedTuple):
    """A word, its label, how probable that is, and where the word is: `text[start:end]`, in characters."""

    word: str
    label: str
    score: float
    start: int
    end: int


class Tagger:
    """Labels the words of texts with a model and its tokenizer, by the same graph in Python and when exported.

    A text is split into words in the graph; a list of words is taken as it is. Texts of more pieces than `max_length`
    are read in windows that share `overlap` pieces, and a piece counts in the window in which it has more around it.
    With a `CRFTagger`, the labels are the most probable sequence over the whole text, whatever windows it was read in.

    A text without a word (empty, or white space) has no labels. Invalid UTF-8 and NUL bytes are replaced before
    splitting. A word of more than 32 pieces is read by the first 32. None of these touches the other texts of a batch.

    Args:
        model: of `{"token_ids": (B, T)}` to logits `(B, T, L)`, such as a `TokenClassifier`, a `CRFTagger` or a Keras
            model of your own (a copy in float32 serves if it computes in half precision).
        tokenizer: such as `text.WordPieceTokenizer`, `SentencePieceTokenizer` or `WordFeatures`.
        labels: names of the `L` labels, in the order of their ids.
        splitter: of texts to words; None: `text.WordSplitter()`.
        max_length: positions of a window, special tokens included.
        overlap: pieces that windows share.
        label_on: "first" takes the label of a word's first piece; "all" is a vote: the mean of what all its pieces
            hold probable. As in training, see `text.to_tagged_examples`.
        segment_capitals: whether the model is given `segment_ids`, 1 on words that begin with a capital letter.
        batch_size: texts labelled at once by `__call__`, of like length.
        batch_tokens: positions that the model reads at once, padding included, in Python and in the SavedModel.

    Example: see `examples/sequence_tagging.py`.
    """

    def __init__(
        self,
        model,
        tokenizer,
        labels,
        splitter=None,
        max_length=128,
        overlap=32,
        label_on="first",
        segment_capitals=False,
        batch_size=32,
        batch_tokens=TOKENS_TOGETHER,
    ):
        self.labels = text.check_labels(labels)
        text.check_label_on(label_on)
        check_count("batch_size", batch_size)
        check_count("batch_tokens", batch_tokens)
        self.decodes_sequences = hasattr(model, "decode")
        if self.decodes_sequences and label_on != "first":
            raise ValueError(
                "`label_on` must be 'first' for a model of label sequences, which have one label a word. "
                f"Received: label_on={label_on!r}"
            )
        size = getattr(getattr(model, "encoder", None), "vocabulary_size", None)
        if size is not None and tokenizer.vocabulary_size > size:
            raise ValueError(
                "`tokenizer` has more tokens than the model has embeddings. "
                f"Received: {tokenizer.vocabulary_size} tokens, {size} embeddings. Use the one it was trained with."
            )
        self.model = saved_model.in_dtype(model, "float32")
        self.tokenizer = tokenizer
        self.splitter = splitter or text.WordSplitter()
        self.max_length = max_length
        self.overlap = overlap
        self.label_on = label_on
        self.segment_capitals = segment_capitals
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        _, read = self._read(tf.ragged.constant([["a"]]))
        given = self._logits(read, [0]).shape[-1]
        if given != len(self.labels):
            raise ValueError(
                "`labels` must name the classes of the model. "
                f"Received: {len(self.labels)} labels for logits of {given} classes."
            )
        self._graph = tf.function(
            self._tag_texts, input_signature=[tf.TensorSpec([None], tf.string, name="texts")], autograph=False
        )
        self._words_graph = tf.function(
            lambda words: self._tag(text.joined(words)), [tf.RaggedTensorSpec([None, None], tf.string)], autograph=False
        )

    def __call__(self, texts, verbose=0, batch_size=None):
        """For each text a list of `(word, label, score)`; see `tag_with_offsets`."""
        return [[tagged[:3] for tagged in words] for words in self.tag_with_offsets(texts, verbose, batch_size)]

    def tag_with_offsets(self, texts, verbose=0, batch_size=None):
        """The words of each text, their labels, how probable these are, and where the words are.

        Args:
            texts: a list of strings, or a list of lists of words.
            verbose: 1 shows a progress bar, 0 does not.
            batch_size: texts labelled at once, of like length; None means that of the tagger.

        Returns:
            For each text a list of `TaggedWord`. Places are counted in characters (code points) of the text, after
            `text.clean` if it is not valid UTF-8; of given words, in the text that has a space between them.
        """
        texts = as_list(texts, of="strings or of lists of words")
        split = [not isinstance(words, (str, bytes)) and isinstance(words, Iterable) for words in texts]
        if any(split) and not all(split):
            raise TypeError(
                "`texts` must be all strings or all lists of words. "
                f"Received: {texts[split.index(True)]!r} and {texts[split.index(False)]!r}"
            )
        rows = [_clean(list(words)) for words in texts] if any(split) else _clean(texts)
        results: list = [None] * len(rows)
        for places in of_like_length(rows, self.batch_size if batch_size is None else batch_size, verbose):
            batch = [rows[i] for i in places]
            if any(split):
                found = self._words_graph(tf.ragged.constant(batch, tf.string, ragged_rank=1))
            else:
                found = self._graph(tf.constant(batch))
            for place, tagged in zip(places, _unpacked(found), strict=True):
                results[place] = tagged
        return results

    def export(self, path, overwrite=False):
        """Writes a SavedModel: `serving_default` takes `texts` `[batch]`, strings.

        It returns `words` and `labels` (strings, "" where there is padding), `scores` (float32), `starts` and `ends`
        (int32), all `[batch, words]`, and `lengths` `[batch]`, int32. It holds weights, vocabulary and labels, and
        needs `tensorflow` and `tensorflow_text` (imported before loading), not this library.

        Args:
            path: a directory that does not exist; it is there whole or not at all.
            overwrite: whether to replace a directory that exists.
        """
        saved_model.save(self._graph, self.model.variables, path, overwrite)

    def _tag_texts(self, texts):
        return self._tag(self.splitter(texts))

    def _tag(self, found):
        """`text.Words` to what `export` describes."""
        emissions = self._emissions(found.words)
        lengths = found.words.row_lengths()
        real = tf.sequence_mask(lengths, tf.shape(emissions)[1])
        if self.decodes_sequences:
            # One place more, of padding: there is no going through a sequence of none, when no text has a word.
            padded, mask = tf.pad(emissions, [[0, 0], [0, 1], [0, 0]]), tf.pad(real, [[0, 0], [0, 1]])
            ids, scores = (x[:, :-1] for x in self.model.decode(padded, mask))
        else:
            ids, scores = tf.argmax(emissions, axis=-1), tf.reduce_max(tf.nn.softmax(emissions), axis=-1)
        return {
            "words": found.words.to_tensor(),
            "labels": tf.where(real, tf.gather(tf.constant(self.labels), ids), ""),
            "scores": tf.where(real, scores, 0.0),
            "starts": found.starts.to_tensor(),
            "ends": found.ends.to_tensor(),
            "lengths": tf.cast(lengths, tf.int32),
        }

    def _emissions(self, words):
        """Logits `(B, W, L)` of each word of `words`, ragged `(B, None)`; with a vote, log-probabilities."""
        pieces, read = self._read(words)
        lengths = tf.reduce_sum(tf.cast(read.padding_mask, tf.int32), axis=1)
        logits, order = in_groups(
            lengths, self.batch_tokens, lambda places: self._logits(read, places), len(self.labels)
        )
        begins = tf.cumsum(tf.gather(lengths, order), exclusive=True)
        begins = tf.gather(begins, tf.math.invert_permutation(order))
        of_pieces = tf.gather(logits, tf.gather(begins, read.rows.values) + read.columns.values)
        if self.label_on == "first":
            of_words = tf.boolean_mask(of_pieces, text.first_of_words(pieces).values)
        else:
            starts = tf.gather(words.row_starts(), pieces.words.value_rowids())
            word = tf.cast(pieces.words.values, tf.int64) + starts
            of_words = tf.math.log(tf.math.segment_mean(tf.nn.softmax(of_pieces), word))
        return words.with_flat_values(of_words).to_tensor()

    def _read(self, words):
        """The pieces of `words` and the `text.Windows` that they are read in."""
        pieces = text.pieces_of_words(self.tokenizer, words)
        return pieces, text.windows_for(self.tokenizer, pieces, self.max_length, self.overlap)

    def _logits(self, read, places):
        """Logits `(M, L)` of all that is no padding in the rows at `places` of `text.Windows`."""
        mask = tf.gather(read.padding_mask, places)
        longest = tf.reduce_max(tf.reduce_sum(tf.cast(mask, tf.int32), axis=1))
        inputs = text.model_inputs(read, self.segment_capitals)
        inputs = {name: tf.gather(x, places)[:, :longest] for name, x in inputs.items()}
        return tf.boolean_mask(tf.cast(self.model(inputs, training=False), tf.float32), mask[:, :longest])


def _clean(words):
    return text.clean(words).numpy().tolist()


def _unpacked(found):
    """The rows of a batch as lists of `TaggedWord`."""
    arrays = {name: tensor.numpy() for name, tensor in found.items()}
    for row, length in enumerate(arrays["lengths"]):
        columns = (arrays[name][row, :length].tolist() for name in ("words", "labels", "scores", "starts", "ends"))
        yield [
            TaggedWord(word.decode("utf-8", "replace"), label.decode(), *rest)
            for word, label, *rest in zip(*columns, strict=True)
        ]
