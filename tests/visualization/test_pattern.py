"""The picture of a pattern shows the pattern."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from keras_transformer.layers.patterns import Causal, Local, Strided
from keras_transformer.visualization import plot_pattern


@pytest.mark.parametrize("length", [1, 13, 101])
def test_the_image_is_the_matrix(tmp_path, length):
    figure = plot_pattern(Causal() & ~Strided(3), length)
    (axes,) = figure.axes
    query, key = np.indices((length, length))
    np.testing.assert_array_equal(axes.images[0].get_array(), (key <= query) & ((query - key) % 3 != 0))
    assert axes.get_title() == "Causal() & ~Strided(stride=3)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key position", "query position")
    figure.savefig(tmp_path / "pattern.png")
    assert (tmp_path / "pattern.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("length", [0, 2.5])
def test_bad_lengths(length):
    with pytest.raises(ValueError, match=f"`length` must be an integer of at least 1. Received: length={length}"):
        plot_pattern(Local(3), length)
