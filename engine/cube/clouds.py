"""Which pixels of a day can be used: the scene classification, and a disc around cloud."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NO_SCL", "READ_FAILED", "dilate", "dilation_halo", "find_usable", "widest_dilation"]

_REJECTED = (0, 1, 3, 8, 9, 10)  # nodata, defective, cloud shadow, cloud medium and high, cirrus
_GROWN = (3, 8, 9, 10)
_SNOW = 11
READ_FAILED = 254
"""Stored in place of a class where an item could not be read."""
NO_SCL = 255
"""Stored in place of a class where the item has no scene classification: usable."""


_RESERVE = 90.0  # metres


def widest_dilation(metres: float, resolution: float) -> int:
    """Pixels of scenes kept around what a composite needs, whatever discs it is made with.

    So a changed disc, up to 90 m, asks for no other grid, and no scene is read again.
    """
    return dilation_halo(max(metres, _RESERVE), resolution)


def dilation_halo(dilation: float, resolution: float) -> int:
    """Pixels that a disc of `dilation` metres reaches."""
    return math.floor(dilation / resolution + 1e-9)


def find_usable(
    scl: npt.NDArray[np.uint8], resolution: float, dilation: float, *, snow: bool = False
) -> npt.NDArray[np.bool_]:
    """Where a day's pixels may enter the composite.

    Parameters
    ----------
    scl : uint8 (y + 2h, x + 2h)
        The day's merged scene classification with `dilation_halo` pixels each side.
    resolution : float
        Metres.
    dilation : float
        Metres around classes 3, 8, 9 and 10: a Euclidean disc between pixel centres.
    snow : bool
        Also reject class 11.

    Returns
    -------
    bool (y, x)
    """
    accepted = np.zeros(256, bool)
    accepted[:12] = True
    accepted[list(_REJECTED)] = False
    accepted[NO_SCL] = True
    if snow:
        accepted[_SNOW] = False
    halo = dilation_halo(dilation, resolution)
    core = scl[halo : scl.shape[0] - halo, halo : scl.shape[1] - halo]
    usable: npt.NDArray[np.bool_] = accepted[core]
    if halo:
        grown = np.zeros(256, bool)
        grown[list(_GROWN)] = True
        usable &= ~dilate(grown[scl], dilation / resolution)
    return usable


def dilate(mask: npt.NDArray[np.bool_], radius: float) -> npt.NDArray[np.bool_]:
    """Dilate by a Euclidean disc between pixel centres.

    Parameters
    ----------
    mask : bool (y + 2h, x + 2h), h the whole part of `radius`
    radius : float
        Pixels; a centre at exactly this distance counts.

    Returns
    -------
    bool (y, x): the core.
    """
    halo = math.floor(radius + 1e-9)
    height, width = mask.shape
    out = np.zeros((height - 2 * halo, width - 2 * halo), bool)
    # A disc is a stack of row segments. From its rim to its middle they only get longer, so one
    # row-wise dilation is grown step by step and laid down above and below.
    row: npt.NDArray[Any] = mask.copy()
    reached = 0
    for dy in range(halo, -1, -1):
        half = math.floor(math.sqrt(max(radius * radius - dy * dy, 0.0)) + 1e-9)
        for _ in range(half - reached):
            wider = row.copy()
            wider[:, 1:] |= row[:, :-1]
            wider[:, :-1] |= row[:, 1:]
            row = wider
        reached = half
        for top in {halo - dy, halo + dy}:
            out |= row[top : top + out.shape[0], halo : width - halo]
    return out
