"""From a probability of green to a map: class, and the green fraction of a cell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["GREEN_FROM", "NO_GREEN", "classify_green", "green_fraction"]

GREEN_FROM = 50
"""Percent from which a pixel is green space."""
NO_GREEN = 255


def classify_green(percent: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Class of each pixel.

    Parameters
    ----------
    percent : uint8 (y, x)
        Probability of green space, 255 none.

    Returns
    -------
    uint8 (y, x): 1 green, 0 not, 255 none.
    """
    found = (percent >= GREEN_FROM).astype(np.uint8)
    found[percent == NO_GREEN] = NO_GREEN
    return found


def green_fraction(classes: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Percent of a cell's classified pixels that are green.

    Parameters
    ----------
    classes : uint8 (y * factor, x * factor)
        0, 1, 255 none.
    factor : pixels along a cell.

    Returns
    -------
    uint8 (y, x): rounded half to even; 255 where no pixel of the cell has a class.
    """
    rows, cols = classes.shape[0] // factor, classes.shape[1] // factor
    cells = classes.reshape(rows, factor, cols, factor)
    green = np.count_nonzero(cells == 1, axis=(1, 3))
    known = np.count_nonzero(cells != NO_GREEN, axis=(1, 3))
    percent = np.rint(100.0 * green / np.maximum(known, 1))
    return np.where(known > 0, percent, NO_GREEN).astype(np.uint8)
