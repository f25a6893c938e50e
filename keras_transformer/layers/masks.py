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

    def padded(self, query_length, key_length, query_block, key_block):
        """The same, said of queries and keys padded to a whole number of blocks, as `block` needs it.

        Nobody attends to the keys that were added; what the added queries attend to is left open.

        Args:
            query_length, key_length: `T` and `S`, integers or tensors.
            query_block, key_block: integers.
        """
        queries, keys = -(-query_length // query_block) * query_block, -(-key_length // key_block) * key_block
        key_mask = self.key_mask
        if key_mask is None and not (isinstance(keys, int) and keys == key_length):
            key_mask = ops.expand_dims(ops.arange(keys, dtype="int32") < key_length, 0)
        attention_mask = self.attention_mask
        if attention_mask is not None:
            attention_mask = _extend_broadcast(attention_mask, 2, queries, query_block)
            attention_mask = _extend_broadcast(attention_mask, 3, keys, key_block)
        return self._replace(
            attention_mask=attention_mask,
            query_mask=_extend(self.query_mask, 1, queries),
            key_mask=_extend(key_mask, 1, keys),
            query_positions=_extend(self.query_positions, 1, queries),
            key_positions=_extend(self.key_positions, 1, keys),
            query_segments=_extend(self.query_segments, 1, queries),
            key_segments=_extend(self.key_segments, 1, keys),
        )

    def block(self, row, query_start, key_start, query_block, key_block):
        """What is said of one row of the batch and of a block of its queries and keys: itself a `Visibility`.

        Args:
            row, query_start, key_start: integers or integer tensors; the block must end within what is
                described (see `padded`).
            query_block, key_block: its lengths, integers: a compiler needs them when it compiles.
        """
        of_row, of_query, of_key = (row, 1), (query_start, query_block), (key_start, key_block)
        return self._part(of_row, of_query, of_key)

    def of_keys(self, start, length):
        """What is said of all queries and of `length`, an integer, keys from `start` on."""
        return self._part(None, None, (start, length))

    def _part(self, of_row, of_query, of_key):
        return self._replace(
            attention_mask=_window(self.attention_mask, of_row, None, of_query, of_key),
            query_mask=_window(self.query_mask, of_row, of_query),
            key_mask=_window(self.key_mask, of_row, of_key),
            query_positions=_positions_window(self.query_positions, of_row, of_query),
            key_positions=_positions_window(self.key_positions, of_row, of_key),
            query_segments=_window(self.query_segments, of_row, of_query),
            key_segments=_window(self.key_segments, of_row, of_key),
        )


def _extend(x, axis, length):
    """`x` with zeros after it along `axis`, up to `length`; consecutive positions go on by themselves."""
    if x is None or len(x.shape) == 1 or (isinstance(length, int) and x.shape[axis] == length):
        return x
    shape = list(ops.shape(x))
    shape[axis] = length - shape[axis]
    return ops.concatenate([x, ops.zeros(shape, x.dtype)], axis=axis)


def _extend_broadcast(x, axis, length, block):
    """`_extend` for an axis that may be 1 and stand for any length."""
    shape = list(ops.shape(x))
    if isinstance(shape[axis], int):
        return x if shape[axis] == 1 else _extend(x, axis, length)
    # Only the running graph knows. If it is 1, one block of the same serves as every block.
    is_one = ops.equal(shape[axis], 1)
    shape[axis] = ops.where(is_one, block, shape[axis])
    return _extend(ops.broadcast_to(x, shape), axis, ops.where(is_one, block, length))


def _window(x, *windows):
    """The part of `x` from a start and of a length along each axis (None: all of it).

    Where there is only one to be had, that is it: the one row or the one block that stands for all.
    """
    if x is None:
        return None
    starts, lengths = [], []
    for size, window in zip(ops.shape(x), windows):
        start, length = (0, size) if window is None or (isinstance(size, int) and size == 1) else window
        starts.append(ops.minimum(ops.cast(start, "int32"), size - length))
        lengths.append(length)
    return ops.slice(x, ops.stack(starts), lengths)


def _positions_window(positions, of_row, window):
    if window is None and of_row is None:
        return positions
    if positions is not None and len(positions.shape) == 1:
        return positions[0] + window[0] + ops.arange(window[1], dtype=positions.dtype)
    return _window(positions, of_row, window)
