"""Strings to strings: two tokenizers around an encoder-decoder, in Python and as a SavedModel."""

import keras
import numpy as np
import tensorflow as tf

from keras_transformer import generation
from keras_transformer.generation import penalties
from keras_transformer.generation.arguments import check_count
from keras_transformer.models.position_places import check_reach
from keras_transformer.tasks import saved_model
from keras_transformer.tasks.batches import as_list, of_like_length
from keras_transformer.text import clean

KEYWORDS = (
    *("max_length", "num_return_sequences", "do_sample", "seed", "processors"),
    *generation.PROCESSOR_KEYWORDS,
)


class Translator:
    """Translates strings with a model and its tokenizers, by the same graph in Python and when exported.

    A text without a token (empty, or white space) has the translation "" and the score 0. A text of more than
    `max_source_length` tokens is cut there. Invalid UTF-8 and NUL bytes are replaced before tokenizing. None of
    these touches the other texts of a batch.

    Args:
        model: a `Transformer` (a copy in float32 serves if it computes in half precision).
        source_tokenizer, target_tokenizer: such as `text.SentencePieceTokenizer`; None: the same as the source's.
        num_beams: 1 is greedy search; the paper's is 4.
        length_penalty: a float is the alpha of GNMT's penalty; see `keras_transformer.generation`.
        max_source_length: tokens of a text that are read, the end token included.
        batch_size: texts translated at once by `__call__`, of like length.
        jit_compile: whether XLA compiles the search: several times as fast, after some seconds the first time for
            each of a few shapes, to which batch and source are padded.
        **kwargs: further keywords of `model.generate`: `max_length`, `num_return_sequences`, `do_sample`, `seed`,
            `processors`, and those that stand for one, such as `min_length` and `no_repeat_ngram_size`. They hold in
            the exported graph too. With a `seed` a new translator gives the same samples in the same calls.

    Example: see `examples/translation.py`.
    """

    def __init__(
        self,
        model,
        source_tokenizer,
        target_tokenizer=None,
        num_beams=4,
        length_penalty=0.6,
        max_source_length=256,
        batch_size=32,
        jit_compile=True,
        **kwargs,
    ):
        target_tokenizer = target_tokenizer or source_tokenizer
        target_size = model.target_vocabulary_size or model.vocabulary_size
        for name, tokenizer, size in (
            ("source_tokenizer", source_tokenizer, model.vocabulary_size),
            ("target_tokenizer", target_tokenizer, target_size),
        ):
            if not hasattr(tokenizer, "vocabulary_size"):
                raise ValueError(
                    f"`{name}` must be a tokenizer, such as `text.SentencePieceTokenizer`. Received: {tokenizer!r}"
                )
            if tokenizer.vocabulary_size > size:
                raise ValueError(
                    f"`{name}` has more tokens than the model has embeddings. "
                    f"Received: {tokenizer.vocabulary_size} tokens, {size} embeddings. Use the one it was trained with."
                )
            if tokenizer.end_token_id != model.end_token_id:
                raise ValueError(
                    f"`{name}` and the model must have one end token. Received: {tokenizer.end_token_id} of the "
                    f"tokenizer, {model.end_token_id} of the model. Give the model the tokenizer's special ids."
                )
        generation.check_keywords(kwargs, KEYWORDS)
        generation.check_options(num_beams=num_beams, **kwargs)
        if kwargs.get("suppress_tokens") is not None:
            generation.SuppressTokens(kwargs["suppress_tokens"]).check_vocabulary(target_size)
        check_count("batch_size", batch_size)
        if not isinstance(max_source_length, int) or max_source_length < 2:
            raise ValueError(
                "`max_source_length` must be an integer of at least 2, a token and the end token. "
                f"Received: max_source_length={max_source_length!r}"
            )
        check_reach("`max_source_length`", max_source_length, model.encoder_position_embedding)
        self.model = saved_model.in_dtype(model, "float32")
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer
        self.num_beams = num_beams
        self.length_penalty = penalties.get(length_penalty)
        self.max_source_length = max_source_length
        self.batch_size = batch_size
        self.search_options = {name: value for name, value in kwargs.items() if name != "seed"}
        self._seeds = keras.random.SeedGenerator(kwargs.get("seed")) if kwargs.get("do_sample") else None
        self.jit_compile = jit_compile
        self._graph = self._as_graph(self.model, jit_compile)

    def __call__(self, texts, verbose=0, batch_size=None):
        """The translations, a list of strings, of `texts`, a list of strings; see `translate_with_scores`."""
        return self.translate_with_scores(texts, verbose, batch_size)[0]

    def translate_with_scores(self, texts, verbose=0, batch_size=None):
        """Translations and their scores: log-probability over the length penalty, 0 for a text without a token.

        Args:
            texts: a list of strings.
            verbose: 1 shows a progress bar, 0 does not.
            batch_size: texts translated at once, of like length; None means that of the translator.

        Returns:
            A list of strings and a float32 array `(len(texts),)`, in the order of `texts`; with
            `num_return_sequences`, a list of lists of strings and an array `(len(texts), n)`.
        """
        encoded = clean(as_list(texts)).numpy().tolist()
        several = self.search_options.get("num_return_sequences")
        shape = (len(encoded),) if several is None else (len(encoded), several)
        translations, scores = np.full(shape, "", "object"), np.zeros(shape, "float32")
        batch_size = self.batch_size if batch_size is None else batch_size
        for rows in of_like_length(encoded, batch_size, verbose, unit_name="sentence"):
            result = self._graph(tf.constant([encoded[i] for i in rows]))
            translations[rows] = np.vectorize(_decode, "O")(result["translations"].numpy())
            scores[rows] = result["scores"].numpy()
        return translations.tolist(), scores

    def stream(self, text):
        """Greedy translation of one string, as an iterator over pieces of it, each as soon as it is known.

        Joined they are what a translator with `num_beams=1` returns. A character whose bytes are not all there is
        held back. Of the translator's keywords those for sampling and beams do not count here.
        """
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"`text` must be one string. Received: {text!r}. Call the translator with a list.")
        ids, blank = self._source_ids(clean([text]))
        return iter(()) if blank[0] else self._pieces(ids)

    def _pieces(self, source_ids):
        options = {
            name: value
            for name, value in self.search_options.items()
            if name not in ("do_sample", "num_return_sequences", *generation.keywords.SAMPLING)
        }
        ids, shown, text = [], "", ""
        for token in self.model.stream(source_ids, **options):
            ids.append(token)
            text = _decode(self.target_tokenizer.detokenize([ids]).numpy()[0])
            sure = text.rstrip("\ufffd")
            if len(sure) > len(shown) and sure.startswith(shown):
                yield sure[len(shown) :]
                shown = sure
        if text[len(shown) :]:
            yield text[len(shown) :]

    def _source_ids(self, texts):
        """Ids `(B, S)` of `texts` `(B,)`, cut, with the end token, padded; and which texts `(B,)` have no token."""
        pieces = self.source_tokenizer(texts)[:, : self.max_source_length - 1]
        ends = tf.fill([pieces.nrows(), 1], tf.constant(self.model.end_token_id, pieces.dtype))
        ids = tf.concat([pieces, ends], axis=1).to_tensor(self.model.pad_token_id or 0)
        return ids, pieces.row_lengths() == 0

    def _as_graph(self, model, jit_compile, kernels=None):
        search = model.compiled_search(
            jit_compile,
            kernels,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            **self.search_options,
        )
        return tf.function(
            lambda texts: self._translate(texts, search),
            input_signature=[tf.TensorSpec([None], tf.string, name="texts")],
            autograph=False,
        )

    def _translate(self, texts, search):
        """`texts` `(B,)` to `{"translations", "scores"}` `(B,)` or `(B, n)`, in the graph."""
        ids, blank = self._source_ids(texts)
        drawn = {}
        if self._seeds is not None:
            drawn["seed"] = keras.random.randint((), 0, 2**31 - 1, seed=self._seeds)
        found = search(ids, drawn)
        rows = tf.reshape(found.token_ids, [-1, tf.shape(found.token_ids)[-1]])
        translations = tf.reshape(self.target_tokenizer.detokenize(rows), tf.shape(found.scores))
        translations.set_shape(found.scores.shape)
        blank = tf.reshape(blank, [-1, *[1] * (len(found.scores.shape) - 1)])
        return {
            "translations": tf.where(blank, "", translations),
            "scores": tf.where(blank, 0.0, found.scores),
        }

    def export(self, path, overwrite=False, jit_compile=None, dtype="float32", quantize=None):
        """Writes a SavedModel: `serving_default` takes `texts` `[batch]`, returns `translations` and `scores`.

        It holds the weights and the vocabulary, and needs `tensorflow` and `tensorflow_text` (imported before
        loading), not this library. Its signatures are two: `without_xla` runs wherever TensorFlow does;
        `serving_default` is the same or, with `jit_compile`, compiled by XLA where it is called.

        Args:
            path: a directory that does not exist; it is there whole or not at all.
            overwrite: whether to replace a directory that exists.
            jit_compile: None means that of the translator.
            dtype: of weights and products: "float32", whatever the model was trained in, or "bfloat16" or "float16",
                half the size.
            quantize: None, or "int8": the kernels of the projections and the tables of embeddings in 8 bits (Keras's
                `quantize`), a quarter of the size.

        Returns:
            What was written, in one line: the path, its size, and whether `serving_default` needs XLA.
        """
        path = saved_model.check_new(path, overwrite)
        model = saved_model.to_be_exported(self.model, dtype, quantize)
        jit_compile = self.jit_compile if jit_compile is None else jit_compile
        kernels = model.stored_kernels()
        plain = self._as_graph(model, False, kernels)
        graph = self._as_graph(model, True, kernels) if jit_compile else plain
        seeds = [] if self._seeds is None else [self._seeds.state]
        saved_model.save(graph, [*model.variables, *kernels, *seeds], path, overwrite, without_xla=plain)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        way = "compiled by XLA, `without_xla` is not" if jit_compile else "a plain graph, without XLA"
        return f"{path}: {size / 1e6:.1f} MB, `serving_default` is {way}."


def _decode(text):
    return text.decode("utf-8", "replace")
