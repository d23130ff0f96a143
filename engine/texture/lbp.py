"""Texture as rotation-invariant uniform local binary patterns (Ojala et al. 2002), compiled.

A pixel's code tells how many of the points on a circle about it are at least as bright as it is; or
that bright and dark points alternate too often to be an edge, a corner or a spot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import minimum_filter

from engine.jit import compiled

__all__ = [
    "BINS",
    "POINTS",
    "RADIUS",
    "RIM",
    "UNSEEN",
    "lbp_codes",
    "lbp_counts",
    "luminance",
    "texture_counts",
]

POINTS, RADIUS = 20, 3
"""On the circle, and its radius in pixels: 22 codes, and about a sample for each pixel of the
circle's 18.8 pixels."""
BINS = POINTS + 2
"""Codes: 0 to `POINTS` bright points in one run, then all that is not uniform."""
RIM = RADIUS + 1
"""Pixels about a patch, and about what is not known, that get no code: a circle would reach out."""
UNSEEN = 0.1
"""Share of a patch's pixels from which it is none, as of chips that are cut."""

_ANGLES = 2 * np.pi * np.arange(POINTS, dtype=np.float64) / POINTS
# 5 digits, as scikit-image has them: points on the axes are then on pixels
_DOWN = np.round(-RADIUS * np.sin(_ANGLES), 5)
_ACROSS = np.round(RADIUS * np.cos(_ANGLES), 5)


def lbp_codes(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Codes of the pixels of an image, without its rim.

    They are those of ``skimage.feature.local_binary_pattern(image, 20, 3, "uniform")``, to the bit:
    the same sums in the same order. What that function does to the rim (it takes zeros from
    beyond it) is left out.

    Parameters
    ----------
    image : (rows, columns), whole numbers: a tie between a point and its centre counts as bright.

    Returns
    -------
    uint8 (rows - 2 RIM, columns - 2 RIM), 0 to 21; empty where the image is no larger than its rim.
    """
    rows, cols = (max(n - 2 * RIM, 0) for n in image.shape)
    out = np.empty((rows, cols), np.uint8)
    if out.size:
        x = np.arange(RIM, RIM + cols, dtype=np.float64)[None] + _ACROSS[:, None]
        _codes(np.ascontiguousarray(image, np.float64), _DOWN, _ACROSS, x - np.floor(x), out)
    return out


def lbp_counts(
    image: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int64]:
    """How many pixels of an image have each code, int64 (22,).

    Parameters
    ----------
    image : (rows, columns), whole numbers.
    valid : bool (rows, columns); pixels within `RIM` of one that is not valid have no code. By
        default all are valid.
    """
    codes = lbp_codes(image)
    if valid is not None and not valid.all():
        whole = minimum_filter(valid.astype(np.uint8), 2 * RIM + 1, mode="constant", cval=0)
        codes = codes[whole[RIM:-RIM, RIM:-RIM] > 0]
    return np.bincount(codes.ravel(), minlength=BINS).astype(np.int64)


def luminance(rgb: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Brightness 0.299 red + 0.587 green + 0.114 blue, to whole numbers, half up (ITU-R BT.601).

    Parameters
    ----------
    rgb : whole numbers (3, rows, columns).
    """
    red, green, blue = rgb.astype(np.int64)
    return np.asarray((299 * red + 587 * green + 114 * blue + 500) // 1000)


def texture_counts(rgb: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How many pixels of a picture's brightness have each code, int64 (22,).

    Parameters
    ----------
    rgb : whole numbers (3, rows, columns).
    valid : bool (rows, columns), as `lbp_counts` takes it.
    """
    return lbp_counts(luminance(rgb), valid)


@compiled
def _codes(image: Any, down: Any, across: Any, share: Any, out: Any) -> None:
    """Codes row by row: a loop over pixels for each point is one that the compiler vectorises.

    Parameters
    ----------
    image : float64 (rows, columns)
    down, across : float64 (points,), of the points from their centre, in pixels.
    share : float64 (points, columns of `out`), how far each point lies right of a pixel.
    out : uint8, to fill.
    """
    points, n = len(down), out.shape[1]
    bits = np.empty(n, np.int64)
    for row in range(out.shape[0]):
        r = row + RIM
        centre = image[r, RIM : RIM + n]
        bits[:] = 0
        for k in range(points):
            y = r + down[k]
            above, below = image[int(np.floor(y))], image[int(np.ceil(y))]
            left, right = RIM + int(np.floor(across[k])), RIM + int(np.ceil(across[k]))
            _compare(
                above[left : left + n],
                above[right : right + n],
                below[left : left + n],
                below[right : right + n],
                centre,
                share[k],
                y - np.floor(y),
                1 << k,
                bits,
            )
        _count(bits, points, out[row])


@compiled
def _compare(
    above: Any,
    above_right: Any,
    below: Any,
    below_right: Any,
    centre: Any,
    u: Any,
    v: float,
    bit: int,
    bits: Any,
) -> None:
    """Set a point's bit in the pixels whose point is at least as bright as they are."""
    for c in range(len(bits)):
        high = (1 - u[c]) * above[c] + u[c] * above_right[c]
        low = (1 - u[c]) * below[c] + u[c] * below_right[c]
        value = (1 - v) * high + v * low
        bits[c] |= bit if value - centre[c] >= 0 else 0


@compiled
def _count(bits: Any, points: int, out: Any) -> None:
    """The number of bright points; one more than all where they change more than twice."""
    for c in range(len(bits)):
        pattern = bits[c]
        change = (pattern ^ (pattern >> 1)) & ((1 << (points - 1)) - 1)
        bright, changes = 0, 0
        for k in range(points):
            bright += (pattern >> k) & 1
            changes += (change >> k) & 1
        out[c] = bright if changes <= 2 else points + 1
