"""Byte-level BPE in the graph gives the ids of the original."""

import pytest
import tensorflow as tf
import tokenizers
from strange_texts import different, special_cases, strange_texts

from keras_transformer.text import AddedToken, BytePairTokenizer
from keras_transformer.text.byte_pair import byte_characters

TEXTS = ["the cat sat on the mat", "a dog ran to the house, didn't it?", "Öl und Wärme 123", "中文 text"] * 4
END, MASK = "<|endoftext|>", "<mask>"


def original(add_prefix_space=False, size=400):
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END, MASK],
        show_progress=False,
    )
    learner.train_from_iterator(TEXTS, trainer)
    learner.add_special_tokens(
        [tokenizers.AddedToken(END, normalized=False), tokenizers.AddedToken(MASK, lstrip=True, normalized=False)]
    )
    return learner


def ours_of(peer, folder, **options):
    peer.model.save(str(folder))
    return BytePairTokenizer(
        folder / "vocab.json",
        folder / "merges.txt",
        end_token=END,
        mask_token=MASK,
        added_tokens=[AddedToken(END, 0), AddedToken(MASK, 1, lstrip=True)],
        **options,
    )


@pytest.fixture(scope="module")
def peer():
    return original()


@pytest.fixture(scope="module")
def tokenizer(peer, tmp_path_factory):
    return ours_of(peer, tmp_path_factory.mktemp("bpe"))


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_ids_equal_the_original(tmp_path, add_prefix_space):
    peer = original(add_prefix_space)
    ours = ours_of(peer, tmp_path, add_prefix_space=add_prefix_space)
    special = [END, MASK, f" {MASK}", f"\u3000{MASK} ", "<|endof"]
    texts = [*strange_texts(600, 7, TEXTS, special), *special_cases(), f"{TEXTS[0]} {MASK}{END}{END} a", MASK, END]
    theirs = [found.ids for found in peer.encode_batch(texts)]
    assert different(texts, ours(texts).to_list(), theirs) == []
    assert max(map(max, filter(None, theirs))) > 300  # merged pieces


@pytest.mark.parametrize("last", [0x3000, pytest.param(0x110000, marks=pytest.mark.slow)])
def test_words_of_every_code_point(peer, tokenizer, last):
    texts = [f"a{chr(code)}1 {chr(code)}{chr(code)}" for code in range(last) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(texts), 100_000):
        some = texts[start : start + 100_000]
        assert different(some, tokenizer(some).to_list(), [found.ids for found in peer.encode_batch(some)]) == []


def test_a_pair_that_comes_about_late_and_ranks_early():
    """ "abc" is made in two ways and its next pair ranks between them: one pair after the other, as the original."""
    tokens = [*byte_characters(), "ab", "bc", "abc", "abcd", "cd", "abcda"]
    ids = {token: index for index, token in enumerate(tokens)}
    merges = ["b c", "a bc", "abc d", "c d", "a b", "ab c", "abcd a"]
    peer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [tuple(merge.split()) for merge in merges]))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["abcd", "abcdabcd", "aabcdabcbcdcd", "abababcdcdcd", "bcabcdaabcda"]
    for order in (merges, merges[::-1], [*merges[3:], *merges[:3]]):
        peer.model = tokenizers.models.BPE(ids, [tuple(merge.split()) for merge in order])
        assert BytePairTokenizer(ids, order)(texts).to_list() == [found.ids for found in peer.encode_batch(texts)]


def test_there_and_back(peer, tokenizer):
    texts = [*strange_texts(50, 11, TEXTS), *TEXTS]
    back = tokenizer.detokenize(tokenizer(texts)).numpy()
    assert [text.decode() for text in back] == texts
    row = tokenizer(["cat é"]).to_list()[0]
    assert tokenizer.detokenize([[*row[:-1], 0, 400, -1]]).numpy()[0].decode() == "cat \ufffd"
    assert tokenizer.pieces([0, 1]) == [END, MASK]
    assert (tokenizer.end_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id) == (0, 1, None)


def test_bytes_that_are_not_utf8(tokenizer):
    texts = [b"the \xff cat", b"\xe2\x82", "ca\ud800t"]
    assert tokenizer(texts).to_list() == tokenizer(["the \ufffd cat", "\ufffd", "ca\ufffdt"]).to_list()


def test_empty_batch(tokenizer):
    assert tokenizer([]).to_list() == [] and tokenizer.detokenize(tokenizer([])).shape == [0]


def test_in_a_saved_model(tokenizer, tmp_path):
    module = tf.Module()
    module.tokenizer = tokenizer
    signature = [tf.TensorSpec([None], tf.string)]
    module.back = tf.function(lambda texts: tokenizer.detokenize(tokenizer(texts)), signature)
    tf.saved_model.save(module, str(tmp_path))
    back = tf.saved_model.load(str(tmp_path)).back(tf.constant(TEXTS))
    assert [text.decode() for text in back.numpy()] == TEXTS


def test_save_and_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a.json", tmp_path / "a.txt")
    again = BytePairTokenizer(tmp_path / "a.json", tmp_path / "a.txt")
    assert again(TEXTS).to_list() == tokenizer(TEXTS).to_list()


@pytest.mark.parametrize(
    ("vocabulary", "merges", "options", "message"),
    [
        ({"a": 0}, [], {}, "for each of the 256 bytes, received none for"),
        (None, ["a b"], {}, r"received 'a b' of rank 0, without \['ab'\]"),
        (None, ["ab"], {}, "received 'ab' of rank 0"),
        (None, [], {"pad_token": "<pad>"}, "pad_token must be in the vocabulary, received '<pad>'"),
        (None, [], {"added_tokens": [AddedToken("a", 1), AddedToken("a", 2)]}, r"received \['a', 'a'\]"),
    ],
)
def test_wrong_files(vocabulary, merges, options, message):
    vocabulary = vocabulary or {token: index for index, token in enumerate(byte_characters())}
    with pytest.raises(ValueError, match=message):
        BytePairTokenizer(vocabulary, merges, **options)
