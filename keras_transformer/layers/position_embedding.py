"""Learned positions (Gehring et al. 2017; Vaswani et al. 2017, section 3.5, table 3 row E)."""

import keras
from keras import ops

from keras_transformer.layers.arguments import check_positive_integers, check_rank
from keras_transformer.layers.positions import as_positions, is_placeholder


@keras.saving.register_keras_serializable(package="keras_transformer")
class PositionEmbedding(keras.layers.Layer):
    """A table with one learned row for each position (Gehring et al. 2017, "Convolutional Sequence to Sequence
    Learning", section 3.1; BERT and GPT-2 have it too).

    A drop-in for `keras_hub.layers.PositionEmbedding`: the same arguments, values and weight. As there, a call returns
    the rows *without* adding them to `inputs`. Beyond it, a Keras mask on `inputs` is passed on, and positions that
    cannot be in the table are refused where they are known.

    As the `position` of attention its rows are added to what queries and keys are projected from, and not to that of
    values (position-infused attention: Press et al. 2020, "Shortformer").

    Args:
        sequence_length: how many positions the table has.
        initializer: of the table `(sequence_length, D)`.

    Call arguments:
        inputs: `(B, T, D)`; only its shape matters.
        start_index: the position of the first token, a Python integer or an integer tensor.
        positions: integers `(T,)` or `(B, T)`, in place of those that follow `start_index`.

    Returns:
        `(B, T, D)` in the compute dtype.

    Raises:
        ValueError: if `sequence_length` is not a positive integer, if `inputs` are longer than the table or reach
            beyond it from a `start_index` that is a Python integer, if `positions` are no integers.

    Example:

    >>> import numpy as np
    >>> from keras import ops
    >>> from keras_transformer.layers import PositionEmbedding
    >>> embedding = PositionEmbedding(sequence_length=5, initializer="ones")
    >>> ops.convert_to_numpy(embedding(np.zeros((1, 2, 3))))
    array([[[1., 1., 1.],
            [1., 1., 1.]]], dtype=float32)
    """

    def __init__(self, sequence_length, initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_positive_integers(sequence_length=sequence_length)
        self.sequence_length = sequence_length
        self.initializer = keras.initializers.get(initializer)
        self.supports_masking = True

    def build(self, inputs_shape):
        self.position_embeddings = self.add_weight(
            name="embeddings",
            shape=(self.sequence_length, inputs_shape[-1]),
            initializer=self.initializer,
            autocast=False,  # sums are formed in float32 and rounded once
        )

    def call(self, inputs, start_index=0, positions=None):
        check_rank("inputs", inputs.shape, 2, "(B, T, D)")
        if positions is None:
            length = inputs.shape[-2]
            if isinstance(start_index, int) and not is_placeholder(inputs):
                self._check_reach(start_index, length)
            positions = ops.cast(start_index, "int32") + ops.arange(ops.shape(inputs)[-2], dtype="int32")
        positions = as_positions(positions, of=(None, None, *inputs.shape)[-3:])
        rows = ops.take(self.position_embeddings, positions, axis=0)
        return ops.broadcast_to(ops.cast(rows, self.compute_dtype), ops.shape(inputs))

    def add(self, x, positions):
        """`x` plus the rows of its positions: of the shape and dtype of `x`, `(B, T, D)`.

        Args:
            x: `(B, T, D)`.
            positions: `(T,)`, consecutive, or `(1|B, T)`.
        """
        positions = as_positions(positions, of=x.shape)
        if len(positions.shape) == 1 and not is_placeholder(x):
            self._check_reach(0, positions.shape[0])
        if not self.built:
            self.build(x.shape)
        width = self.position_embeddings.shape[-1]
        if x.shape[-1] != width:
            raise ValueError(
                f"`x` must have the width {width}, as the rows of this table have, to which they are added. "
                f"Received: shape={tuple(x.shape)}. In attention it is added to queries and keys: "
                "project these to one width, or hand in a part without a table."
            )
        rows = ops.take(self.position_embeddings, positions, axis=0)
        wide = keras.backend.result_type(x.dtype, rows.dtype, "float32")
        return ops.cast(ops.cast(x, wide) + ops.cast(rows, wide), x.dtype)

    def _check_reach(self, start, length):
        if start < 0 or (length is not None and start + length > self.sequence_length):
            raise ValueError(
                f"Positions must be from 0 to {self.sequence_length - 1}, as there are {self.sequence_length} in the "
                f"table. Received: {length} positions from {start}. "
                "Cut the sequence, or make the layer with a larger `sequence_length`."
            )

    def compute_output_shape(self, input_shape):
        self._check_reach(0, input_shape[-2])
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "sequence_length": self.sequence_length,
            "initializer": keras.initializers.serialize(self.initializer),
        }
