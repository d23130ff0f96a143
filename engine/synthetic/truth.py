"""The truth of a made-up world: its local climate zones, measured on its pixels.

A cell of 100 m has the zone whose ranges fit best what is measured on the 1 m world in the 320 m
square around it, not the zone that its district was meant to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compiled
from engine.synthetic.districts import World
from engine.synthetic.materials import COVER
from engine.synthetic.surface import paint

__all__ = ["FEATURES", "MISFIT", "Truth", "classify", "measure", "survey"]

CELL, PATCH = 100, 320  # metres
_STEP = 10  # metres; cell and patch are whole numbers of it
_SUMS = 11  # covers, heights, walls, tree heights

FEATURES = (
    "building",
    "paved",
    "rock",
    "trees",
    "scrub",
    "low_plants",
    "bare",
    "water",
    "height",
    "canyon",
    "size",
    "tree_height",
)
"""Fractions of the ground; height of buildings and of trees (m); height over width; size (m)."""

MISFIT = 0.35
"""A cell whose best zone misses by more than this is not well defined."""

_SCALE = {"height": 0.45, "canyon": 0.7, "size": 0.45}  # of a logarithm; shares have 0.1
# Stewart and Oke 2012, table 3, as the made-up country's specification recalls it. Size of
# buildings and kind of ground part what those ranges leave together: 8 and 10 from 5 and 6, bare
# yards of industry from lawns.
_TABLE = """
1  building 0.4:0.6  paved 0.4:0.6  pervious 0:0.1  height 25:  canyon 1.2:99
2  building 0.4:0.7  paved 0.3:0.5  pervious 0:0.2  height 10:25  canyon 0.5:2
3  building 0.4:0.7  paved 0.2:0.5  pervious 0:0.3  height 3:10  canyon 0.4:1.5  size 0:22
4  building 0.2:0.4  paved 0.3:0.4  pervious 0.3:0.4  height 25:
5  building 0.2:0.4  paved 0.3:0.5  pervious 0.2:0.4  height 10:25
6  building 0.2:0.4  paved 0.2:0.5  pervious 0.3:0.6  height 3:10  size 0:22  dust 0:0.3
7  building 0.6:0.9  paved 0:0.2  pervious 0:0.3  height 2:4  size 0:14
8  building 0.3:0.5  paved 0.4:0.5  pervious 0:0.2  height 3:10  size 28:
9  building 0.1:0.2  paved 0:0.2  pervious 0.6:0.8  height 3:10  dust 0:0.3
10 building 0.2:0.3  paved 0.2:0.4  pervious 0.4:0.5  height 5:15  dust 0.35:1
11 trees 0.6:1
12 trees 0.12:0.5  open 0.4:0.88
13 scrub 0.5:1  trees 0:0.15
14 low_plants 0.7:1  trees 0:0.1
15 hard 0.85:1
16 bare 0.7:1
17 water 0.7:1
"""


def _read_table() -> dict[int, dict[str, tuple[float, float]]]:
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for line in _TABLE.strip().splitlines():
        zone, *words = line.split()
        pairs = [word.split(":") for word in words[1::2]]
        ranges = [(float(low), float(high or 1e9)) for low, high in pairs]
        found[int(zone)] = dict(zip(words[::2], ranges, strict=True))
    return found


_RANGES = _read_table()


@dataclass(frozen=True)
class Truth:
    """Of the cells of a window, rows going down.

    Attributes
    ----------
    lcz : uint8 (y, x), 1 to 17
    misfit : float32 (y, x)
        How far the zone's ranges are missed; beyond `MISFIT` no zone fits well.
    features : float32 (feature, y, x), `FEATURES`
    """

    lcz: npt.NDArray[np.uint8]
    misfit: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


def survey(world: World, left: int, top: int, rows: int, cols: int) -> Truth:
    """The truth of rows x cols cells; corner in metres, on multiples of 100."""
    sums = np.zeros((_SUMS, rows * 10 + 22, cols * 10 + 22), np.float32)
    _gather(world, left - 110, top + 110, sums)
    features = measure(_patches(sums, rows, cols))
    lcz, misfit = classify(features)
    return Truth(lcz, misfit, features)


_BLOCK = 192  # steps of 10 m that are painted at once


def _gather(world: World, left: int, top: int, sums: npt.NDArray[np.float32]) -> None:
    """Sums over squares of 10 m, block by block."""
    for i in range(0, sums.shape[1], _BLOCK):
        for j in range(0, sums.shape[2], _BLOCK):
            part = sums[:, i : i + _BLOCK, j : j + _BLOCK]
            # one pixel more to the right and below: walls stand between pixels
            seen = paint(
                world,
                left + j * _STEP,
                top - i * _STEP,
                part.shape[1] * _STEP + 1,
                part.shape[2] * _STEP + 1,
            )
            _add(seen.material, seen.height, COVER, part)


@compiled
def _add(material: Any, height: Any, cover: Any, sums: Any) -> None:
    for i in range(sums.shape[1] * _STEP):
        for j in range(sums.shape[2] * _STEP):
            a, b = i // _STEP, j // _STEP
            kind = cover[material[i, j]]
            sums[kind, a, b] += 1
            if kind == 0:
                sums[8, a, b] += height[i, j]
            elif kind == 3:
                sums[10, a, b] += height[i, j]
            sums[9, a, b] += (kind == 0) != (cover[material[i, j + 1]] == 0)
            sums[9, a, b] += (kind == 0) != (cover[material[i + 1, j]] == 0)


def _patches(sums: npt.NDArray[np.float32], rows: int, cols: int) -> npt.NDArray[np.float64]:
    """Sums over the 320 m square about each cell of 100 m, float64 (sum, y, x)."""
    total = np.zeros((sums.shape[0], sums.shape[1] + 1, sums.shape[2] + 1))
    total[:, 1:, 1:] = sums.cumsum(1, np.float64).cumsum(2)
    side, step = PATCH // _STEP, CELL // _STEP
    i, j = np.arange(rows) * step, np.arange(cols) * step
    found: npt.NDArray[np.float64] = (
        total[:, i[:, None] + side, j + side]
        - total[:, i[:, None], j + side]
        - total[:, i[:, None] + side, j]
        + total[:, i[:, None], j]
    )
    return found


def measure(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Features of squares from their sums: see `FEATURES`.

    Canyon: mean height of buildings over the mean width of the open ground between them, taken as
    pi x open area / wall length (the mean chord of a plane cut by walls, Cauchy). Size: four times
    the area of buildings over the length of their walls, the side of a square building. Walls
    counted along pixel edges are 4 / pi too long in the mean over directions.
    """
    ground = sums[:8].sum(0)
    walls = np.maximum(sums[9] * np.pi / 4, 1e-6)
    built = sums[0]
    height = np.where(built > 0, sums[8] / np.maximum(built, 1), 0)
    width = np.pi * (ground - built) / walls
    canyon = np.where(built > 0, height / np.maximum(width, 0.1), 0)
    size = np.where(built > 0, 4 * built / walls, 0)
    trees = np.where(sums[3] > 0, sums[10] / np.maximum(sums[3], 1), 0)
    return np.concatenate([sums[:8] / ground, [height, canyon, size, trees]]).astype(np.float32)


def classify(
    features: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The zone that fits features best, and by how much it misses.

    A feature outside its range misses by its distance over 0.1 (shares) or, for lengths and
    ratios, by the logarithm of their quotient over a scale; misses add as squares.

    Returns
    -------
    (lcz uint8, misfit float32), of the features' shape without the first axis.
    """
    values = dict(zip(FEATURES, features.astype(np.float64), strict=True))
    plants = values["trees"] + values["scrub"] + values["low_plants"]
    values["pervious"] = plants + values["bare"]
    values["hard"] = values["rock"] + values["paved"]
    values["open"] = values["low_plants"] + values["bare"] + values["scrub"]
    values["dust"] = values["bare"] / np.maximum(plants + values["bare"], 0.02)
    misses = np.stack([_miss(values, lcz) for lcz in range(1, 18)])
    best = misses.argmin(0)
    return (best + 1).astype(np.uint8), np.sqrt(misses.min(0)).astype(np.float32)


def _miss(values: dict[str, npt.NDArray[np.float64]], lcz: int) -> npt.NDArray[np.float64]:
    ranges = dict(_RANGES[lcz])
    if lcz > 10:
        ranges.setdefault("building", (0, 0.1))
        if lcz != 15:
            ranges.setdefault("paved", (0, 0.1))
    total = np.zeros_like(values["building"])
    for name, (low, high) in ranges.items():
        value = values[name]
        if name in _SCALE:
            log = np.log(np.maximum(value, 1e-3))
            off = np.maximum(np.log(max(low, 1e-3)) - log, 0) + np.maximum(log - np.log(high), 0)
            total += (off / _SCALE[name]) ** 2
        else:
            off = np.maximum(low - value, 0) + np.maximum(value - high, 0)
            total += (off / 0.1) ** 2
    return total
