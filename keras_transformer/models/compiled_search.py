"""A compiled search behind a door that lets few shapes through."""

from keras import ops

from keras_transformer.generation.buckets import bucket, padded
from keras_transformer.layers.quantized import quantizations
from keras_transformer.models.position_places import within_reach

SHORTEST = 16
"""The least length that a source is padded to, and that there is room for in a search."""


def in_buckets(model, search, max_length):
    """`search`, a function of ids `(B, S)` and a dict of tensors, for any `B` and `S` from few compiled shapes.

    Rows that are added have a limit of zero, so that no search waits for them. A model without a pad token sees all
    that it is given: its sources keep their length.
    """

    # XLA for CPUs takes half as long for two rows of integers as for one (`benchmarks/products.py`).
    fewest = 2 if quantizations(model) else 1

    def search_in_buckets(ids, tensors):
        batch, length = ops.shape(ids)
        rows = bucket(batch, fewest)
        tensors = dict(tensors)
        longest = length + 50 if max_length is None else max_length
        if "limits" in tensors:
            tensors["limits"] = ops.minimum(tensors["limits"], longest)
        else:
            tensors["limits"] = model.limits(ids) if max_length is None else ops.full((batch,), max_length, "int32")
        seed = {"seed": tensors.pop("seed")} if "seed" in tensors else {}
        tensors = {name: padded(x, [rows]) for name, x in tensors.items()}
        columns = length if model.pad_token_id is None else bucket(length, SHORTEST, steps=2)
        columns = within_reach(columns, model.encoder_position_embedding)
        found = search(padded(ids, [rows, columns], model.pad_token_id or 0), {**tensors, **seed})
        found = cut(type(found)(*(x[:batch] for x in found)), longest)
        if "alignments" in found._fields:
            found = found._replace(alignments=found.alignments[..., :length])
        return found

    return search_in_buckets


def cut(found, max_length):
    """`found` with room for `max_length` tokens; None: as it is."""
    found = found._replace(token_ids=found.token_ids[..., :max_length])
    if "alignments" in found._fields:
        found = found._replace(alignments=found.alignments[..., :max_length, :])
    return found
