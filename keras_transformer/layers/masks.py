"""Who may attend to whom: every mask of the library is combined here.

Convention: True (or nonzero) means "may attend", as in Keras; PyTorch's boolean masks mean the opposite.
Shapes: `B` batch, `H` heads, `T` query length, `S` source (key) length.
"""

from typing import Any, NamedTuple

from keras import ops


def keras_mask(x):
    """The mask that Keras carries along with `x`, or None. Keras has no public reader for it."""
    return getattr(x, "_keras_mask", None)


def as_boolean(mask, argument):
    """`mask` as a bool tensor: integers and floats count as True where they are not zero."""
    if mask is None:
        return None
    mask = ops.convert_to_tensor(mask)
    dtype = str(mask.dtype).removeprefix("torch.").removeprefix("<dtype: '").removesuffix("'>")
    if not dtype.startswith(("bool", "int", "uint", "float", "bfloat")):
        raise ValueError(
            f"`{argument}` must be a bool, integer or float mask (True or nonzero: may attend). "
            f"Received: dtype={dtype}. Cast it to bool."
        )
    return mask if dtype == "bool" else ops.not_equal(mask, 0)


def causal(query_positions, key_positions):
    """A query attends to keys at its own position and before it: the pattern of a decoder."""
    return key_positions <= query_positions


class Visibility(NamedTuple):
    """Who may attend to whom, as said by the arguments of a call; any block of it can be written out as a mask.

    What is None says nothing. The rest must all agree for a query to see a key.
    """

    attention_mask: Any = None
    """bool, broadcastable to (B, H, T, S)."""

    query_mask: Any = None
    """(B, T): a query that is masked has nothing to attend to."""

    key_mask: Any = None
    """(B, S): nobody attends to a key that is masked."""

    query_positions: Any = None
    """(T,), consecutive, or (1, T) or (B, T), any integers: what the patterns are functions of."""

    key_positions: Any = None
    """(S,), consecutive, or (1, S) or (B, S)."""

    query_segments: Any = None
    """(B, T): a query attends to keys of its own segment."""

    key_segments: Any = None
    """(B, S)."""

    patterns: tuple = ()
    """Functions of integer query and key positions that broadcast against each other, to bool."""

    def mask(self):
        """The conjunction of all of it, in a shape that broadcasts to `(B, H, T, S)`; None if nothing is masked."""
        masks = []
        if self.attention_mask is not None:
            masks.append(self.attention_mask)
        if self.query_mask is not None:
            masks.append(self.query_mask[:, None, :, None])
        if self.key_mask is not None:
            masks.append(self.key_mask[:, None, None, :])
        if self.query_segments is not None:
            masks.append(self.query_segments[:, None, :, None] == self.key_segments[:, None, None, :])
        if self.patterns:
            query, key = (p if len(p.shape) == 2 else p[None] for p in (self.query_positions, self.key_positions))
            query, key = query[:, None, :, None], key[:, None, None, :]
            masks.extend(pattern(query, key) for pattern in self.patterns)
        combined = None
        for mask in masks:
            combined = mask if combined is None else ops.logical_and(combined, mask)
        return combined

    def is_just(self, pattern):
        """Whether `pattern` is all that is said."""
        fields = (self.attention_mask, self.query_mask, self.key_mask, self.query_segments)
        return all(field is None for field in fields) and self.patterns == (pattern,)
