"""Which label is taken for which: rows of true labels, columns of predicted ones."""

import numpy as np
from matplotlib.figure import Figure

from keras_transformer.training import complete_or_absent


def plot_confusion(counts, labels, path, title=None):
    """Writes a PNG of a confusion matrix: the colour is the share of the true label, the number the count.

    Args:
        counts: `(L, L)`: row `i`, column `j` counts what is label `i` and was taken for label `j`.
        labels: `L` names.
        path: of the PNG.
        title: over the picture.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(labels), len(labels)):
        raise ValueError(
            f"`counts` must have a row and a column for each label. Received: shape={counts.shape} with {len(labels)} "
            "labels."
        )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.0 + 0.45 * len(labels)
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0.0, vmax=1.0, cmap="magma_r")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    if len(labels) <= 30:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=5, color=colour)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true label")
    if title:
        axes.set_title(title, fontsize=9, parse_math=False)
    with complete_or_absent(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
