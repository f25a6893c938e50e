"""Prompts in few shapes, for searches that are compiled anew for each."""

import numpy as np
from keras import ops

from keras_transformer.generation.buckets import bucket, padded

SHORTEST = 16
"""The least number of places that prompts are padded to, and that there is room for in a search."""


def in_buckets(search, token_ids, padding_mask, tensors, max_length=None):
    """What `search` finds, asked for a batch and a length of prompts of which there are few.

    Rows that are added have a limit of zero, so that no search waits for them.

    Args:
        search: a function of ids `(B, P)` and a dict of tensors, the mask among them.
        token_ids, padding_mask: NumPy arrays `(B, P)`; the mask may be None.
        tensors: the other tensors of the search, by name.
        max_length: as in `CausalLM.generate`.
    """
    batch, length = token_ids.shape
    rows, columns = bucket(batch), bucket(length, SHORTEST, steps=2)
    mask = np.ones(token_ids.shape, bool) if padding_mask is None else padding_mask
    longest = length + 50 if max_length is None else max_length
    if "limits" in tensors:
        limits = np.minimum(ops.convert_to_numpy(tensors["limits"]), longest)
    else:
        limits = mask.sum(axis=1) + 50 if max_length is None else np.full(batch, max_length)
    others = {name: x for name, x in tensors.items() if name not in ("seed", "limits")}
    given = {
        **{name: padded(x, [rows]) for name, x in others.items()},
        "limits": ops.convert_to_tensor(np.pad(limits, (0, rows - batch)).astype("int32")),
        **({"seed": tensors["seed"]} if "seed" in tensors else {}),
    }
    mask = np.pad(mask, ((0, rows - batch), (0, columns - length)))
    mask[batch:, 0] = True  # a row has a token to start from
    if not mask.all():
        given["padding_mask"] = ops.convert_to_tensor(mask)
    token_ids = np.pad(token_ids, ((0, rows - batch), (0, columns - length)))
    found = search(ops.convert_to_tensor(token_ids), given)
    found = type(found)(*(x[:batch] for x in found))
    return found._replace(token_ids=found.token_ids[..., :longest])
