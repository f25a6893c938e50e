"""The language model example as its user meets it: one line for what is wrong, a way on from wherever it stopped."""

import csv
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.integration

pytest.importorskip("matplotlib")

SCRIPT = Path(__file__).parents[2] / "examples" / "language_model.py"
SMALL = ["--context", "16", "--batch-size", "4", "--updates", "60", "--epoch", "20", "--samples", "1", "--length", "40"]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--updates", "0"], "--updates: must be a whole number of at least 1, received 0"),
        (["--dropout", "1"], "--dropout: must be a number of at least 0 and less than 1, received 1"),
        (["--temperature", "0"], "--temperature: must be a number of at least 0.001, received 0"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_arguments_are_refused_by_name(script, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["language_model.py", *arguments])
    with pytest.raises(ValueError, match=message) as caught:
        script["parse_arguments"]()
    assert "\n" not in str(caught.value)


def test_crops_are_of_the_text_and_go_on_where_a_run_was_stopped(script):
    text = np.arange(100, 200)
    crops = script["Crops"](text, 7, 3, updates=5, seed=1)
    later = script["Crops"](text, 7, 3, updates=2, seed=1, first=3)
    assert (len(crops), len(later)) == (5, 2)
    for index in range(5):
        inputs, labels = crops[index]
        assert inputs["token_ids"].shape == labels.shape == (3, 7)
        assert (labels == inputs["token_ids"] + 1).all() and (np.diff(labels, axis=1) == 1).all()
    for mine, theirs in zip(later[1][0].values(), crops[4][0].values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    drawn = {int(x) for index in range(5) for x in crops[index][0]["token_ids"][:, 0]}
    assert len(drawn) > 10


def test_validation_predicts_each_character_once(script):
    inputs, labels = script["whole"](np.arange(23), 7)
    assert labels.ravel().tolist() == list(range(1, 22)) and inputs["token_ids"].ravel().tolist() == list(range(21))


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-u", str(SCRIPT), *SMALL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def rows(output):
    with open(output / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_stopped_a_run_ends_as_if_it_had_not_been(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with start("--output", str(whole)) as process:
        said, _ = process.communicate(timeout=900)
    assert process.returncode == 0 and b"nats a character" in said
    assert {path.name for path in whole.iterdir()} == {
        "checkpoints",
        "history.csv",
        "language_model.keras",
        "learning_curve.png",
        "samples.txt",
    }
    assert len((whole / "samples.txt").read_text()) == 40
    assert float(rows(whole)[-1]["val_cross_entropy"]) < float(rows(whole)[0]["val_cross_entropy"])
    with start("--output", str(whole)) as process:
        _, errors = process.communicate(timeout=900)
    assert process.returncode == 1 and b"holds a run. Add --resume" in errors
    with start("--output", str(stopped)) as process:
        while b"Epoch 2/2" not in (line := process.stdout.readline()) and line:
            pass
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=900)
    assert process.returncode == 130 and said.rstrip().endswith(b"--resume")
    with start("--output", str(stopped), "--resume") as process:
        process.communicate(timeout=900)
    assert process.returncode == 0
    assert rows(stopped)[-1]["val_cross_entropy"] == rows(whole)[-1]["val_cross_entropy"]
    assert (stopped / "samples.txt").read_text() == (whole / "samples.txt").read_text()
