"""The translation example as its user meets it: one line for what is wrong, and a way on from wherever it stopped."""

import csv
import gzip
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

for package in ("tensorflow_text", "num2words", "sacrebleu", "matplotlib"):
    pytest.importorskip(package)

SCRIPT = Path(__file__).parents[2] / "examples" / "translation.py"
ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
EINS = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, numbers in (("train", range(111, 400)), ("valid", range(400, 440))):
        for language, words in (("en", ONES), ("de", EINS)):
            lines = (" ".join(words[int(digit) - 1] for digit in str(n)) for n in numbers)
            (folder / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def arguments(data, output, **changes):
    given = {
        "source": data / "train.en",
        "target": data / "train.de",
        "valid-source": data / "valid.en",
        "valid-target": data / "valid.de",
        "vocabulary-size": 60,
        "layers": 1,
        "epochs": 2,
        "batch-tokens": 512,
        "buckets": 1,
        "num-beams": 1,
        "output": output,
    }
    given.update({name.replace("_", "-"): value for name, value in changes.items()})
    return [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-u", str(SCRIPT), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    )


def finish(process):
    """The exit code, and the lines of stderr that are ours: TensorFlow greets there too."""
    with process:
        _, errors = process.communicate(timeout=300)
    ours = [line for line in errors.decode().splitlines() if line.startswith("error:") or "Traceback" in line]
    return process.returncode, ours


def interrupt(process, at, signal_number=signal.SIGINT):
    """Sends the signal when stdout has come to `at`; what stdout held to the end."""
    seen, sent = b"", False
    with process:
        errors = threading.Thread(target=process.stderr.read)
        errors.start()
        while chunk := os.read(process.stdout.fileno(), 4096):
            seen += chunk
            if not sent and at in seen:
                process.send_signal(signal_number)
                sent = True
        errors.join()
    return seen.decode()


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def last_epoch(output):
    """What was learned in it: its speed is another each time."""
    with open(output / "history.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return {name: value for name, value in last.items() if name not in ("tokens_per_second", "share_of_limit")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs: must be a whole number of at least 1, received 0"),
        ({"num_beams": -1}, "--num-beams: must be a whole number of at least 1, received -1"),
        ({"seed": "two"}, "--seed: must be a whole number of at least 0 .*received two"),
        ({"length_penalty": "nan"}, "--length-penalty: must be a number of at least 0, received nan"),
        ({"dropout": 1}, "--dropout: must be a number of at least 0 and less than 1, received 1"),
        ({"target": None}, "--source and --target go together"),
        ({"test_source": "a"}, "--test-source and --test-target go together"),
        ({"valid_source": None, "valid_target": None}, "your own files need --valid-source"),
        ({"source": None, "target": None}, "--valid-source and --test-source need --source and --target"),
        ({"tsv": "a"}, "--tsv stands for --source and --target"),
        ({"bogus": 1}, "unrecognized arguments: --bogus 1"),
    ],
)
def test_arguments_are_refused_by_name(data, tmp_path, monkeypatch, change, message):
    parse = runpy.run_path(str(SCRIPT))["parse_arguments"]
    monkeypatch.setattr(sys, "argv", ["translation.py", *arguments(data, tmp_path)])
    assert parse().epochs == 2
    monkeypatch.setattr(sys, "argv", ["translation.py", *arguments(data, tmp_path, **change)])
    with pytest.raises(ValueError, match=message) as caught:
        parse()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    assert finish(start(*arguments(data, output))) == (0, [])
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "absent"}, "received 'absent', which is not one: check the path."),
        ({"vocabulary_size": 9999}, "the largest possible size is"),
        ({"batch_tokens": 5}, "raise batch_tokens"),
        ({"max_length": 2}, "check the corpus and max_length"),
        ({"preset": "huge"}, "Use one of: tiny, base, big."),
        ({"learning_rate": 1e30, "warmup": 1}, "Lower the learning rate"),
        ({"output": SCRIPT}, "--output must be a directory"),
    ],
)
def test_what_is_wrong_is_one_line(data, tmp_path, change, message):
    code, errors = finish(start(*arguments(data, **{"output": tmp_path / "run", **change})))
    assert code == 1 and len(errors) == 1 and message in errors[0], errors
    assert {path.name for path in tree(tmp_path)} <= {"vocabulary.model", "history.csv"}


@pytest.mark.slow
def test_a_corpus_cut_in_the_middle_is_one_line(data, tmp_path):
    whole = gzip.compress((data / "train.en").read_bytes())
    (tmp_path / "train.en.gz").write_bytes(whole[: len(whole) // 2])
    code, errors = finish(start(*arguments(data, tmp_path / "run", source=tmp_path / "train.en.gz")))
    assert code == 1 and len(errors) == 1 and "which is truncated or damaged after line" in errors[0], errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without", "resume", "change", "message"),
    [
        ("", [], {}, "holds a run. Add --resume"),
        ("checkpoints", [], {}, "holds a run. Add --resume"),
        ("checkpoints", ["--resume"], {}, "holds no run to go on with. Leave out --resume"),
        ("", ["--resume"], {"layers": 2}, "is of another model or optimizer"),
        ("", ["--resume"], {"vocabulary_size": 61}, "has 60 pieces, --vocabulary-size is 61"),
    ],
)
def test_a_finished_run_is_left_as_it_was(data, finished, tmp_path, without, resume, change, message):
    output = shutil.copytree(finished, tmp_path / "run")
    if without:
        shutil.rmtree(output / without)
    before = tree(output)
    code, errors = finish(start(*arguments(data, output, **change), *resume))
    assert code == 1 and len(errors) == 1 and message in errors[0], errors
    assert tree(output) == before and before


@pytest.mark.slow
def test_stopped_anywhere_a_run_ends_as_if_it_had_not_been(data, finished, tmp_path):
    output = tmp_path / "run"
    command = arguments(data, output)
    said = interrupt(start(*command), b"Learning 60")
    assert "Training had not begun; to start again, run:" in said and not said.rstrip().endswith("--resume")
    for resume, at in (([], b"2/"), (["--resume"], b"Epoch 2/2"), (["--resume"], b"/40")):
        process = start(*command, *resume)
        said = interrupt(process, at)
        assert process.returncode == 130 and "Nothing is lost; to go on, run:" in said
        assert said.rstrip().endswith("--resume")
    process = start(*command, "--resume")
    assert finish(process) == (0, [])
    for name in ("val_loss", "val_cross_entropy"):
        assert last_epoch(output)[name] == last_epoch(finished)[name]
    assert {path.name for path in output.iterdir()} == {path.name for path in finished.iterdir()}


@pytest.mark.slow
def test_packed_rows_are_learned_too_and_stopped_alike(data, tmp_path):
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    assert finish(start(*arguments(data, whole), "--packed")) == (0, [])
    assert "--resume" in interrupt(start(*arguments(data, stopped), "--packed"), b"2/")
    assert finish(start(*arguments(data, stopped), "--packed", "--resume")) == (0, [])
    for name in ("val_loss", "val_cross_entropy"):
        assert last_epoch(stopped)[name] == last_epoch(whole)[name]


@pytest.mark.slow
def test_killed_a_run_goes_on_from_its_last_epoch(data, finished, tmp_path):
    output = tmp_path / "run"
    interrupt(start(*arguments(data, output)), b"Epoch 2/2", signal.SIGKILL)
    assert finish(start(*arguments(data, output), "--resume")) == (0, [])
    assert last_epoch(output) == last_epoch(finished)
