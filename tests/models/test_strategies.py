"""Under which strategies of `tf.distribute` models are made and trained, and what is said under the others."""

import keras
import numpy as np
import pytest

from keras_transformer.models import CausalLM, Classifier, CRFTagger, Encoder, TokenClassifier

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute is TensorFlow's", allow_module_level=True)

import tensorflow as tf

SIZE = {"num_layers": 1, "num_heads": 1, "hidden_dim": 2, "intermediate_dim": 3}


class MultiWorkerMirroredStrategy(tf.distribute.Strategy):
    """Stands for TensorFlow's of that name, which may be made only before anything else has run."""

    def __init__(self):
        super().__init__(tf.distribute.OneDeviceStrategy("CPU:0").extended)


def encoder():
    return Encoder(7, **SIZE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CausalLM(7, **SIZE),
        lambda: Classifier(encoder_made_before, 3),
        lambda: CRFTagger(classifier_made_before, 3),
        encoder,
    ],
)
def test_several_machines_are_for_jax(make):
    with (
        MultiWorkerMirroredStrategy().scope(),
        pytest.raises(ValueError, match="strategy=MultiWorkerMirroredStrategy; Keras 3 .*keras.distribution"),
    ):
        make()


encoder_made_before = encoder()
classifier_made_before = TokenClassifier(encoder(), 3)


def test_a_strategy_that_is_not_tested_is_refused_at_fit_too():
    model = CausalLM(7, **SIZE)
    model.compile("sgd", "mse")
    strategy = tf.distribute.experimental.CentralStorageStrategy(["CPU:0"], parameter_device="CPU:0")
    with (
        strategy.scope(),
        pytest.raises(ValueError, match="strategy=CentralStorageStrategy.*; it is not tested.*MirroredStrategy"),
    ):
        model.fit({"token_ids": np.ones((2, 3))}, np.ones((2, 3, 7)), verbose=0)


@pytest.mark.parametrize(
    "make", [lambda: tf.distribute.OneDeviceStrategy("CPU:0"), lambda: tf.distribute.MirroredStrategy(["CPU:0"])]
)
def test_these_are_taken(make):
    with make().scope():
        assert CausalLM(7, **SIZE).count_params() > 0
