"""Labels are written as they are."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from keras_transformer.visualization import plot_attention


@pytest.mark.parametrize("labels", [["$5", "and", r"$6", r"$\frac$"], ["$$", r"\x", "^", "a_b"]])
def test_dollars_are_no_formulas(tmp_path, labels):
    plot_attention(np.full((2, 4, 4), 0.25), labels, labels, tmp_path / "a.png", title=" ".join(labels))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
