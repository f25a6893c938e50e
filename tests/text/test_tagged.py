"""Files of words and labels: what is read, and what is refused with its file and line."""

import gzip
from pathlib import Path

import pytest

from keras_transformer.text import read_conll2003, read_conllu, tagged_dataset

EWT = Path(__file__).parents[3] / "shared" / "data" / "ud_ewt" / "en_ewt-ud-dev.conllu.gz"


def row(index, word, upos, xpos="X"):
    return "\t".join([str(index), word, word.lower(), upos, xpos, "_", "0", "root", "_", "_"])


CONLLU = "\n".join(
    [
        "# sent_id = 1",
        "# text = Don't go to New York",
        row("1-2", "Don't", "_", "_"),
        row(1, "Do", "AUX", "VB"),
        row(2, "n't", "PART", "RB"),
        row(3, "go", "VERB", "VB"),
        row("3.1", "away", "_", "_"),
        row(4, "to", "ADP", "IN"),
        row(5, "New York", "PROPN", "NNP"),
        "",
        "",
        "# sent_id = 2",
        row(1, "Ok\u2028ay", "INTJ", "UH"),
    ]
)
COLUMNS = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nPeter\tNNP\tB-NP\tB-PER\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_conllu(tmp_path, ending, mark):
    path = write(tmp_path / "a.conllu", mark + CONLLU + ending)
    words = [("Do", "n't", "go", "to", "New York"), ("Ok\u2028ay",)]
    assert read_conllu(path) == [*zip(words, [("AUX", "PART", "VERB", "ADP", "PROPN"), ("INTJ",)])]
    assert read_conllu(path, "xpos")[0].labels == ("VB", "RB", "VB", "IN", "NNP")
    zipped = write(tmp_path / "b.conllu.gz", gzip.compress((CONLLU + ending).replace("\n", "\r\n").encode()))
    assert read_conllu(zipped) == read_conllu(path)


def test_columns(tmp_path):
    path = write(tmp_path / "a.txt", COLUMNS)
    assert read_conll2003(path) == [(("EU", "rejects"), ("B-ORG", "O")), (("Peter",), ("B-PER",))]
    assert [s.labels for s in read_conll2003(path, "xpos")] == [("NNP", "VBZ"), ("NNP",)]
    assert [s.labels for s in read_conll2003(path, "chunk")] == [("B-NP", "B-VP"), ("B-NP",)]
    two = write(tmp_path / "b.txt", "a O\nb B-X\n")
    assert read_conll2003(two) == [(("a", "b"), ("O", "B-X"))]


BROKEN = [
    (read_conllu, CONLLU.replace("\tADP\t", "\t"), {}, "line 8, has 9 columns, separated by tabs, and not 10: '4"),
    (
        read_conllu,
        CONLLU.replace("\n4\t", "\n7\t"),
        {},
        "line 8, has the id '7' where word 4 of a sentence is expected",
    ),
    (read_conllu, CONLLU.replace("\nx", "").replace("ADP", "_"), {}, "line 8, has no upos"),
    (read_conllu, CONLLU.replace("4\tto", "4\t"), {}, "line 8, has an empty word"),
    (
        read_conllu,
        CONLLU,
        {"labels": ["AUX", "PART", "VERB", "PROPN", "INTJ"]},
        "line 8, has the upos 'ADP', which is none of",
    ),
    (read_conll2003, COLUMNS.replace("VBZ B-VP", "VBZ"), {}, "line 4, has 3 columns, and not 4 as those before it"),
    (read_conll2003, COLUMNS.replace("rejects VBZ B-VP O", "rejects"), {}, "line 4, has 1 columns, and not at least 2"),
    (read_conll2003, COLUMNS, {"labels": ["B-ORG", "B-PER"]}, "line 4, has the ner 'O', which is none of the 2 labels"),
]


@pytest.mark.parametrize("reader, content, options, message", BROKEN, ids=[case[3][:20] for case in BROKEN])
def test_a_malformed_line_is_one_line_of_error_or_costs_its_sentence(tmp_path, reader, content, options, message):
    path = write(tmp_path / "data", content)
    with pytest.raises(ValueError, match=f"data, {message}") as caught:
        reader(path, **options)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=f"data, {message}.*The sentence is left out"):
        kept = reader(path, **options, errors="skip")
    assert len(kept) == 1 and kept[0].words in (("Ok\u2028ay",), ("Peter",))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"column": "feats"}, "received 'feats': read_conll2003"),
        ({"column": "ner"}, "received 'ner': read_conll2003 reads named entities"),
        ({"errors": "ignore"}, "received 'ignore'"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        read_conllu(write(tmp_path / "a", CONLLU), **options)


@pytest.mark.parametrize(
    "content, message", [(b"\n\n", "which has none"), (b"1\t\xff\n", "the byte 0xff in .*line 1"), (b"", "empty")]
)
def test_files_without_a_sentence_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_conllu(write(tmp_path / "a", content))


def test_a_dataset_of_sentences(tmp_path):
    sentences = read_conllu(write(tmp_path / "a", CONLLU))
    found = [(w.tolist(), x.tolist()) for w, x in tagged_dataset(sentences).as_numpy_iterator()]
    assert found == [([w.encode() for w in words], [x.encode() for x in labels]) for words, labels in sentences]
    with pytest.raises(ValueError, match="received none"):
        tagged_dataset([((), ())])


@pytest.mark.skipif(not EWT.exists(), reason="English-EWT is not in ../shared")
def test_english_ewt():
    sentences = read_conllu(EWT)
    assert (len(sentences), sum(len(s.words) for s in sentences)) == (2001, 25_147)
    assert len({label for s in sentences for label in s.labels}) == 17
