"""Pictures of figures: a confusion matrix, and the curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.legend import LCZ

__all__ = ["draw_confusion", "draw_curves"]


def draw_confusion(counts: npt.NDArray[np.int64], path: str | Path, title: str = "") -> None:
    """Draw a 17 x 17 confusion matrix as PNG, rows (reference) in percent of their sum.

    Classes that occur neither in the reference nor in the map are left out.
    """
    used = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts = counts[np.ix_(used, used)]
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    labels = [LCZ[k].label for k in used]
    n = len(used)
    figure = Figure(figsize=(0.46 * n + 2.6, 0.42 * n + 1.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for i in range(n):
        for j in range(n):
            if share[i, j] >= 0.5:
                colour = "white" if share[i, j] > 55 else "black"
                text = f"{share[i, j]:.0f}"
                axes.text(j, i, text, ha="center", va="center", color=colour, size=8)
    names = [f"{LCZ[k].label}  {LCZ[k].title}" for k in used]
    axes.set_xticks(range(n), labels)
    axes.set_yticks(range(n), names, size=8)
    for k, tick in zip(used, axes.get_xticklabels(), strict=True):
        tick.set_color(f"#{LCZ[k].colour}" if LCZ[k].label != "F" else "#9A8F30")
        tick.set_fontweight("bold")
    axes.set_xlabel("map")
    axes.set_ylabel("reference")
    axes.set_title(title or "share of the reference, %", size=10)
    figure.colorbar(image, ax=axes, shrink=0.8, label="%")
    with mpl.rc_context({"savefig.dpi": 130}):
        figure.savefig(path)


def draw_curves(history: Sequence[Mapping[str, float]], best: int, path: str | Path) -> None:
    """Draw loss and accuracy by epoch as PNG.

    Parameters
    ----------
    history : of each epoch ``number``, ``loss``, ``accuracy``, ``validation_loss``,
        ``validation_accuracy``, ``validation_f1``.
    best : number of the epoch whose weights were kept.
    path : of the picture.
    """
    epochs = [entry["number"] for entry in history]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, lines in (
        (left, (("loss", "training"), ("validation_loss", "validation"))),
        (
            right,
            (
                ("accuracy", "training, as drawn"),
                ("validation_accuracy", "validation"),
                ("validation_f1", "validation, mean F1"),
            ),
        ),
    ):
        for key, label in lines:
            axes.plot(epochs, [entry[key] for entry in history], label=label, marker=".")
        axes.axvline(best, color="grey", lw=1, ls=":", label=f"kept: epoch {best}")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    left.set_ylabel("cross-entropy")
    right.set_ylabel("accuracy")
    with mpl.rc_context({"savefig.dpi": 110}):
        figure.savefig(path)
