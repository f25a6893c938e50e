"""Confusion matrices as pictures."""

import numpy as np
import pytest

image = pytest.importorskip("matplotlib.image")

from keras_transformer.visualization import plot_confusion  # noqa: E402


def test_a_picture_is_darker_where_more_is_counted(tmp_path):
    counts = np.array([[9, 1, 0], [0, 5, 5], [0, 0, 0]])
    plot_confusion(counts, ["$A", "B", "C_d"], tmp_path / "one.png", title="of $3")
    plot_confusion(np.diag([3, 3, 3]), ["$A", "B", "C_d"], tmp_path / "other.png")
    one, other = (image.imread(tmp_path / f"{name}.png") for name in ("one", "other"))
    assert (min(one.shape[:2]) > 200 and one.std() > 0.1 and one.shape != other.shape) or (one != other).any()


def test_counts_of_other_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"shape=\(2, 2\) with 3 labels"):
        plot_confusion(np.zeros((2, 2)), ["a", "b", "c"], tmp_path / "a.png")
