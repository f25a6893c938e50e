"""What attention checks of the tensors of a call: shapes against each other and against those it was built for.

A mistake is named here, by argument, rather than by the backend and the product in which it comes to light.
"""

import math

import keras

from keras_transformer.layers.attention_places import Places
from keras_transformer.layers.positions import as_positions, axes_fit, is_placeholder


def check_same_dims(value_dims, key_dims):
    if len(value_dims) != len(key_dims) or any(
        isinstance(v, int) and isinstance(k, int) and v != k for v, k in zip(value_dims[1:], key_dims[1:])
    ):
        raise ValueError(
            "All dimensions of `value` and `key`, except the last one, must be equal. "
            f"Received: value's {tuple(value_dims)} and key's {tuple(key_dims)}"
        )


def check_inputs(axes, widths, **inputs):
    """`inputs`, query or query, value and key, against the rank of `axes` and the `widths` by name."""
    for name, x in inputs.items():
        if len(x.shape) != axes.rank or x.shape[-1] not in (None, widths[name]):
            raise ValueError(
                f"`{name}` must have rank {axes.rank} and the width {widths[name]}, for which this layer was built. "
                f"Received: shape={tuple(x.shape)}"
            )
    if "value" not in inputs:
        return
    check_same_dims(inputs["value"].shape[:-1], inputs["key"].shape[:-1])
    first, *others = ([x.shape[a] for a in axes.batch] for x in inputs.values())
    if not all(axes_fit(batch, first) or axes_fit(first, batch) for batch in others):
        raise ValueError(
            "`query`, `value` and `key` must have the same batch. Received: shapes "
            + ", ".join(str(tuple(x.shape)) for x in inputs.values())
        )


def check_is_cache(cache):
    if cache is not None and not (isinstance(cache, dict) and {"key", "value"} <= set(cache)):
        raise ValueError(
            "`cache` must be a value of this layer's `make_cache` or `project_memory`. "
            f"Received: cache={keras.tree.map_structure(lambda x: tuple(getattr(x, 'shape', ())), cache)}, by shapes"
        )


def check_cache_sizes(batch_size, max_length, num_beams):
    """Arguments of `make_cache`, of which tensors are taken as they are."""
    for name, size, least in (
        ("batch_size", batch_size, 0),
        ("max_length", max_length, 1),
        ("num_beams", num_beams, 1),
    ):
        if isinstance(size, int) and size < least:
            raise ValueError(f"`{name}` must be at least {least}. Received: {name}={size}")


def check_cache(cache, query, heads, width, value_width, attention_mask=None):
    """`cache` against `query` `(B, T, D)` and the layer's heads of keys and values and their widths."""
    if is_placeholder(query):
        return
    batch, *of_keys, room, key_width = cache["key"].shape
    rows, length = query.shape[:2]
    if [*of_keys, key_width, cache["value"].shape[-1]] != [heads, width, value_width]:
        raise ValueError(
            f"`cache` must hold {heads} heads of keys of width {width} and values of width {value_width}, as a value "
            "of this layer's `make_cache` or `project_memory`. Received: keys of the shape "
            f"{tuple(cache['key'].shape)}, values of the shape {tuple(cache['value'].shape)}"
        )
    are_known = isinstance(rows, int) and isinstance(batch, int) and batch > 0
    if are_known and rows % batch:
        raise ValueError(
            "The batch of `query` must be a multiple of that of `cache`, rows of which share a row. "
            f"Received: a query of shape {tuple(query.shape)} and a cache for the batch {batch}"
        )
    if "position" not in cache:
        return
    num_beams = rows // batch if are_known else 1
    if num_beams > 1 and attention_mask is None:
        raise ValueError(
            f"`cache` was made for the batch {batch}. Received: a query of shape {tuple(query.shape)}. If its rows are "
            "beams, which share a row of the cache, pass the `attention_mask` that says what each of them sees."
        )
    if isinstance(length, int) and isinstance(room, int) and length * num_beams > room:
        raise ValueError(
            f"`query` must have at most the length {room // num_beams} for which its `cache` was made. "
            f"Received: shape={tuple(query.shape)}. Make the cache with a larger `max_length`."
        )
    written = _known(cache["position"])
    if written is not None and isinstance(length, int) and isinstance(room, int):
        if (written + length) * num_beams > room:
            raise ValueError(
                f"`cache` has room for {room // num_beams} positions, and {written} of them are written. "
                f"Received: a query of {length} more, shape={tuple(query.shape)}. "
                "Make the cache with a larger `max_length`."
            )


def _known(number):
    """An integer tensor as an `int`; None while a graph is being made, where its value is not known yet."""
    try:
        return int(number)
    except (TypeError, RuntimeError):
        return None


def places_of(axes, x):
    """Batch and length of `x`, None where they are not known."""
    batch, attended = ([x.shape[a] for a in of] for of in (axes.batch, axes.attended))
    return tuple(None if None in dims else math.prod(dims) for dims in (batch, attended))


def integers_of_places(queries, sources, places):
    """`Places` as int32 tensors of rank 2, or None. Those that are given need not be consecutive.

    Args:
        queries, sources: what `places_of` says of them.
    """
    positions, key_positions, segment_ids, key_segment_ids = places
    if key_segment_ids is not None and segment_ids is None:
        raise ValueError(
            "`key_segment_ids` are the segments of keys, which a query sees if they are its own. "
            "Received: segment_ids=None. Pass `segment_ids` too."
        )
    given = {
        "positions": (positions, queries),
        "key_positions": (key_positions, sources),
        "segment_ids": (segment_ids, queries),
        "key_segment_ids": (key_segment_ids, sources),
    }
    found = {name: None if x is None else as_positions(x, name, of) for name, (x, of) in given.items()}
    for name in ("positions", "segment_ids"):
        if found[name] is not None and found[f"key_{name}"] is None and not axes_fit(queries[1:], sources[1:]):
            raise ValueError(
                f"`key_{name}` is needed where there are not as many keys as queries. "
                f"Received: `{name}` for {queries[1]} queries, and {sources[1]} keys"
            )
    return Places(*(x[None] if x is not None and len(x.shape) == 1 else x for x in found.values()))
