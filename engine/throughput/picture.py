"""A benchmark as a picture: where the time goes, beside the floors; memory over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.accounting import STEPS

if TYPE_CHECKING:
    from engine.throughput.bench import Benchmark

__all__ = ["draw"]

_FLOORS = {"read": "decode", "forward": "forward", "write": "write"}


def draw(found: Benchmark, path: Path) -> None:
    """Draw as PNG what the benchmark has of steps, ratios and memory."""
    steps = {
        step: found.figures[name]
        for step in STEPS
        if (name := f"parts: step {step} cpu") in found.figures
    }
    panels = [bool(steps), bool(found.ratios), len(found.memory) > 1]
    figure = Figure(figsize=(7.2, 0.6 + 2.6 * max(sum(panels), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(sum(panels), 1), 1, squeeze=False)[:, 0].tolist()
    if panels[0]:
        _steps(axes.pop(0), found, list(steps))
    if panels[1]:
        _ratios(axes.pop(0), found)
    if panels[2]:
        _memory(axes.pop(0), found)
    for spare in axes:
        spare.set_axis_off()
    with mpl.rc_context({"savefig.dpi": 130}):
        figure.savefig(path)


def _steps(axes: Axes, found: Benchmark, steps: list[str]) -> None:
    for row, step in enumerate(steps):
        value = found.figures[f"parts: step {step} cpu"].middle
        axes.barh(row, value, color="#4C78A8")
        axes.text(value, row, f" {value:.2g} s", va="center", size=8)
        floor = found.figures.get(f"parts: floor {_FLOORS.get(step, '')} cpu")
        if floor is not None:
            axes.plot([floor.middle] * 2, [row - 0.4, row + 0.4], color="#D62728", lw=2)
    axes.set_yticks(range(len(steps)), steps)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("CPU seconds; red: the floor of that step")
    axes.set_title("all stages in one process", size=10)


def _ratios(axes: Axes, found: Benchmark) -> None:
    names = list(found.ratios)
    for row, name in enumerate(names):
        middle, low, high = found.ratios[name]
        axes.plot(middle, row, "o", color="#4C78A8")
        if low == low:
            axes.plot([low, high], [row, row], color="#4C78A8", lw=2)
        axes.text(middle, row - 0.18, f"{middle:.2f}", ha="center", va="bottom", size=8)
    axes.axvline(1, color="#888888", lw=1)
    axes.set_yticks(range(len(names)), names, size=7)
    axes.set_ylim(len(names) - 0.4, -0.8)
    axes.set_xlabel("times; 95 % intervals over rounds")


def _memory(axes: Axes, found: Benchmark) -> None:
    seconds, megabytes = zip(*found.memory, strict=True)
    axes.step(seconds, megabytes, where="post", color="#4C78A8")
    axes.set_ylim(0, 1.15 * max(megabytes))
    axes.set_xlabel("seconds since the command")
    axes.set_ylabel("MB of the largest worker")
