"""The tree is the pipeline: who may import whom, read from the sources."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_transformer"
BELOW_TASKS = {"text", "layers", "training", "generation", "models"}
MAY_IMPORT = {  # besides itself
    "text": set(),
    "layers": set(),
    "training": {"layers"},
    "generation": {"layers"},
    "models": {"layers", "training", "generation"},
    "tasks": BELOW_TASKS,
    "interop": BELOW_TASKS | {"tasks"},
    "visualization": BELOW_TASKS | {"tasks"},
}
KNOWS_TENSORFLOW = ("text/", "tasks/", "generation/compiled.py", "layers/linear_memory.py", "training/tensorflow.py")


def imports(path):
    """The dotted names that a file imports anywhere in it: `from a import b` counts as `a.b`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join(filter(None, (*base, node.module, alias.name))) for alias in node.names)


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


each_file = pytest.mark.parametrize("path", sources("keras_transformer"), ids=name_of)


def test_every_stage_is_in_the_rule():
    stages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {"text", "layers", "training", "generation", "models"} <= stages <= set(MAY_IMPORT)


@each_file
def test_imports_point_one_way(path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("keras_transformer.")}
    used -= {"version", "__version__"}
    stage = path.relative_to(PACKAGE).parts[0]
    allowed = BELOW_TASKS - {"text"} if path.parent == PACKAGE else MAY_IMPORT[stage] | {stage}
    assert used <= allowed


@each_file
def test_tensorflow_has_its_places(path):
    named = {name.split(".")[0] for name in imports(path)} & {"tensorflow", "tensorflow_text"}
    assert not named or name_of(path).startswith(KNOWS_TENSORFLOW)


PRIVATE = ("keras.src", "keras.api", "keras._", "keras_hub.src", "tensorflow.python", "tensorflow_text.python")


@pytest.mark.parametrize(
    "path", sources("keras_transformer", "tests", "examples", "benchmarks"), ids=lambda path: path.stem
)
def test_nothing_private_of_keras_is_used(path):
    names = set(imports(path))
    names |= {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not [name for name in names if name.startswith(PRIVATE)]


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.integration
def test_importing_is_cheap():
    done = python(
        "import sys, keras\n"  # which imports matplotlib itself where it is installed
        "before = set(sys.modules)\n"
        "import keras_transformer\n"
        "heavy = {'tensorflow_text', 'keras_hub', 'matplotlib', 'sentencepiece', 'ctranslate2'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))\n"
        "print([s for s in ('interop', 'tasks', 'text', 'visualization') if f'keras_transformer.{s}' in sys.modules])\n"
        "print(set(keras_transformer.__all__) - set(dir(keras_transformer)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[]", "set()"]


@pytest.mark.integration
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_pytorch_needs_no_tensorflow():
    done = python(
        "import sys; sys.modules['tensorflow'] = None\n"
        "import numpy as np, keras_transformer\n"
        "model = keras_transformer.models.Transformer(7, 1, 1, 2, 3)\n"
        "print(model.generate(np.ones((2, 3), 'int32'), max_length=5, num_beams=2).token_ids.shape)",
        KERAS_BACKEND="torch",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(2, 5)"]


def test_an_unknown_stage_is_an_attribute_error():
    import keras_transformer

    with pytest.raises(AttributeError, match="'keras_transformer' has no attribute 'utils'"):
        keras_transformer.utils  # noqa: B018
