"""WordPiece in the graph gives the ids and offsets of the original, character by character."""

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from strange_texts import different, special_cases, strange_texts

from keras_transformer.text import WordPieceTokenizer
from keras_transformer.text.characters import bert_kinds, bert_normalization, bert_words

TEXTS = [
    "the cat sat on the mat",
    "a dog ran to the house of the cat",
    "öl und wärme, Straßen und Häuser!",
    "Ünïcödé cafés: naïve résumés?",
    "中文 and 한국어 text",
] * 4


def original(tokenizer, **normalizer):
    """The same vocabulary in the package `tokenizers`."""
    peer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {token: index for index, token in enumerate(tokenizer.vocabulary)},
            unk_token="[UNK]",
            max_input_chars_per_word=tokenizer.max_word_length,
        )
    )
    peer.normalizer = tokenizers.normalizers.BertNormalizer(
        handle_chinese_chars=tokenizer.split_on_cjk,
        strip_accents=tokenizer.strip_accents,
        lowercase=tokenizer.lowercase,
    )
    peer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return peer


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train(TEXTS, 120, lowercase=True)


def test_special_ids_come_first(tokenizer):
    assert tokenizer.vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "start", "end", "mask")]
    assert ids == [0, 1, 2, 3, 4] and tokenizer.vocabulary_size == len(tokenizer.vocabulary) == 120


@pytest.mark.parametrize("last", [0x3000, pytest.param(0x110000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
@pytest.mark.parametrize("split_on_cjk", [True, False])
def test_words_of_every_code_point(last, lowercase, strip_accents, split_on_cjk):
    """Each character of Unicode between two letters: the words are those of the original."""
    texts = [f"a{chr(code)}b" for code in range(last) if not 0xD800 <= code < 0xE000]
    words = bert_words(tf.constant(texts), bert_normalization(lowercase, strip_accents), bert_kinds(split_on_cjk))
    ours = tf.strings.unicode_encode(words.codes, "UTF-8").numpy()
    normalizer = tokenizers.normalizers.BertNormalizer(
        handle_chinese_chars=split_on_cjk, strip_accents=strip_accents, lowercase=lowercase
    )
    normalized = normalizer.normalize_str(" ".join(texts).replace("a\x00b", "ab"))
    theirs = [word for word, _ in tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalized)]
    assert len(ours) == len(theirs) and different(theirs, [word.decode() for word in ours], theirs) == []


@pytest.mark.parametrize(
    "options",
    [
        {"lowercase": True},
        {"lowercase": False},
        {"lowercase": True, "strip_accents": False},
        {"lowercase": False, "strip_accents": True, "split_on_cjk": False},
        {"lowercase": True, "max_word_length": 7},
    ],
)
def test_ids_and_offsets_equal_the_original(tokenizer, options):
    ours = WordPieceTokenizer(tokenizer.vocabulary, **options)
    texts = [*strange_texts(600, 3, TEXTS), *special_cases()]
    encoded = original(ours).encode_batch(texts, add_special_tokens=False)
    ids, starts, ends = ours.tokenize_with_offsets(texts)
    assert ids.dtype == starts.dtype == ends.dtype == tf.int32
    assert different(texts, ids.to_list(), [found.ids for found in encoded]) == []
    assert different(texts, ours(texts).to_list(), ids.to_list()) == []
    offsets = [list(zip(*pair)) for pair in zip(starts.to_list(), ends.to_list())]
    assert different(texts, offsets, [found.offsets for found in encoded]) == []
    assert 0.1 < np.mean(ids.values.numpy() != ours.unk_token_id) < 1


def test_bytes_that_are_not_utf8(tokenizer):
    texts = [b"the \xff cat", b"\xe2\x82", b"c\x00at", b"\xed\xa0\x80 mat", "ca\ud800t"]
    readable = ["the \ufffd cat", "\ufffd", "c\x00at", "\ufffd\ufffd\ufffd mat", "ca\ufffdt"]
    assert tokenizer(texts).to_list() == tokenizer(readable).to_list()


def test_there_and_back(tokenizer):
    ids = tokenizer(TEXTS[:2])
    assert tokenizer.detokenize(ids).numpy().tolist() == [text.encode() for text in TEXTS[:2]]
    row = ids.to_list()[0]
    assert tokenizer.detokenize([[2, *row, 3, 0], [1, 120, -1], []]).numpy().tolist() == [
        TEXTS[0].encode(),
        b"[UNK] [UNK] [UNK]",
        b"",
    ]
    assert tokenizer.pieces([2, 4, 0]) == ["[CLS]", "[MASK]", "[PAD]"]


def test_words_given_as_words(tokenizer):
    words = tf.ragged.constant([["the", "house"], [], ["Wärme!"]])
    pieces = tf.RaggedTensor.from_row_splits(tokenizer(words.values), words.row_splits)
    assert pieces.merge_dims(1, 2).to_list() == tokenizer(["the house", "", "Wärme!"]).to_list()


@pytest.mark.parametrize("texts", [[], tf.constant([], tf.string)])
def test_empty_batch(tokenizer, texts):
    assert [found.to_list() for found in tokenizer.tokenize_with_offsets(texts)] == [[], [], []]
    assert tokenizer.detokenize(tokenizer(texts)).shape == [0]


def test_in_a_saved_model(tokenizer, tmp_path):
    module = tf.Module()
    module.tokenizer = tokenizer
    module.ids = tf.function(lambda texts: tokenizer.tokenize_with_offsets(texts), [tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for again, before in zip(loaded.ids(tf.constant(TEXTS)), tokenizer.tokenize_with_offsets(TEXTS)):
        assert again.to_list() == before.to_list()


def test_save_and_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "vocab.txt")
    again = WordPieceTokenizer(tmp_path / "vocab.txt", lowercase=True)
    assert again.vocabulary == tokenizer.vocabulary and again(TEXTS).to_list() == tokenizer(TEXTS).to_list()


def test_train_says_what_it_cannot_do(tokenizer):
    with pytest.raises(ValueError, match=r"received 5000: the largest possible size is \d+"):
        WordPieceTokenizer.train(TEXTS, 5000)
    with pytest.raises(ValueError, match=r"received 6: the smallest possible size is \d+"):
        WordPieceTokenizer.train(TEXTS, 6)
    with pytest.raises(ValueError, match="at least one text .*received none"):
        WordPieceTokenizer.train(["", " "], 50)
    with pytest.raises(TypeError, match="received int at index 1"):
        WordPieceTokenizer.train(["the cat", 5], 50)
    assert WordPieceTokenizer.train(iter(TEXTS), 120, lowercase=True).vocabulary == tokenizer.vocabulary


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        (["[PAD]", "a", "a"], {}, "received 'a' at 1 and 2"),
        (["[PAD]", ""], {}, "received '' at index 1"),
        (["[PAD]", "[CLS]", "[SEP]", "[MASK]"], {}, r"oov_token must be in the vocabulary, received '\[UNK\]'"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], {}, r"mask_token .* received '\[MASK\]': .*, or None"),
        ("no/such/file", {}, "received 'no/such/file', which is not a file"),
    ],
)
def test_wrong_vocabulary(vocabulary, options, message):
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer(vocabulary, **options)
