"""The tagger in Python, exported, moved, and in a process that does not have this library."""

import json
import random
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")

from keras_transformer import layers, models, tasks, text  # noqa: E402

pytestmark = pytest.mark.integration

SYLLABLES = ["ba", "do", "Ki", "lu", "ne", "po", "ra", "si", "Tu", "ze"]
LABELS = ["O", "B-X", "I-X", "B-Y", "I-Y"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SYLLABLES, *(f"##{s.lower()}" for s in SYLLABLES), "."]

FRESH_PROCESS = """
import json, sys
sys.modules["keras_transformer"] = None  # importing it fails
import tensorflow as tf
import tensorflow_text
path, source = sys.argv[1:]
serve = tf.saved_model.load(path).signatures["serving_default"]
texts = [bytes(x) for x in json.load(open(source))]
found = serve(texts=tf.constant(texts, tf.string, shape=[len(texts)]))
assert serve(texts=tf.constant([], tf.string))["labels"].shape == [0, 0]
arrays = {name: x.numpy() for name, x in found.items()}
decoded = lambda x: [[s.decode() for s in row] for row in x]
for name in ("words", "labels"):
    arrays[name] = decoded(arrays[name])
print(json.dumps({n: x if isinstance(x, list) else x.tolist() for n, x in arrays.items()}))
"""

GARBAGE = [
    b"",
    b" \t\n ",
    b"ba",
    "\U0001f355 \U0001f469‍\U0001f680 ba".encode(),
    b"\xff\xfe\x80 ba do",
    b"ba\x00do ki",
    b"ba do " * 2500,
    b"x" * 10_000,
    "ba 世界".encode(),
]


def sentences(count, seed=0):
    draw = random.Random(seed)

    def word():
        return "".join(draw.choices(SYLLABLES, k=draw.randint(1, 4)))

    return [" ".join(word() for _ in range(draw.randint(1, 9))) + "." for _ in range(count)]


def make_model(crf=False, **kwargs):
    """An untrained model: its answers are nonsense, and as sensitive to every input as any."""
    keras.utils.set_random_seed(3)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32, "num_segments": 2}
    encoder = models.Encoder(len(VOCABULARY), **sizes, **kwargs)
    for weight in encoder.weights:  # BERT's first weights are so small that all words look alike
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape) * 0.5)
    model = models.TokenClassifier(encoder, len(LABELS))
    model.output_dense.kernel.assign(np.random.default_rng(4).normal(size=(16, len(LABELS))))
    if crf:
        model = models.CRFTagger(model, len(LABELS), layers.allowed_transitions(LABELS))
        model.crf.transitions.assign(np.random.default_rng(5).normal(size=(len(LABELS), len(LABELS))))
    return model


def make_tagger(crf=False, tokenizer=None, **kwargs):
    tokenizer = tokenizer or text.WordPieceTokenizer(VOCABULARY)
    return tasks.Tagger(
        make_model(crf), tokenizer, LABELS, **{"max_length": 32, "overlap": 8, "batch_size": 7, **kwargs}
    )


def assert_alike(ours, theirs):
    """Scores but for rounding, which is another in batches of other shapes."""
    assert [w._replace(score=0) for w in ours] == [w._replace(score=0) for w in theirs]
    np.testing.assert_allclose([w.score for w in ours], [w.score for w in theirs], rtol=1e-4)


@pytest.fixture(scope="module")
def tagger():
    return make_tagger()


def test_words_labels_scores_and_places(tagger):
    texts = ["  Tudo lu(ba).  ", "ba"]
    found = tagger.tag_with_offsets(texts)
    assert [[text_[w.start : w.end] for w in words] for text_, words in zip(texts, found)] == [
        ["Tudo", "lu", "(", "ba", ")", "."],
        ["ba"],
    ]
    assert [[w.word for w in words] for words in found] == [["Tudo", "lu", "(", "ba", ")", "."], ["ba"]]
    assert all(w.label in LABELS and 1 / len(LABELS) <= w.score <= 1 for words in found for w in words)
    assert tagger(texts) == [[(w.word, w.label, w.score) for w in words] for words in found]


@pytest.mark.parametrize("label_on", ["first", "all"])
def test_labels_are_those_of_the_model(label_on):
    """By hand, for one sentence in one window: the first piece's, or the mean over the pieces."""
    tagger = make_tagger(label_on=label_on, segment_capitals=True)
    pieces = [["Tu", "##do", "##lu"], ["ba"], ["[UNK]"], ["Ki", "##ra"]]
    ids = [VOCABULARY.index(piece) for word in pieces for piece in word]
    segments = [0, 1, 1, 1, 0, 0, 1, 1, 0]
    inputs = {"token_ids": np.array([[2, *ids, 3]]), "segment_ids": np.array([segments])}
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(tagger.model(inputs)))[0, 1:-1]
    starts = np.cumsum([0, *map(len, pieces)])
    if label_on == "first":
        spans = [probabilities[a : a + 1] for a in starts[:-1]]
    else:
        spans = np.split(probabilities, starts[1:-1])
    expected = np.array([span.mean(axis=0) for span in spans])
    (found,) = tagger([["Tudolu", "ba", "\u200d", "Kira"]])
    assert [label for _, label, _ in found] == [LABELS[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose([score for *_, score in found], expected.max(axis=1), rtol=1e-5)
    assert len({score for *_, score in found}) == len(pieces)


def test_lists_of_words_are_tagged_as_the_same_words_in_a_text(tagger):
    texts = [s.removesuffix(".") for s in sentences(9, seed=1)]
    for ours, theirs in zip(tagger.tag_with_offsets([t.split() for t in texts]), tagger.tag_with_offsets(texts)):
        assert_alike(ours, theirs)
    assert tagger([[], ["ba do"], [""]])[1][0][0] == "ba do"


@pytest.mark.parametrize("crf", [pytest.param(False, marks=pytest.mark.slow), True])
def test_export_equals_python_in_a_fresh_process(tmp_path, crf):
    tagger = make_tagger(crf)
    texts = [s.encode() for s in sentences(500, seed=9)] + GARBAGE
    expected = tagger.tag_with_offsets(texts)
    tagger.export(tmp_path / "first")
    shutil.move(tmp_path / "first", tmp_path / "second")
    (tmp_path / "texts.json").write_text(json.dumps([list(t) for t in texts]))
    finished = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, tmp_path / "second", tmp_path / "texts.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    served = json.loads(finished.stdout.splitlines()[-1])
    assert served["lengths"] == [len(words) for words in expected]
    for row, words in enumerate(expected):
        for name, values in zip(("words", "labels", "scores", "starts", "ends"), zip(*words)):
            theirs = served[name][row][: len(words)]
            if name == "scores":  # other batch shapes round otherwise
                np.testing.assert_allclose(theirs, values, rtol=1e-4)
            else:
                assert theirs == list(values)
    if crf:
        assert all(tagged.label not in ("I-X", "I-Y") for words in expected for tagged in words[:1])


def test_inputs_of_all_kinds_have_the_answers_stated(tagger):
    good = sentences(5, seed=5)
    alone = tagger.tag_with_offsets(good)
    mixed = [*good[:3], *GARBAGE, *good[3:]]
    together = tagger.tag_with_offsets(mixed)
    for ours, theirs in zip(alone, together[:3] + together[-2:]):
        assert_alike(ours, theirs)
    found = dict(zip(GARBAGE, together[3:]))
    assert found[b""] == found[b" \t\n "] == []
    assert len(found[b"ba"]) == 1
    assert [w.word for w in found[GARBAGE[3]]] == ["\U0001f355", "\U0001f469‍\U0001f680", "ba"]
    assert [(w.word, w.start, w.end) for w in found[GARBAGE[4]]][-2:] == [("ba", 4, 6), ("do", 7, 9)]
    assert [w.word for w in found[GARBAGE[5]]] == ["ba", "do", "ki"]
    assert len(found[GARBAGE[6]]) == 5000 and found[GARBAGE[6]][-1].end == 14_999
    assert tagger([]) == [] and tagger(["", " "]) == [[], []]


def test_windows_hide_nothing_that_is_near():
    """A model that sees three places to each side tags a long text in short windows as in one long one."""
    near = layers.MultiHeadAttention(2, 8, pattern=layers.patterns.SlidingWindow(4))
    model = make_model(attention=near, position=layers.RotaryEmbedding())
    tokenizer = text.WordPieceTokenizer(VOCABULARY)
    texts = [" ".join(sentences(count, seed=count)) for count in (1, 3, 20)]
    # The middle of what windows share is four pieces from the end of each.
    short, long = (
        tasks.Tagger(model, tokenizer, LABELS, max_length=n, overlap=8).tag_with_offsets(texts) for n in (19, 512)
    )
    assert max(map(len, long)) > 100
    for ours, theirs in zip(short, long):
        assert_alike(ours, theirs)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_model_serves_in_float32(dtype):
    model = make_model(crf=True, dtype=dtype)
    served = tasks.Tagger(model, text.WordPieceTokenizer(VOCABULARY), LABELS).model
    assert model.classifier.encoder.blocks[0].compute_dtype in dtype
    assert served.classifier.encoder.blocks[0].compute_dtype == served.compute_dtype == "float32"
    for ours, theirs in zip(served.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_words_as_features_and_a_model_of_ones_own(tmp_path):
    features = text.WordFeatures.learn([w for s in sentences(50) for w in s.split()])
    inputs = keras.Input((None, features.num_features), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(features.vocabulary_size, 8)(inputs)
    x = keras.layers.Reshape((-1, 8 * features.num_features))(x)
    mask = keras.ops.not_equal(inputs[:, :, 0], 0)
    x = layers.EncoderBlock(16, 2)(keras.layers.Dense(16)(x), padding_mask=mask)
    model = keras.Model({"token_ids": inputs}, keras.layers.Dense(len(LABELS))(x))
    tagger = tasks.Tagger(model, features, LABELS, max_length=16, overlap=4)
    texts = [*sentences(9, seed=7), *(t.decode("utf-8", "replace") for t in GARBAGE)]
    expected = tagger.tag_with_offsets(texts)
    tagger.export(tmp_path / "model")
    keras.utils.set_random_seed(1)  # makes TensorFlow drop what it made eagerly
    assert tagger.tag_with_offsets(texts) == expected
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](texts=tf.constant(texts))
    for row, words in enumerate(expected):
        labels = served["labels"][row, : len(words)].numpy().tolist()
        assert [label.decode() for label in labels] == [w.label for w in words]


def test_export_refuses_an_existing_path_and_leaves_it_alone(tagger, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="exists. Choose another path"):
        tagger.export(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_progress_bar_on_request(tagger, capsys):
    texts = sentences(9, seed=16)
    quiet = tagger(texts)
    assert capsys.readouterr().out == ""
    assert tagger(texts, verbose=1) == quiet
    assert "9/9" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, error, message",
    [
        ("ba do", ValueError, "Received a single string: 'ba do'"),
        (None, TypeError, "Received: None"),
        (["ba", None], TypeError, "received NoneType at index 1"),
        ([["ba"], "do"], TypeError, r"must be all strings or all lists of words. Received: \['ba'\] and 'do'"),
        ([["ba", 7]], TypeError, "received int at index 1"),
    ],
)
def test_what_is_no_text_is_refused(tagger, given, error, message):
    with pytest.raises(error, match=message):
        tagger(given)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"max_length": 4, "overlap": 2}, "max_length=4 and overlap=2"),
        ({"overlap": -1}, "overlap=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"label_on": "last"}, "received 'last'"),
        ({"label_on": "all", "crf": True}, "label_on='all'"),
    ],
)
def test_arguments_are_refused_when_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_tagger(**arguments)


@pytest.mark.parametrize(
    "labels, message",
    [
        (["O"], "1 labels for logits of 5 classes"),
        (["O", "O"], "received O more than once"),
        ("NOUN", "received 'NOUN'"),
    ],
)
def test_labels_that_are_not_the_models_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        tasks.Tagger(make_model(), text.WordPieceTokenizer(VOCABULARY), labels)
