"""Points and the centres that they are nearest to, each worked out alone: others change no bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.jit import compiled

__all__ = ["RARE", "nearest", "squares"]

RARE = -1
"""Scene of a patch that is far from every centre."""


@compiled
def nearest(points: Any, centres: Any, which: Any, distance: Any) -> None:
    """Nearest centre of each point by Euclid; of two as near the first.

    Parameters
    ----------
    points : float64 (n, components)
    centres : float64 (m, components)
    which, distance : int64 (n,) and float64 (n,), to fill.
    """
    for i in range(len(points)):
        best = np.inf
        for k in range(len(centres)):
            total = 0.0
            for j in range(points.shape[1]):
                step = points[i, j] - centres[k, j]
                total += step * step
            if total < best:
                best, which[i] = total, k
        distance[i] = np.sqrt(best)


@compiled
def squares(point: Any, centres: Any, out: Any) -> None:
    """Squares of the distances of a point from centres, summed as `nearest` sums them.

    Parameters
    ----------
    point : float64 (components,)
    centres : float64 (m, components)
    out : float64 (m,), to fill.
    """
    for k in range(len(centres)):
        out[k] = 0.0
        for j in range(len(point)):
            step = point[j] - centres[k, j]
            out[k] += step * step
