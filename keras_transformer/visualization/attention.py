"""Attention maps: rows of queries, columns of keys, one panel a head."""

import math

import numpy as np
from matplotlib.figure import Figure

from keras_transformer.training import complete_or_absent


def plot_attention(scores, queries, keys, path, title=None):
    """Writes a PNG of the attention weights of each head, the mean of all heads last.

    Args:
        scores: `(H, T, S)`, one sentence's weights in one layer.
        queries: `T` labels, for the rows.
        keys: `S` labels, for the columns.
        path: of the PNG.
        title: over the whole picture.
    """
    scores = np.asarray(scores, "float32")
    if scores.ndim != 3 or scores.shape[1:] != (len(queries), len(keys)):
        raise ValueError(
            "`scores` must have the shape (heads, queries, keys). "
            f"Received: shape={scores.shape} with {len(queries)} queries and {len(keys)} keys."
        )
    panels = [(f"head {head}", weights) for head, weights in enumerate(scores)]
    panels.append(("mean of heads", scores.mean(axis=0)))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = 1.2 + 0.3 * len(keys), 1.2 + 0.3 * len(queries)
    figure = Figure(figsize=(columns * width, rows * height + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (name, weights) in zip(axes.flat, panels, strict=False):
        axis.imshow(weights, vmin=0.0, vmax=1.0, cmap="magma_r")
        axis.set_title(name, fontsize=9)
        # Text is text: a dollar sign in it is no beginning of a formula.
        axis.set_xticks(range(len(keys)), keys, rotation=90, fontsize=7, parse_math=False)
        axis.set_yticks(range(len(queries)), queries, fontsize=7, parse_math=False)
    figure.colorbar(axes.flat[0].images[0], ax=axes, shrink=0.6, label="attention weight")
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    with complete_or_absent(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
