"""Pixels and edges of a block of a categorical raster, by region, class and unit.

An edge is a side of a pixel whose neighbour across that side is of another class, of another
region, or no pixel at all. Regions meet units in pieces: a piece's own edges are those, and the
sides along its unit's border besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compiled

__all__ = ["NOWHERE", "PIECE", "BlockCounts", "count_block", "label", "present"]

NOWHERE = -1
"""Label of a pixel without a class, or outside of all regions."""

PIECE = np.dtype(
    [
        ("row", "i8"),
        ("col", "i8"),
        ("region", "i4"),
        ("kind", "i4"),
        ("pixels", "i8"),
        ("edges", "i8"),
        ("area", "i8"),
    ]
)
"""What a class has in the part of a unit that lies in a region.

``row`` and ``col`` are the unit's, counted from the raster's first pixel; ``kind`` is the class's
place in the legend; ``area`` is the sum of the pixels' weights.
"""

_FIELDS = 7  # of which the kernel writes a row of integers each


@dataclass(frozen=True)
class BlockCounts:
    """Counts of one block.

    Attributes
    ----------
    pieces : PIECE array, ascending by unit row; a unit that other blocks share is counted in part.
    edges : int64 (region, class)
        Sides of pixels of the class that are edges; borders of units are none.
    outline : int64 (region,)
        Sides of pixels of the region whose neighbour is not of it.
    """

    pieces: npt.NDArray[np.void]
    edges: npt.NDArray[np.int64]
    outline: npt.NDArray[np.int64]


def count_block(
    labels: npt.NDArray[np.int32],
    classes: int,
    regions: int,
    unit: int,
    at: tuple[int, int],
    weights: npt.NDArray[np.int64],
) -> BlockCounts:
    """Count pixels and edges.

    Parameters
    ----------
    labels : int32 (height + 2, width + 2)
        ``region * classes + class`` of each pixel and of its neighbours in other blocks, `NOWHERE`
        for those that count nowhere.
    classes, regions : how many there are.
    unit : side of a unit, in pixels.
    at : row and column of the block's first pixel in the raster.
    weights : int64 (height, units across)
        What each pixel adds to its piece's area, by row and unit.

    Returns
    -------
    BlockCounts
    """
    edges = np.zeros((regions, classes), np.int64)
    outline = np.zeros(regions, np.int64)
    found = _count(labels, classes, regions, unit, at[0], at[1], weights, edges, outline)
    pieces = np.empty(len(found), PIECE)
    for k, name in enumerate(PIECE.names or ()):
        pieces[name] = found[:, k]
    return BlockCounts(pieces, edges, outline)


def present(values: npt.NDArray[np.int32], most: int) -> npt.NDArray[np.int64]:
    """Which values from 0 to `most` there are, ascending; those below 0 are none."""
    there = np.zeros(most + 1, np.uint8)
    _mark(values, there)
    return np.flatnonzero(there)


def label(
    codes: npt.NDArray[np.int32],
    where: npt.NDArray[np.int32],
    here_codes: npt.NDArray[np.int64],
    here_regions: npt.NDArray[np.int64],
    out: npt.NDArray[np.int32],
) -> None:
    """Write labels, as `count_block` takes them, of codes and places of regions that are here.

    Parameters
    ----------
    codes, where : int32 (y, x), below 0 where there is none.
    here_codes, here_regions : all that occur, ascending.
    out : int32 (y, x)
    """
    of_code = np.zeros(int(here_codes[-1]) + 1, np.int32)
    of_code[here_codes] = np.arange(len(here_codes))
    of_region = np.zeros(int(here_regions[-1]) + 1, np.int32)
    of_region[here_regions] = np.arange(len(here_regions)) * len(here_codes)
    _label(codes, where, of_code, of_region, out)


@compiled
def _mark(values: Any, there: Any) -> None:
    for i in range(values.shape[0]):
        last = -1
        for j in range(values.shape[1]):
            value = values[i, j]
            if value != last and value >= 0:
                there[value] = 1
            last = value


@compiled
def _label(codes: Any, where: Any, of_code: Any, of_region: Any, out: Any) -> None:
    for i in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            code, region = codes[i, j], where[i, j]
            known = code >= 0 and region >= 0
            out[i, j] = of_code[code] + of_region[region] if known else NOWHERE


@compiled
def _differ(row: Any, start: int, stop: int, label: int) -> int:
    """How many labels of a stretch are another one; written so that it is vectorised."""
    found = 0
    for i in range(start, stop):
        found += row[i] != label
    return found


@compiled
def _outside(row: Any, start: int, stop: int, low: int, high: int) -> int:
    """How many labels of a stretch are not of a region, which has those from low to high."""
    found = 0
    for i in range(start, stop):
        found += (row[i] < low) | (row[i] >= high)
    return found


@compiled
def _count(
    labels: Any,
    classes: int,
    regions: int,
    unit: int,
    top: int,
    left: int,
    weights: Any,
    edges: Any,
    outline: Any,
) -> Any:
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    first_col = left // unit
    across = (left + width - 1) // unit - first_col + 1
    table = np.zeros((across, regions, classes, 3), np.int64)
    found = np.empty((256, _FIELDS), np.int64)
    size = 0
    for i in range(height):
        row, above, below = labels[i + 1], labels[i], labels[i + 2]
        begins = (top + i) % unit == 0
        ends = (top + i + 1) % unit == 0
        start = 0
        while start < width:
            label = row[start + 1]
            col = (left + start) // unit
            limit = min((col + 1) * unit - left, width)
            stop = start + 1
            while stop < limit and row[stop + 1] == label:
                stop += 1
            if label >= 0:
                region, kind = label // classes, label % classes
                low, high = region * classes, (region + 1) * classes
                long = stop - start
                up = _differ(above, start + 1, stop + 1, label)
                down = _differ(below, start + 1, stop + 1, label)
                before, after = row[start], row[stop + 1]
                edges[region, kind] += up + down + (before != label) + (after != label)
                out = int(before < low or before >= high) + int(after < low or after >= high)
                if up:
                    out += _outside(above, start + 1, stop + 1, low, high)
                if down:
                    out += _outside(below, start + 1, stop + 1, low, high)
                outline[region] += out
                own = long if begins else up
                own += long if ends else down
                own += (before != label) or (left + start) % unit == 0
                own += (after != label) or (left + stop) % unit == 0
                cell = table[col - first_col, region, kind]
                cell[0] += long
                cell[1] += own
                cell[2] += long * weights[i, col - first_col]
            start = stop
        if ends or i == height - 1:
            for c in range(across):
                for r in range(regions):
                    for k in range(classes):
                        if table[c, r, k, 0]:
                            if size == len(found):
                                more = np.empty((2 * size, _FIELDS), np.int64)
                                more[:size] = found
                                found = more
                            entry = found[size]
                            entry[0], entry[1] = (top + i) // unit, first_col + c
                            entry[2], entry[3] = r, k
                            entry[4:] = table[c, r, k]
                            size += 1
            table[:] = 0
    return found[:size]
