"""Centrelines of a mask by thinning, and their length.

The method is that of Guo and Hall (1989, "Parallel thinning with two-subiteration algorithms",
Communications of the ACM 32, algorithm A1). A pass looks two pixels far. So after a fixed number of
passes a pixel depends on twice as many pixels each way, and blocks with that halo are thinned as
the whole would be.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.jit import compiled

__all__ = ["Links", "halo_of", "links_of", "passes_for", "thin"]

KULPA = 0.948059
"""What the length of a chain of pixels is multiplied by: pi / 8 (1 + sqrt 2). Summed over all
directions, steps of 1 and sqrt 2 are too long by 5 % (Kulpa 1977, "Area and perimeter measurement
of blobs in discrete binary pictures", eq. 11)."""


class Links(NamedTuple):
    """Steps between neighbouring pixels of centrelines.

    Attributes
    ----------
    rows, cols : float64 (n,), the middle of each; a pixel's centre is a whole number.
    lengths : float64 (n,), in pixels, corrected for the direction.
    """

    rows: npt.NDArray[np.float64]
    cols: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.float64]


def passes_for(width: float, resolution: float) -> int:
    """Passes that make a line of everything up to a width: one takes a pixel off either side.

    Parameters
    ----------
    width, resolution : in metres.
    """
    return int(np.ceil(width / resolution / 2)) + 1


def halo_of(passes: int) -> int:
    """Pixels about a block that decide it, with those that tell a line from what is still wide."""
    return 2 * passes + 2


def thin(mask: npt.NDArray[np.bool_], passes: int) -> npt.NDArray[np.bool_]:
    """Take pixels off the rim of a mask, as long as what hangs together still does.

    Parameters
    ----------
    mask : bool (y, x); beyond it there is nothing.
    passes : at most so many; fewer where nothing changes any more.

    Returns
    -------
    bool (y, x)
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    _thin(padded, passes)
    return padded[1:-1, 1:-1].astype(bool)


def links_of(lines: npt.NDArray[np.bool_]) -> tuple[Links, npt.NDArray[np.bool_]]:
    """Steps between the pixels of centrelines, and what is too wide to be one.

    A pixel with eight neighbours, and these, are no line. Two pixels that touch by a corner are
    neighbours where no third one joins them.

    Parameters
    ----------
    lines : bool (y, x), thinned.

    Returns
    -------
    links, and bool (y, x) of what is still wide
    """
    padded = np.pad(lines, 1)
    n, m = lines.shape
    views = [padded[i : i + n, j : j + m] for i in range(3) for j in range(3)]
    inner = np.pad(np.logical_and.reduce(views), 1)
    wide = np.logical_or.reduce([inner[i : i + n, j : j + m] for i in range(3) for j in range(3)])
    kept = np.pad(lines & ~wide, ((0, 1), (1, 1)))
    here, east, south = kept[:-1, 1:-1], kept[:-1, 2:], kept[1:, 1:-1]
    west, southeast, southwest = kept[:-1, :-2], kept[1:, 2:], kept[1:, :-2]
    steps = (
        (here & east, 0.0, 0.5, 1.0),
        (here & south, 0.5, 0.0, 1.0),
        (here & southeast & ~east & ~south, 0.5, 0.5, 2**0.5),
        (here & southwest & ~west & ~south, 0.5, -0.5, 2**0.5),
    )
    rows, cols, lengths = [], [], []
    for there, down, across, length in steps:
        at = np.argwhere(there).astype(np.float64)
        rows.append(at[:, 0] + down)
        cols.append(at[:, 1] + across)
        lengths.append(np.full(len(at), KULPA * length))
    return Links(*(np.concatenate(parts) for parts in (rows, cols, lengths))), wide


@compiled
def _thin(image: Any, passes: int) -> None:
    height, width = image.shape
    taken = np.empty((height * width, 2), np.int32)
    for _ in range(passes):
        changed = False
        for half in range(2):
            count = 0
            for i in range(1, height - 1):
                for j in range(1, width - 1):
                    if image[i, j] == 0:
                        continue
                    p2, p3, p4 = image[i - 1, j], image[i - 1, j + 1], image[i, j + 1]
                    p5, p6, p7 = image[i + 1, j + 1], image[i + 1, j], image[i + 1, j - 1]
                    p8, p9 = image[i, j - 1], image[i - 1, j - 1]
                    parts = (
                        ((1 - p2) & (p3 | p4))
                        + ((1 - p4) & (p5 | p6))
                        + ((1 - p6) & (p7 | p8))
                        + ((1 - p8) & (p9 | p2))
                    )
                    if parts != 1:
                        continue
                    one = (p9 | p2) + (p3 | p4) + (p5 | p6) + (p7 | p8)
                    other = (p2 | p3) + (p4 | p5) + (p6 | p7) + (p8 | p9)
                    least = min(one, other)
                    if least < 2 or least > 3:
                        continue
                    first, second = (p2 | p3 | (1 - p5)) & p4, (p6 | p7 | (1 - p9)) & p8
                    if (first if half == 0 else second) == 0:
                        taken[count, 0], taken[count, 1] = i, j
                        count += 1
            for k in range(count):
                image[taken[k, 0], taken[k, 1]] = 0
            changed = changed or count > 0
        if not changed:
            break
