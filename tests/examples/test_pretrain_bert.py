"""The pre-training example: it learns, says what is wrong in one line, and goes on where it was."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.integration

for package in ("tensorflow_text", "tokenizers"):
    pytest.importorskip(package)

ROOT = Path(__file__).parents[2]
SMALL = ["--layers", "1", "--heads", "2", "--width", "16", "--length", "16", "--batch-size", "8", "--epoch", "4"]


def run(output, *arguments):
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "pretrain_bert.py", "--output", str(output), *SMALL, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    words = ["north", "wind", "sun", "cloak", "traveller", "strong", "warm", "cold"]
    lines = [" ".join(rng.choice(words, 9)) for _ in range(200)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return tmp_path / "corpus.txt"


@pytest.mark.slow
def test_a_run_in_two_parts_is_the_run_in_one(corpus, tmp_path):
    whole = run(tmp_path / "whole", "--text", corpus, "--updates", 8)
    assert whole.returncode == 0, whole.stderr
    assert "nats a hidden piece" in whole.stdout
    for file in ("vocab.txt", "config.json", "model.safetensors", "pretrain_bert.keras"):
        assert (tmp_path / "whole" / file).exists()
    # Killed after the first epoch: its files are those of the run above without what came after.
    first = tmp_path / "whole" / "backup"
    later = sorted(first.glob("epoch-*.npz"))[-1]
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    later.unlink()
    again = run(tmp_path / "whole", "--text", corpus, "--updates", 8)
    assert again.returncode == 0, again.stderr
    assert "Going on after 1 of 2 epochs." in again.stdout
    for key, value in load_file(tmp_path / "whole" / "model.safetensors").items():
        np.testing.assert_allclose(value, expected[key], atol=1e-6, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--text", "/nowhere"], "No such file"),
        (["--width", "15"], "--width must be a multiple of --heads, received 15 and 2"),
        (["--updates", "none"], "must be a whole number of at least 1, received none"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, tmp_path):
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
