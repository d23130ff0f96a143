"""Labels of pixels from labelled cells: what nobody has labelled is unknown."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from engine.datasets.chips import UNKNOWN
from engine.datasets.patches import PatchSet

__all__ = ["CELL", "paint_labels"]

CELL = 100.0
"""Side of the ground that a label of a cell is of, in metres."""


def paint_labels(patches: PatchSet, where: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    """Codes of the pixels of patches with their context, 255 where nobody has labelled them.

    A label is of its cell's own pixels, whoever has the cell in sight: a patch shows the labels of
    all `where`, of its place, that it reaches, and none of another split's. In a set without
    coordinates, where a label is said of a whole patch, it is of all its pixels.

    Parameters
    ----------
    patches : PatchSet
    where : positions, those of one split.

    Returns
    -------
    uint8 (n, side, side)
    """
    side = patches.patch + 2 * patches.context
    out = np.full((len(where), side, side), UNKNOWN, np.uint8)
    step = round(CELL / patches.resolution)
    for number in range(len(patches.places)):
        here = np.flatnonzero(patches.place[where] == number)
        rows = where[here]
        xy, y = patches.xy[rows], patches.y[rows]
        if not np.isfinite(xy).all():
            inner = slice(patches.context, patches.context + patches.patch)
            out[here, inner, inner] = y[:, None, None]
            continue
        before = (side - step) // 2
        reach = (side + step) / 2 * patches.resolution
        for k, near in zip(here, cKDTree(xy).query_ball_point(xy, reach, p=np.inf), strict=True):
            own = patches.xy[where[k]]
            for other in sorted(near):
                right, up = np.rint((xy[other] - own) / patches.resolution).astype(int)
                top, left = before - up, before + right
                rim = np.s_[max(top, 0) : max(top + step, 0), max(left, 0) : max(left + step, 0)]
                out[k][rim] = y[other]
            out[k][before : before + step, before : before + step] = patches.y[where[k]]
    return out
