"""Where in a model a position part belongs: added to the embeddings, or in the attention of all blocks."""

from keras import ops

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


def within_reach(length, position_embedding):
    """`length`, an int or a scalar tensor, or how many positions the part's table has if those are fewer."""
    rows = getattr(position_embedding, "sequence_length", None)
    if rows is None:
        return length
    return min(length, rows) if isinstance(length, int) else ops.minimum(length, rows)


def check_reach(argument, length, position_embedding):
    """Refuses an int `length` beyond the part's table: positions would be given the rows of others, or none."""
    rows = within_reach(length, position_embedding)
    if rows != length:
        raise ValueError(
            f"{argument} must be at most {rows}, the positions of the model's table. Received: {length}. "
            "Cut it, or make the model with a longer table."
        )
