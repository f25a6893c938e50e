"""Dropout of whole tokens, before they are embedded."""

import keras
from keras import ops

from keras_transformer.layers.arguments import check_rates
from keras_transformer.layers.rematerialization import Rematerialized


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenDropout(Rematerialized, keras.layers.Layer):
    """In training puts the unknown token in the place of some tokens (Bowman et al. 2016, section 3.1, "word dropout").

    What a model reads for a word that it has never seen is trained by this, and so is all else that it then has to go
    by: the word's neighbours, and other features of it.

    Args:
        rate: share of the tokens.
        unknown_token_id: what is put there.
        pad_token_id: ids that stay; None: none do.
        seed: of the draw.

    Call arguments:
        inputs: integers of any shape.

    Returns:
        Integers of that shape.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import TokenDropout
    >>> np.array(TokenDropout(1.0, unknown_token_id=1)(np.array([[7, 8, 0]]), training=True)).tolist()
    [[1, 1, 0]]
    """

    def __init__(self, rate, unknown_token_id, pad_token_id=0, seed=None, **kwargs):
        super().__init__(**kwargs)
        check_rates(rate=rate)
        self.rate = rate
        self.unknown_token_id = unknown_token_id
        self.pad_token_id = pad_token_id
        self.seed = seed
        self.supports_masking = True
        self._seeds = keras.random.SeedGenerator(seed) if rate > 0 else None
        self.built = True

    def call(self, inputs, training=None):
        if not training or self._seeds is None:
            return inputs
        dropped = keras.random.uniform(ops.shape(inputs), dtype="float32", seed=self._seeds) < self.rate
        if self.pad_token_id is not None:
            dropped = ops.logical_and(dropped, ops.not_equal(inputs, self.pad_token_id))
        return ops.where(dropped, ops.cast(self.unknown_token_id, inputs.dtype), inputs)

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "unknown_token_id": self.unknown_token_id,
            "pad_token_id": self.pad_token_id,
            "seed": self.seed,
        }
