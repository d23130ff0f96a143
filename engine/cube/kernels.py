"""The inner loops of reading, compiled: one pass over a piece for each asset.

They hold no interpreter lock, so that a worker's threads share the work; each pixel is worked out
from itself alone, so that neither their number nor the piece shows in a value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.jit import compiled

__all__ = ["between", "corners", "encode_where", "resample", "resample_near"]

_EDGE = 1e-6  # of a source pixel: a centre this near to a pixel's edge lies on it


@compiled
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


@compiled
def corners(
    x: Any, y: Any, top: int, left: int, height: int, width: int, at: Any, across: Any, down: Any
) -> None:
    """Which four pixels of a part lie around each point, and how far it lies between them.

    Parameters
    ----------
    x, y : float64 (rows, columns)
        Points in pixels of the file from its corner.
    top, left, height, width : the part of the file.
    at : int64 (rows, columns) to fill
        Position of the upper left of the four in the part, row by row; -1 where one is missing.
    across, down : float32 (rows, columns) to fill
        Distance from that one, in pixels.
    """
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v, u = y[i, j] - 0.5 - top, x[i, j] - 0.5 - left
            row, col = int(v), int(u)
            inside = (v >= 0) & (u >= 0) & (row < height - 1) & (col < width - 1)
            at[i, j] = row * width + col if inside else -1
            across[i, j] = u - col
            down[i, j] = v - row


@compiled
def resample_near(
    values: Any,
    at: Any,
    across: Any,
    down: Any,
    nodata: Any,
    declared: bool,
    whole: bool,
    out: Any,
    valid: Any,
) -> int:
    """Bilinear where all four pixels of `corners` are valid: nearly everywhere.

    Returns
    -------
    How many pixels are left to `resample`; `valid` is False there, and only there.
    """
    flat, width = values.reshape(-1), values.shape[1]
    left = 0
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            k = at[i, j]
            good = k >= 0
            k = max(k, 0)
            a, b, c, d = flat[k], flat[k + 1], flat[k + width], flat[k + width + 1]
            if declared:
                good &= (a != nodata) & (b != nodata) & (c != nodata) & (d != nodata)
            u, v = float(across[i, j]), float(down[i, j])
            above, below = a + u * (float(b) - a), c + u * (float(d) - c)
            mixed = above + v * (below - above)
            good &= mixed == mixed
            out[i, j] = np.rint(mixed) if whole else mixed
            valid[i, j] = good
            left += not good
    return left


@compiled
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

    Pixels that are `valid` already are left as they are.

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
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            if valid[i, j]:
                continue
            out[i, j] = 0
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


@compiled
def encode_where(dn: Any, take: Any, factor: float, shift: float, most: int, out: Any) -> None:
    """Digital numbers to the stored convention, where `take` holds; else `out` stays.

    `engine.cube.radiometry.encode` says what is stored.
    """
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            if take[i, j]:
                value = np.rint(dn[i, j] * factor + shift + 1e-9)
                out[i, j] = min(max(value, 1), most)
