"""Pictures of confusion matrices."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def plot_confusion_matrix(shares: np.ndarray, names: tuple[str, ...], out: Path) -> None:
    """Draw a confusion matrix with room for every name.

    Args:
        shares: (n, n) percentages of the true classes (rows); the last row and column are the
            background.
        names: of the n classes.
        out: the picture; its suffix decides the format.
    """
    side = 2.5 + 0.42 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained", dpi=110)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the row")
    places = range(len(names))
    axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names)
    axes.set(xlabel="predicted (background: missed)", ylabel="true (background: nothing there)")
    for row, column in np.argwhere(shares >= 0.5):
        ink = "white" if shares[row, column] > 55 else "black"
        text = f"{shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # class names are not formulas
    figure.savefig(out)
