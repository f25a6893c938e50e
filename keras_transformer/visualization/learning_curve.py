"""Learning curves from the file that `keras.callbacks.CSVLogger` writes."""

import csv

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_transformer.training import complete_or_absent


def plot_learning_curve(history, path, metric="cross_entropy"):
    """Writes a PNG of `metric` in training and validation against the epoch.

    Args:
        history: path of a CSV file with a column `epoch`, counted from 0.
        path: of the PNG.
        metric: name of the column; that of the validation is `val_<metric>`.
    """
    with open(history, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"`history` must hold at least one epoch. Received: the empty file {history}")
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for column, label in ((metric, "training"), (f"val_{metric}", "validation")):
        points = [(int(row["epoch"]) + 1, float(row[column])) for row in rows if row.get(column)]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric.replace('_', ' ')} (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    with complete_or_absent(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
