"""What a call returns: `output[, scores][, cache]`, as asked for. Written and read here only."""


def pack(output, scores=None, cache=None):
    """`output`, or a tuple of it and those of `scores` and `cache` that are not None."""
    others = [result for result in (scores, cache) if result is not None]
    return (output, *others) if others else output


def unpack(results, scores=False, cache=False):
    """`(output, scores, cache)` of what `pack` returned, with None for what was not asked for."""
    output, *others = results if scores or cache else (results,)
    return output, others.pop(0) if scores else None, others.pop() if cache else None
