"""Where in a model a position part belongs: added to the embeddings, or in the attention of all blocks."""

from keras_transformer.layers import PositionalEncoding


def position_places(position, dtype):
    """The part for the embeddings and the part for the blocks, one of them None.

    A part that turns queries and keys or adds to scores is for the blocks; one that can only add to states is for the
    embeddings, as is the paper's when `position` is None.
    """
    if position is None:
        return PositionalEncoding(dtype=dtype, name="positional_encoding"), None
    in_attention = hasattr(position, "rotate") or hasattr(position, "scores")
    return (None, position) if in_attention else (position, None)
