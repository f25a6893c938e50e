import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.generation import AverageLength, GNMTLength, penalties

LENGTHS = np.array([[1, 2, 3], [7, 11, 512]])


@pytest.mark.parametrize("alpha", [0, 0.6, 1.0, 2.5])
def test_values_are_those_of_the_formulas(alpha):
    for penalty, expected in (
        (GNMTLength(alpha), ((5 + LENGTHS) / 6) ** alpha),
        (AverageLength(alpha), LENGTHS.astype("float64") ** alpha),
    ):
        values = penalty(ops.convert_to_tensor(LENGTHS, dtype="int32"))
        assert keras.backend.standardize_dtype(values.dtype) == "float32"
        np.testing.assert_allclose(ops.convert_to_numpy(values), expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1e-3, 0.6, 4.0])
@pytest.mark.parametrize("kind", [GNMTLength, AverageLength])
def test_never_falls_with_the_length(kind, alpha):
    values = ops.convert_to_numpy(kind(alpha)(ops.arange(1, 1000)))
    assert np.all(np.diff(values) >= 0) and np.all(values >= 1 - 1e-6)


def test_defaults_are_those_of_the_papers():
    assert GNMTLength().alpha == 0.6
    assert AverageLength().alpha == 1.0


def test_a_number_is_gnmt():
    for number in (0, 0.6):
        penalty = penalties.get(number)
        assert isinstance(penalty, GNMTLength) and penalty.alpha == number


def test_a_callable_is_used_as_it_is():
    for penalty in (AverageLength(2.0), lambda lengths: ops.ones_like(lengths, "float32")):
        assert penalties.get(penalty) is penalty


@pytest.mark.parametrize("penalty", [GNMTLength(0.7), AverageLength(0.3)])
def test_serialises(penalty):
    config = keras.saving.serialize_keras_object(penalty)
    for copy in (keras.saving.deserialize_keras_object(config), penalties.get(config)):
        assert type(copy) is type(penalty) and copy.get_config() == penalty.get_config()


@pytest.mark.parametrize("kind", [GNMTLength, AverageLength])
@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_a_bad_alpha_is_refused(kind, alpha):
    with pytest.raises(ValueError, match=rf"`alpha` of {kind.__name__} must.*alpha={alpha}"):
        kind(alpha)


@pytest.mark.parametrize("received", [None, "gnmt"])
def test_what_is_no_penalty_is_refused(received):
    with pytest.raises(TypeError, match=f"`length_penalty` must be.*Received: {received!r}"):
        penalties.get(received)
