"""Whose keys a beam sees: a table instead of caches that are moved.

What the beams of a sentence write to a cache at a position lies there side by side (see
`MultiHeadAttention.make_cache`). A beam that continues another sees what that one saw. The table, bool
`(rows, max_length, num_beams)`, says of each row and each position which of the beams of that time it descends from.
"""

from keras import ops


def start(batch, num_beams, max_length):
    """Before the first token each beam descends from itself."""
    return ops.logical_or(_own(batch * num_beams, num_beams), ops.zeros((1, max_length, 1), "bool"))


def side_by_side(cache, num_beams):
    """A cache for `num_beams` rows of each of its own, all of which have written what is in it."""
    return {**cache, **{name: ops.repeat(cache[name], num_beams, axis=2) for name in ("key", "value")}}


def mask(lineage):
    """The `attention_mask` `(rows, 1, max_length * num_beams)` for one token of each row."""
    rows, length, num_beams = ops.shape(lineage)
    return ops.reshape(lineage, (rows, 1, length * num_beams))


def reorder(lineage, rows, written):
    """The table when row `i` continues row `rows[i]` and `written` positions are in the cache."""
    count, length, num_beams = ops.shape(lineage)
    is_past = (ops.arange(length, dtype="int32") < written)[None, :, None]
    return ops.where(is_past, ops.take(lineage, rows, axis=0), _own(count, num_beams))


def _own(rows, num_beams):
    """Each row's own place among the beams of its sentence, as bool `(rows, 1, num_beams)`."""
    numbers = ops.arange(rows, dtype="int32") % num_beams
    return (numbers[:, None] == ops.arange(num_beams, dtype="int32"))[:, None]
