"""Class filters: each class smoothed by its own Gaussian (Demuzere et al. 2020), or majority.

Sums are of integers, so that a cell comes out the same whatever array it is computed in, and a
tie is a tie.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.legend import LCZ

__all__ = ["filter_halo", "gaussian_filter", "gaussian_kernel", "majority_filter", "widest_halo"]

RadiusRule = Literal["ee", "floor"]

_RADIUS_SIGMA: dict[int, tuple[float, float]] = {
    1: (200, 100),
    **dict.fromkeys((2, 3, 4, 5, 6, 7, 9, 15), (300, 150)),
    **dict.fromkeys((8, 10), (500, 250)),
    **dict.fromkeys((11, 12, 13, 14, 16), (200, 75)),
    17: (50, 25),
}
"""Radius and sigma of each class, in metres."""

_UNIT = 2.0**40


@lru_cache
def gaussian_kernel(code: int, cell: float, rule: RadiusRule) -> npt.NDArray[np.int64]:
    """A class's kernel in units of 2**-40; its float form sums to 1.

    The support is Earth Engine's: offsets shorter than the radius (`ee`), or up to it (`floor`).

    Parameters
    ----------
    code : 1..17
    cell : metres.
    rule : {"ee", "floor"}

    Returns
    -------
    int64 (2k + 1, 2k + 1)
    """
    radius, sigma = _RADIUS_SIGMA[code]
    half = math.ceil(radius / cell) - 1 if rule == "ee" else math.floor(radius / cell)
    offsets = np.arange(-half, half + 1) * cell
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * sigma**2))
    whole: npt.NDArray[np.float64] = np.rint(weights / weights.sum() * _UNIT)
    return whole.astype(np.int64)


def filter_halo(method: str, cell: float, rule: RadiusRule = "ee", radius: int = 1) -> int:
    """Cells around a tile that a filter reads: its widest kernel's half."""
    match method:
        case "gaussian":
            return max(len(gaussian_kernel(c.code, cell, rule)) // 2 for c in LCZ)
        case "majority":
            return radius
        case _:
            return 0


def widest_halo(cell: float, radius: int = 1) -> int:
    """Cells that any of the filters may read: what lies upstream is made for all of them.

    So a changed filter asks for no other grid and no other scores: no model runs again.
    """
    return max(
        filter_halo("gaussian", cell, "ee"),
        filter_halo("gaussian", cell, "floor"),
        filter_halo("majority", cell, radius=radius),
    )


def gaussian_filter(
    classes: npt.NDArray[np.uint8], cell: float = 100.0, rule: RadiusRule = "ee"
) -> npt.NDArray[np.uint8]:
    """The class whose smoothed indicator is largest.

    Parameters
    ----------
    classes : uint8 (y + 2 halo, x + 2 halo)
        Codes, 0 nodata, with `filter_halo` cells each side.
    cell, rule : as in `gaussian_kernel`.

    Returns
    -------
    uint8 (y, x). Nodata votes for nothing and stays. Of equal classes the cell's own wins, else
    the lowest code.
    """
    halo = filter_halo("gaussian", cell, rule)
    kernels = {
        int(code): gaussian_kernel(int(code), cell, rule) for code in np.unique(classes) if code
    }
    return _vote(classes, halo, kernels)


def majority_filter(classes: npt.NDArray[np.uint8], radius: int = 1) -> npt.NDArray[np.uint8]:
    """The most frequent class in the square of `radius` cells around each cell.

    Parameters
    ----------
    classes : uint8 (y + 2 radius, x + 2 radius)
    radius : int

    Returns
    -------
    uint8 (y, x); nodata and ties as in `gaussian_filter`.
    """
    ones = np.ones((2 * radius + 1, 2 * radius + 1), np.int64)
    return _vote(classes, radius, {int(code): ones for code in np.unique(classes) if code})


def _vote(
    classes: npt.NDArray[np.uint8], halo: int, kernels: dict[int, npt.NDArray[np.int64]]
) -> npt.NDArray[np.uint8]:
    height, width = classes.shape[0] - 2 * halo, classes.shape[1] - 2 * halo
    core = classes[halo : halo + height, halo : halo + width]
    best = np.zeros((height, width), np.int64)
    winner = np.zeros((height, width), np.uint8)
    own = np.zeros((height, width), np.int64)
    for code in sorted(kernels):
        kernel = kernels[code]
        half = len(kernel) // 2
        here = classes == code
        score = np.zeros((height, width), np.int64)
        for (row, col), weight in np.ndenumerate(kernel):
            top, left = halo - half + row, halo - half + col
            score += weight * here[top : top + height, left : left + width]
        better = score > best
        winner[better], best[better] = code, score[better]
        mine = core == code
        own[mine] = score[mine]
    keep = own == best
    winner[keep] = core[keep]
    winner[core == 0] = 0
    return winner
