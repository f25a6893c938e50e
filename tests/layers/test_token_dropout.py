"""Tokens dropped before they are embedded."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers import TokenDropout

IDS = np.random.default_rng(0).integers(2, 97, size=(53, 61))


def test_a_share_of_the_tokens_is_unknown_in_training_alone():
    layer = TokenDropout(0.3, unknown_token_id=1, seed=2)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(IDS)), IDS)
    first, second = (ops.convert_to_numpy(layer(IDS, training=True)) for _ in range(2))
    dropped = first == 1
    np.testing.assert_array_equal(first[~dropped], IDS[~dropped])
    # Four deviations of 3,233 draws.
    assert abs(dropped.mean() - 0.3) < 4 * (0.3 * 0.7 / IDS.size) ** 0.5
    assert (first != second).any()


def test_padding_stays():
    ids = np.where(np.arange(61) < 7, IDS, 0)
    found = ops.convert_to_numpy(TokenDropout(1.0, 5)(ids, training=True))
    np.testing.assert_array_equal(found, np.where(ids == 0, 0, 5))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(TokenDropout(1.0, 5, None)(ids, training=True)), np.full_like(ids, 5)
    )


def test_in_a_saved_model(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, TokenDropout(0.5, 1, seed=3)(inputs))
    assert model.output.dtype == "int32" and model.output.shape == (None, None)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    same = [ops.convert_to_numpy(m(ops.cast(IDS, "int32"), training=True)) for m in (model, again)]
    np.testing.assert_array_equal(*same)


def test_a_rate_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"rate=1.5"):
        TokenDropout(1.5, 1)
