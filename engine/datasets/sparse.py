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


def paint_labels(
    patches: PatchSet, where: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None]:
    """Codes of the pixels of patches with their context, 255 where nobody has labelled them.

    A label is of its cell's own pixels, whoever has the cell in sight: a patch shows the labels of
    all `where`, of its place, that it reaches, and none of another split's. A pseudo-label is of
    the pixels of its larger cell, and gives way to labels. In a set without coordinates, where a
    label is said of a whole patch, it is of all its pixels.

    Parameters
    ----------
    patches : PatchSet
    where : positions, those of one split.

    Returns
    -------
    codes : uint8 (n, side, side)
    weights : float32 (n, side, side), 1 of labels, of pseudo-labels their confidence; None where
        there are no pseudo-labels among them
    """
    side = patches.patch + 2 * patches.context
    out = np.full((len(where), side, side), UNKNOWN, np.uint8)
    pseudo, known = patches.pseudo, patches.weights
    weights = None
    if known is not None and pseudo[where].any():
        weights = np.ones(out.shape, np.float32)
    small, large = (round(m / patches.resolution) for m in (CELL, patches.pseudo_side or CELL))
    for number in range(len(patches.places)):
        here = np.flatnonzero(patches.place[where] == number)
        rows = where[here]
        xy, y = patches.xy[rows], patches.y[rows]
        if not np.isfinite(xy).all():
            inner = slice(patches.context, patches.context + patches.patch)
            out[here, inner, inner] = y[:, None, None]
            continue
        reach = (side + max(small, large)) / 2 * patches.resolution
        for k, near in zip(here, cKDTree(xy).query_ball_point(xy, reach, p=np.inf), strict=True):
            # pseudo-labels first, labels over them, its own over all
            order = sorted(near, key=lambda n: (not pseudo[rows[n]], rows[n] == where[k], n))
            for other in order:
                step = large if pseudo[rows[other]] else small
                right, up = np.rint((xy[other] - patches.xy[where[k]]) / patches.resolution)
                top, left = (side - step) // 2 - int(up), (side - step) // 2 + int(right)
                rim = np.s_[max(top, 0) : max(top + step, 0), max(left, 0) : max(left + step, 0)]
                out[k][rim] = y[other]
                if weights is not None and known is not None:
                    weights[k][rim] = known[rows[other]]
    return out, weights
