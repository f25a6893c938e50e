"""Strings to ids and back: what goes in is never a reason to crash, and an export carries its
vocabulary."""

import builtins
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from keras_transformer.text import SentencePieceTokenizer, clean, learn_vocabulary, strings

TEXTS = [
    "the cat sat on the mat",
    "a dog ran to the house",
    "the house of the cat",
    "öl und wärme",
] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return learn_vocabulary(TEXTS, tmp_path_factory.mktemp("vocabulary") / "bpe.model", 60)


def test_special_ids_and_size(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)
    assert (tokenizer.start_token_id, tokenizer.end_token_id) == (2, 3)
    assert tokenizer.vocabulary_size == 60
    assert tokenizer.pieces([0, 1, 2, 3]) == ["<pad>", "<unk>", "<s>", "</s>"]


def test_there_and_back(tokenizer):
    ids = tokenizer(TEXTS[:4])
    assert isinstance(ids, tf.RaggedTensor) and ids.dtype == tf.int32 and ids.shape.as_list() == [4, None]
    assert not np.isin(ids.flat_values, [0, 1, 2, 3]).any()
    assert [text.decode() for text in tokenizer.detokenize(ids).numpy()] == TEXTS[:4]
    assert "".join(tokenizer.pieces(ids[0])).replace("▁", " ").strip() == TEXTS[0]


def test_equals_sentencepiece(tokenizer):
    reference = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.proto)
    texts = ["the cat", "zebra", "", "  two  spaces "]
    assert tokenizer(texts).to_list() == reference.encode(texts)


def test_special_ids_are_not_written(tokenizer):
    cat = tokenizer(["the cat"]).to_list()[0]
    dense = [[2, *cat, 3, 0, 0], [2, 3] + [0] * (len(cat) + 2)]
    for ids in (dense, np.array(dense, "int64"), tf.constant(dense), tf.ragged.constant(dense)):
        assert tokenizer.detokenize(ids).numpy().tolist() == [b"the cat", b""]
    assert tokenizer.detokenize([[2, *cat], [], [3]]).numpy().tolist() == [b"the cat", b"", b""]


def test_unknown_ids_are_kept_and_foreign_ids_are_unknown(tokenizer):
    cat = tokenizer(["cat"]).to_list()[0]
    unknown, foreign = tokenizer.detokenize([[*cat, 1], [*cat, 60]]).numpy().tolist()
    assert unknown == foreign == "cat ⁇ ".encode()
    assert tokenizer.detokenize([[-1]]).numpy()[0] == " ⁇ ".encode()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (b"a\xffb", "a\ufffdb"),
        (b"a\x00b\tc\nd\x7f", "a b c d "),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\u0085b", "a b"),
        ("a\u200db", "a\u200db"),
        ("", ""),
    ],
)
def test_clean(tokenizer, text, cleaned):
    assert clean([text]).numpy()[0].decode() == cleaned
    assert tokenizer([text]).to_list() == tokenizer([cleaned]).to_list()


@pytest.mark.parametrize("texts", [[], tf.constant([], tf.string)])
def test_empty_batch(tokenizer, texts):
    assert tokenizer(texts).to_list() == []
    assert tokenizer.detokenize(tokenizer(texts)).shape == [0]


def test_in_function_and_in_dataset(tokenizer):
    signature = tf.TensorSpec([None], tf.string)
    back = tf.function(lambda texts: tokenizer.detokenize(tokenizer(texts)), input_signature=[signature])
    assert back(tf.constant(TEXTS[:2])).numpy().tolist() == [text.encode() for text in TEXTS[:2]]
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS).batch(4).map(tokenizer)
    assert [ids.to_list() for ids in dataset.take(1)] == [tokenizer(TEXTS[:4]).to_list()]


def test_save_and_read(tokenizer, tmp_path):
    path = tmp_path / "copy.model"
    tokenizer.save(path)
    again = SentencePieceTokenizer(path)
    assert again.proto == tokenizer.proto == SentencePieceTokenizer(tokenizer.proto).proto
    assert [file.name for file in tmp_path.iterdir()] == ["copy.model"]


def test_failed_save_keeps_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "a.model"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(strings.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        tokenizer.save(path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.integration
def test_saved_model_in_a_fresh_process(tmp_path):
    tokenizer = learn_vocabulary(TEXTS, tmp_path / "source" / "bpe.model", 60)
    module = tf.Module()
    module.tokenizer = SentencePieceTokenizer(tmp_path / "source" / "bpe.model")
    signature = tf.TensorSpec([None], tf.string)
    module.ids = tf.function(lambda texts: module.tokenizer(texts).to_tensor(), input_signature=[signature])
    module.back = tf.function(
        lambda texts: module.tokenizer.detokenize(module.tokenizer(texts)),
        input_signature=[signature],
    )
    tf.saved_model.save(module, str(tmp_path / "saved"))
    shutil.rmtree(tmp_path / "source")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    script = (
        "import sys, tensorflow as tf, tensorflow_text\n"
        "module = tf.saved_model.load(sys.argv[1])\n"
        "texts = tf.constant(['the cat', 'zebra', b'bad \\xff', ''])\n"
        "print(module.ids(texts).numpy().tolist(), module.back(texts).numpy().tolist())\n"
        "assert not any(name.startswith('keras_transformer') for name in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "moved")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    texts = tf.constant(["the cat", "zebra", b"bad \xff", ""])
    ids = tokenizer(texts)
    expected = f"{ids.to_tensor().numpy().tolist()} {tokenizer.detokenize(ids).numpy().tolist()}"
    assert done.stdout.strip() == expected, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("the cat", "received a single str: put it in a list"),
        (["a", None], "received NoneType at index 1"),
        (tf.constant("the cat"), r"received string of the shape \(\)"),
        (tf.constant([1]), r"received int32 of the shape \(1,\)"),
    ],
)
def test_wrong_texts(tokenizer, texts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        tokenizer(texts)


@pytest.mark.parametrize("ids", [tf.constant([4, 5]), tf.constant([[0.5]])])
def test_wrong_ids(tokenizer, ids):
    with pytest.raises(ValueError, match=f"ids must be integers .* received {ids.dtype.name}"):
        tokenizer.detokenize(ids)


def test_not_a_model(tmp_path):
    with pytest.raises(ValueError, match="received 7 bytes that are not one"):
        SentencePieceTokenizer(b"garbage")
    with pytest.raises(ValueError, match="received '.*absent', which is not a file"):
        SentencePieceTokenizer(tmp_path / "absent")


def test_model_without_special_tokens(tmp_path):
    prefix = str(tmp_path / "bare")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=prefix,
        vocab_size=40,
        model_type="bpe",
        bos_id=-1,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="must have a pad token.* pass pad_token_id"):
        SentencePieceTokenizer(prefix + ".model")
    tokenizer = SentencePieceTokenizer(prefix + ".model", pad_token_id=0, start_token_id=0)
    assert (tokenizer.pad_token_id, tokenizer.start_token_id, tokenizer.end_token_id) == (0, 0, 2)
    with pytest.raises(ValueError, match=r"pad_token_id must be in \[0, 40\).*received 40"):
        SentencePieceTokenizer(prefix + ".model", pad_token_id=40)


@pytest.mark.parametrize("kind", ["generator", "bytes", "strings", "pairs"])
def test_learn_from_any_stream(tmp_path, kind):
    texts = {
        "generator": (text for text in TEXTS),
        "bytes": [text.encode() for text in TEXTS],
        "strings": tf.data.Dataset.from_tensor_slices(TEXTS),
        "pairs": tf.data.Dataset.from_tensor_slices((TEXTS[::2], TEXTS[1::2])),
    }[kind]
    learned = learn_vocabulary(texts, tmp_path / "new" / "a.model", 60)
    assert (tmp_path / "new" / "a.model").read_bytes() == learned.proto
    assert learned(["the"]).to_list()[0] and 1 not in learned(["wärme house"]).flat_values


def test_learning_is_reproducible(tmp_path):
    once, again = (
        learn_vocabulary(TEXTS * 20, tmp_path / "a", 40, input_sentence_size=150, seed=3).proto for _ in range(2)
    )
    assert once == again


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "char", "word"])
def test_vocabulary_too_large(tmp_path, model_type, capfd):
    with pytest.raises(ValueError, match=r"received 5000: the largest possible size is (\d+);") as caught:
        learn_vocabulary(TEXTS, tmp_path / "a", 5000, model_type)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""
    largest = int(str(caught.value).split("size is ")[1].split(";")[0])
    assert learn_vocabulary(TEXTS, tmp_path / "a", largest, model_type).vocabulary_size == largest


def test_vocabulary_too_small(tmp_path):
    with pytest.raises(ValueError, match="received 6: the smallest possible size is"):
        learn_vocabulary(TEXTS, tmp_path / "a", 6)
    with pytest.raises(ValueError, match="at least 4, .*received 3"):
        learn_vocabulary(TEXTS, tmp_path / "a", 3)


@pytest.mark.parametrize("texts", [[], ["", "  "], tf.data.Dataset.from_tensor_slices([""])])
def test_empty_corpus(tmp_path, texts):
    with pytest.raises(ValueError, match="at least one text .*received 0 texts"):
        learn_vocabulary(texts, tmp_path / "a", 50)


def test_learn_refuses(tmp_path):
    with pytest.raises(ValueError, match="one of bpe, unigram, char, word, received 'wordpiece'"):
        learn_vocabulary(TEXTS, tmp_path / "a", 50, "wordpiece")
    with pytest.raises(ValueError, match="received the directory"):
        learn_vocabulary(TEXTS, tmp_path, 50)
    with pytest.raises(ValueError, match="more than 100, received 100"):
        learn_vocabulary(TEXTS, tmp_path / "a", 50, input_sentence_size=100)
    with pytest.raises(TypeError, match="received a single str"):
        learn_vocabulary("the cat", tmp_path / "a", 50)
    with pytest.raises(TypeError, match="received int at index 1"):
        learn_vocabulary(["the cat", 5], tmp_path / "a", 50)


@pytest.mark.parametrize(
    ("package", "error", "message"),
    [
        (
            "sentencepiece",
            ModuleNotFoundError("x"),
            r'sentencepiece is not .*pip install "keras-transformer-layers\[text',
        ),
        (
            "tensorflow_text",
            ModuleNotFoundError("x"),
            r'tensorflow-text is not .*pip install "keras-transformer-layers',
        ),
        (
            "tensorflow_text",
            tf.errors.NotFoundError(None, None, "undefined symbol"),
            r'"tensorflow-text==2\.\d+\.\*"',
        ),
    ],
)
def test_missing_package(tokenizer, monkeypatch, package, error, message):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == package:
            raise error
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=message):
        SentencePieceTokenizer(tokenizer.proto)
