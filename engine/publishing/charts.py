"""Pictures of figures: a confusion matrix, the curves of a training, labels by city and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.legend import LCZ

__all__ = ["draw_confusion", "draw_curves", "draw_distribution"]


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


def draw_distribution(counts: Mapping[str, Mapping[int, int]], path: str | Path) -> None:
    """Draw how many labels of each class each city has as PNG, a bar for each city.

    The shares of the bars are those of figure 2 of Kim et al. (2021); the numbers stand beside.

    Parameters
    ----------
    counts : of each city, labels by class, 1 to 17.
    path : of the picture.
    """
    cities = sorted(counts, key=lambda city: (-sum(counts[city].values()), city))
    figure = Figure(figsize=(9.5, 0.42 * len(cities) + 1.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    used = sorted({code for mine in counts.values() for code, n in mine.items() if n})
    starts = np.zeros(len(cities))
    totals = np.array([max(sum(counts[city].values()), 1) for city in cities])
    for code in used:
        zone = LCZ[code - 1]
        numbers = np.array([counts[city].get(code, 0) for city in cities])
        shares = 100 * numbers / totals
        axes.barh(
            range(len(cities)), shares, left=starts, color=f"#{zone.colour}", edgecolor="white",
            linewidth=0.6, label=f"{zone.label}  {zone.title}",
        )  # fmt: skip
        red, green, blue = (int(zone.colour[k : k + 2], 16) for k in (0, 2, 4))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 128
        for row, (share, number) in enumerate(zip(shares, numbers, strict=True)):
            if share >= 4:
                axes.text(
                    starts[row] + share / 2, row, str(number), ha="center", va="center", size=7,
                    color="white" if dark else "black",
                )  # fmt: skip
        starts = starts + shares
    axes.set_yticks(
        range(len(cities)), [f"{c} ({sum(counts[c].values())})" for c in cities], size=9
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("labels of the city, %; numbers are labels")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    with mpl.rc_context({"savefig.dpi": 130}):
        figure.savefig(path)
