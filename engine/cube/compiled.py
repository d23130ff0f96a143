"""The inner loops of reading, compiled: one pass over a piece for each asset.

They hold no interpreter lock, so that a worker's threads share the work; each pixel is worked out
from itself alone, so that neither their number nor the piece shows in a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

__all__ = ["between", "encode_where", "resample"]

F = TypeVar("F", bound=Callable[..., Any])

_EDGE = 1e-6  # of a source pixel: a centre this near to a pixel's edge lies on it


def _compiled(function: F) -> F:
    # cached beside the source, or in the user's cache where that cannot be written
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@_compiled
def between(nodes: Any, step: int, row: int, col: int, out: Any) -> None:
    """Values at pixels from values at nodes every `step` pixels, bilinear.

    Parameters
    ----------
    nodes : float64 (n, n)
    step : pixels between nodes.
    row, col : first pixel, from the first node.
    out : float64 (rows, columns)
    """
    for i in range(out.shape[0]):
        r, v = (row + i) // step, (row + i) % step / step
        c, k = col // step, col % step
        for j in range(out.shape[1]):
            u = k / step
            above = nodes[r, c] + (nodes[r, c + 1] - nodes[r, c]) * u
            below = nodes[r + 1, c] + (nodes[r + 1, c + 1] - nodes[r + 1, c]) * u
            out[i, j] = above + (below - above) * v
            k += 1
            if k == step:
                c, k = c + 1, 0


@_compiled
def resample(
    values: Any,
    top: int,
    left: int,
    x: Any,
    y: Any,
    down: float,
    across: float,
    nodata: Any,
    declared: bool,
    whole: bool,
    out: Any,
    valid: Any,
) -> None:
    """Take pixels out of a part of a source: by a tent over valid pixels, or the nearest.

    Parameters
    ----------
    values : array (row, column)
        The part; what lies outside of it lies outside the file.
    top, left : first row and column of the part in the file.
    x, y : float64 (rows, columns)
        Where the centres lie, in pixels of the file from its corner.
    down, across : radius of the tent in pixels, 1 or more; 0 for the nearest.
    nodata, declared : the value without data, of the part's type, and whether there is one.
    whole : whether to round to integers, half to even.
    out, valid : arrays (rows, columns) to fill; 0 and False where the source has nothing.
    """
    height, width = values.shape
    far_down, far_across = math.ceil(down), math.ceil(across)
    unit = down == 1 and across == 1
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            v, u = y[i, j] - 0.5 - top, x[i, j] - 0.5 - left
            if unit and 0 <= v < height - 1 and 0 <= u < width - 1:
                # nearly every pixel: four valid ones around it
                row, col = int(v), int(u)
                v, u = v - row, u - col
                a, b = values[row, col], values[row, col + 1]
                c, d = values[row + 1, col], values[row + 1, col + 1]
                if not (declared and (a == nodata or b == nodata or c == nodata or d == nodata)):
                    above, below = a + u * (float(b) - a), c + u * (float(d) - c)
                    mixed = above + v * (below - above)
                    if mixed == mixed:
                        out[i, j] = np.rint(mixed) if whole else mixed
                        valid[i, j] = True
                        continue
            out[i, j] = 0
            valid[i, j] = False
            row, col = int(np.floor(y[i, j] + _EDGE)) - top, int(np.floor(x[i, j] + _EDGE)) - left
            if row < 0 or col < 0 or row >= height or col >= width:
                continue
            value = values[row, col]
            if value != value or (declared and value == nodata):
                continue
            valid[i, j] = True
            if down == 0:
                out[i, j] = value
                continue
            high, wide = np.floor(y[i, j] - 0.5), np.floor(x[i, j] - 0.5)
            v, u = y[i, j] - 0.5 - high, x[i, j] - 0.5 - wide
            row, col = int(high) - top, int(wide) - left
            total, weight = 0.0, 0.0
            for below in range(1 - far_down, far_down + 1):
                high = 1 - abs(below - v) / down
                if high <= 0 or row + below < 0 or row + below >= height:
                    continue
                for beside in range(1 - far_across, far_across + 1):
                    wide = 1 - abs(beside - u) / across
                    if wide <= 0 or col + beside < 0 or col + beside >= width:
                        continue
                    value = values[row + below, col + beside]
                    if value != value or (declared and value == nodata):
                        continue
                    total += high * wide * value
                    weight += high * wide
            mixed = total / weight
            out[i, j] = np.rint(mixed) if whole else mixed


@_compiled
def encode_where(dn: Any, take: Any, factor: float, shift: float, most: int, out: Any) -> None:
    """Digital numbers to the stored convention, where `take` holds; else `out` stays.

    `engine.cube.radiometry.encode` says what is stored.
    """
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            if take[i, j]:
                value = np.rint(dn[i, j] * factor + shift + 1e-9)
                out[i, j] = min(max(value, 1), most)
