"""Who may attend to whom: every mask of the library is combined here.

Convention: True (or nonzero) means "may attend", as in Keras; PyTorch's boolean masks mean the opposite.
Shapes: `B` batch, `H` heads, `T` query length, `S` source (key) length.
"""

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


def combine_masks(
    attention_mask=None,
    query_mask=None,
    key_mask=None,
    query_positions=None,
    key_positions=None,
):
    """The conjunction of all masks, in a shape that broadcasts to `(B, H, T, S)`; None if there is no mask.

    Args:
        attention_mask: `(T, S)`, `(B, T, S)` or `(B, H, T, S)`.
        query_mask: `(B, T)`. A query that is masked has nothing to attend to.
        key_mask: `(B, S)`. Nobody attends to a key that is masked.
        query_positions, key_positions: `(T,)` and `(S,)`, or with a batch axis in front. Where both
            are given, a query attends to keys at its own position and before it. Causality is stated by
            positions, so that decoding step by step with a cache is the same case as training.
    """
    masks = []
    if attention_mask is not None:
        mask = as_boolean(attention_mask, "attention_mask")
        rank = len(mask.shape)
        if rank not in (2, 3, 4):
            raise ValueError(
                "`attention_mask` must have the shape (T, S), (B, T, S) or (B, heads, T, S). "
                f"Received: shape={tuple(mask.shape)}. A padding mask (B, S) goes into `padding_mask` or `value_mask`."
            )
        masks.append(mask[None, None] if rank == 2 else mask[:, None] if rank == 3 else mask)
    if query_mask is not None:
        masks.append(as_boolean(query_mask, "query_mask")[:, None, :, None])
    if key_mask is not None:
        masks.append(as_boolean(key_mask, "key_mask")[:, None, None, :])
    if query_positions is not None and key_positions is not None:
        causal = key_positions[..., None, :] <= query_positions[..., :, None]
        masks.append(causal[None, None] if len(causal.shape) == 2 else causal[:, None])
    combined = None
    for mask in masks:
        combined = mask if combined is None else ops.logical_and(combined, mask)
    return combined
