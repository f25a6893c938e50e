"""Linear biases: the paper's slopes, KerasHub's values, and distances at long range."""

import numpy as np
import positions_numpy
import pytest
from keras import ops

from keras_transformer.layers import AlibiBias
from keras_transformer.layers.alibi_bias import alibi_slopes


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def test_the_slopes_the_paper_writes_out():
    np.testing.assert_array_equal(alibi_slopes(8), [2.0**-k for k in range(1, 9)])
    # Section 3: "for models that require 16 heads, [...] 1/2^0.5, 1/2^1, 1/2^1.5, ..., 1/2^8"
    np.testing.assert_allclose(alibi_slopes(16), [2.0 ** -(k / 2) for k in range(1, 17)], rtol=1e-15)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 13])
@pytest.mark.parametrize("alibi_bias_max", [8, 5])
def test_the_last_query_has_the_bias_of_keras_hub(heads, alibi_bias_max):
    keras_hub = pytest.importorskip("keras_hub")
    theirs = keras_hub.layers.AlibiBias(alibi_bias_max)(np.zeros((1, heads, 1, 7), "float32"))
    ours = AlibiBias(alibi_bias_max=alibi_bias_max)
    found = ours.scores(np.zeros((1, 1, heads, 4), "float32"), np.array([6]), np.arange(7))
    np.testing.assert_allclose(numpy(found), numpy(theirs), rtol=2e-7)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("heads", [8, 11])
def test_biases_are_those_of_float64_up_to_position_8191(heads, dtype):
    positions = np.array([[0, 1, 127, 4095, 8190, 8191], [8191, 2, 0, 6, 255, 257]])
    keys = np.array([[0, 1, 2, 4096, 8189, 8190, 8191], [8191, 0, 1, 2, 3, 300, 1023]])
    query = ops.zeros((2, 6, heads, 4), dtype)
    expected = positions_numpy.alibi(alibi_slopes(heads), positions, keys)
    # Slopes and products are rounded to float32; where slopes are powers of two nothing is rounded.
    np.testing.assert_allclose(
        numpy(AlibiBias().scores(query, positions, keys)), expected, rtol=0 if heads == 8 else 2.0**-23
    )
