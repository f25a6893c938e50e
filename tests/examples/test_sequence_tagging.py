"""The tagging example as its user meets it: what it reads, one line for what is wrong, and a way on when stopped."""

import csv
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.integration

for package in ("tensorflow_text", "matplotlib"):
    pytest.importorskip(package)

SCRIPT = Path(__file__).parents[2] / "examples" / "sequence_tagging.py"
# Whether a word is a noun or a verb is up to its end, and to the word before.
NOUNS, VERBS = [f"{x}on" for x in "bdfgklmnprst"], [f"{x}it" for x in "bdfgklmnprst"]


def sentences(seed, count=150):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        yield [(str(draw.choice(NOUNS)), "NOUN"), (str(draw.choice(VERBS)), "VERB"), (".", "PUNCT")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("train", 1), ("valid", 2)):
        conllu, columns = [], []
        for words in sentences(seed, 150 if name == "train" else 40):
            for i, (word, label) in enumerate(words, start=1):
                conllu.append("\t".join([str(i), word, word, label, label, "_", "0", "root", "_", "_"]))
                columns.append(f"{word} {label} O {'B-X' if label == 'NOUN' else 'I-X' if label == 'VERB' else 'O'}")
            conllu.append("")
            columns.append("")
        (folder / f"{name}.conllu").write_text("\n".join(conllu))
        (folder / f"{name}.txt").write_text("\n".join(columns))
    return folder


def arguments(data, output, *flags, **changes):
    given = {
        "train": data / "train.conllu",
        "valid": data / "valid.conllu",
        "epochs": 8,
        "layers": 1,
        "dim": 16,
        "batch-tokens": 64,
        "max-length": 32,
        "output": output,
    }
    given.update({name.replace("_", "-"): value for name, value in changes.items()})
    return [*flags, *(text for name, value in given.items() if value is not None for text in (f"--{name}", str(value)))]


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-u", str(SCRIPT), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    )


def finish(process):
    """The exit code, what was said, and the lines of stderr that are ours: TensorFlow greets there too."""
    said, errors = process.communicate(timeout=600)
    ours = [line for line in errors.decode().splitlines() if line.startswith("error:") or "Traceback" in line]
    return process.returncode, ours, said.decode()


def last_epoch(output):
    with open(output / "history.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs: must be a whole number of at least 1, received 0"),
        ({"dropout": 1}, "--dropout: must be a number of at least 0 and less than 1, received 1"),
        ({"valid": None}, "--train and --valid go together"),
        ({"train": None, "valid": None, "column": "upos"}, "--column is of your own files"),
        ({"scheme": "BIO"}, "--scheme is what --crf allows"),
        ({"column": "feats"}, "--column: invalid choice: 'feats'"),
        ({"bogus": 1}, "unrecognized arguments: --bogus 1"),
    ],
)
def test_arguments_are_refused_by_name(data, tmp_path, monkeypatch, change, message):
    parse = runpy.run_path(str(SCRIPT))["parse_arguments"]
    monkeypatch.setattr(sys, "argv", ["sequence_tagging.py", *arguments(data, tmp_path)])
    assert parse().epochs == 8
    monkeypatch.setattr(sys, "argv", ["sequence_tagging.py", *arguments(data, tmp_path, **change)])
    with pytest.raises(ValueError, match=message) as caught:
        parse()
    assert "\n" not in str(caught.value)


def test_directories_that_cannot_be_read_and_labels_that_were_not_learned(tmp_path):
    read = runpy.run_path(str(SCRIPT))["datasets"]
    for name, label in (("train", "NOUN"), ("valid", "VERB")):
        tf.data.Dataset.from_tensors(([["bon"]], [[label]])).unbatch().save(str(tmp_path / name))
    (tmp_path / "empty").mkdir()
    args = {"column": None, "skip_malformed": False, "quick": False, "train": tmp_path / "train"}
    with pytest.raises(ValueError, match="valid has labels that --train does not have: VERB. Correct"):
        read(SimpleNamespace(**args, valid=tmp_path / "valid"))
    with pytest.raises(ValueError, match="empty is no directory that tf.data.Dataset.save wrote"):
        read(SimpleNamespace(**args, valid=tmp_path / "empty"))
    *_, labels = read(SimpleNamespace(**args, valid=tmp_path / "train"))
    assert labels == ["NOUN"]


def test_roles_of_names():
    roles = runpy.run_path(str(SCRIPT))["roles"]
    source = "import os.path as p\nclass A(Exception):\n    def f(self, x=1): return p.join(x.y, len(z), key=A)\n"
    found = {line: [entry[1:] for entry in sorted(set(names))] for line, names in roles(source).items()}
    assert found == {
        1: [("os.path", "import")],
        2: [("A", "class"), ("Exception", "class")],
        3: [
            ("f", "method"),
            ("self", "parameter"),
            ("x", "parameter"),
            ("p", "import"),
            ("join", "method"),
            ("x", "parameter"),
            ("y", "attribute"),
            ("len", "function"),
            ("z", "variable"),
            ("key", "keyword"),
            ("A", "class"),
        ],
    }


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    code, errors, said = finish(start(*arguments(data, output)))
    assert (code, errors) == (0, []), said
    return output, said


@pytest.mark.slow
def test_a_run_says_how_well_it_did_and_writes_a_tagger(finished):
    output, said = finished
    assert "to compare: 33.33% if each word had the most frequent label, 100.00% if each had its own" in said
    accuracy = float(said.split("Accuracy: ")[1].split("%")[0]) / 100
    assert accuracy > 0.9 and abs(accuracy - float(last_epoch(output)["val_accuracy"])) < 5e-5
    serve = tf.saved_model.load(str(output / "saved_model")).signatures["serving_default"]
    found = serve(texts=tf.constant(["bon dit."]))
    assert found["labels"].numpy().tolist() == [[b"NOUN", b"VERB", b"PUNCT"]]
    for name in ("tagger.keras", "learning_curve.png", "confusion.png"):
        assert (output / name).stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("columns", [True, False])
def test_entities_from_columns_and_from_a_dataset_with_a_field(data, tmp_path, columns):
    changes = {"train": data / "train.txt", "valid": data / "valid.txt", "column": "ner", "scheme": "BIO", "epochs": 4}
    if not columns:
        for name, seed in (("train", 1), ("valid", 2)):
            rows = [tuple(zip(*words)) for words in sentences(seed)]
            rows = [(words, ["B-X", "I-X", "O"]) for words, _ in rows]
            tf.data.Dataset.from_generator(
                lambda rows=rows: iter(rows), output_signature=(tf.TensorSpec([None], tf.string),) * 2
            ).save(str(tmp_path / name))
            changes[name] = tmp_path / name
        del changes["column"]
        changes["column"] = None
    code, errors, said = finish(start(*arguments(data, tmp_path / "run", "--crf", **changes)))
    assert (code, errors) == (0, []), said
    assert float(said.split("Entity F1: ")[1].split("%")[0]) > 90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({"train": "absent"}, [], "received 'absent', which is not one: check the path."),
        ({"valid": "{data}/valid.txt"}, [], "line 1, has the ner"),
        ({"column": "ner"}, [], "received 'ner': read_conll2003"),
        ({"learning_rate": 1e30}, [], "Lower --learning-rate"),
        ({"output": SCRIPT}, [], "--output must be a directory"),
        ({"pretrained": "absent"}, [], "absent"),
        ({"scheme": "BIO"}, ["--crf"], "must be O or one of"),
    ],
)
def test_what_is_wrong_is_one_line(data, tmp_path, change, flags, message):
    change = {name: str(value).replace("{data}", str(data)) for name, value in change.items()}
    code, errors, _ = finish(start(*arguments(data, **{"output": tmp_path / "run", **change}), *flags))
    assert code == 1 and len(errors) == 1 and message in errors[0], errors


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_was(data, finished, tmp_path):
    output = shutil.copytree(finished[0], tmp_path / "run")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    code, errors, _ = finish(start(*arguments(data, output)))
    assert code == 1 and "holds a run. Add --resume" in errors[0]
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_stopped_a_run_ends_as_if_it_had_not_been(data, finished, tmp_path):
    output = tmp_path / "run"
    process = start(*arguments(data, output))
    for line in process.stdout:
        if b"Epoch 2/8" in line:
            process.send_signal(signal.SIGINT)
            break
    code, errors, said = finish(process)
    assert code == 130 and said.rstrip().endswith("--resume") and not errors
    assert finish(start(*arguments(data, output), "--resume"))[:2] == (0, [])
    for name in ("val_loss", "val_accuracy"):
        assert last_epoch(output)[name] == last_epoch(finished[0])[name]
