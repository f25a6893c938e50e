"""What all models here have in common, whatever they are made of."""

import keras

from keras_transformer.layers.quantized import QuantizableModel


class Model(QuantizableModel):
    """A `keras.Model` that says where it can be trained, and leaves it to its layers to be rematerialised."""

    def __init__(self, *args, **kwargs):
        _check_strategy()
        super().__init__(*args, **kwargs)

    def fit(self, *args, **kwargs):
        _check_strategy()  # once more: Keras takes the strategy of `fit` for a model that was made under none
        if keras.backend.backend() == "tensorflow":
            from keras_transformer.training.tensorflow import check_optimizer

            check_optimizer(self.optimizer, self.distribute_strategy)
            if self.built and self.optimizer and not self.optimizer.built:
                # Else the first step makes the optimizer's variables while it is traced, one graph for each, and
                # TensorFlow traces it once more: training begins much later.
                with self.distribute_strategy.scope():
                    self.optimizer.build(self.trainable_variables)
        return super().fit(*args, **kwargs)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        # A whole model in one would have all its activations at once again; its blocks one after another have not.
        return layer_call


def _check_strategy():
    if keras.backend.backend() == "tensorflow":
        from keras_transformer.training.tensorflow import check_strategy

        check_strategy()
