"""Patterns as pictures: rows of queries, columns of keys, dark where the query sees the key."""

from keras import ops
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def plot_pattern(pattern, length):
    """A figure of who sees whom among `length` positions.

    Args:
        pattern: one of `keras_transformer.layers.patterns`.
        length: how many positions, from 0.

    Returns:
        A `matplotlib.figure.Figure`; `figure.savefig(path)` writes it.
    """
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"`length` must be an integer of at least 1. Received: length={length!r}")
    positions = ops.arange(length, dtype="int32")
    seen = ops.convert_to_numpy(pattern(positions[:, None], positions[None, :]))
    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(seen, vmin=0.0, vmax=1.0, cmap="magma_r", interpolation="nearest")
    if length <= 64:
        # Lines between the cells, which are hard to count without.
        edges = [edge - 0.5 for edge in range(1, length)]
        axes.set_xticks(edges, minor=True)
        axes.set_yticks(edges, minor=True)
        axes.grid(which="minor", color="0.8", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("key position")
    axes.set_ylabel("query position")
    axes.set_title(repr(pattern), fontsize=9, wrap=True)
    return figure
