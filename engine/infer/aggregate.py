"""Vectors of pixels -> one vector of a cell: mean, standard deviation and maximum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["STATISTICS", "aggregate_cells", "aggregate_names"]

STATISTICS = ("mean", "std", "max")
"""What a cell keeps of each channel, in this order."""

_LEAST_VALID = 0.9  # share of a cell's pixels


def aggregate_names(channels: Sequence[str]) -> tuple[str, ...]:
    """Names of a cell's features: every channel's mean, then its deviation, then its maximum."""
    return tuple(f"{channel}_{statistic}" for statistic in STATISTICS for channel in channels)


def aggregate_cells(
    values: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    side: int,
    least: float = _LEAST_VALID,
) -> npt.NDArray[np.float32]:
    """Mean, standard deviation and maximum of each channel over the valid pixels of each cell.

    The deviation is that of the pixels themselves (divided by n). Sums are of float64, and a cell
    sees its own pixels alone, so tiles leave no trace. A cell without a valid pixel, or with a
    smaller share of them than `least`, has no vector.

    Parameters
    ----------
    values : (channel, y * side, x * side)
    valid : bool (y * side, x * side)
    side : pixels along a cell.
    least : share of a cell's pixels.

    Returns
    -------
    float32 (3 channel, y, x), NaN where there is none; the order of `aggregate_names`.
    """
    channels, height, width = values.shape
    rows, cols = height // side, width // side
    out = np.full((len(STATISTICS) * channels, rows, cols), np.nan, np.float32)
    inside = _cells(valid, side)
    count = inside.sum(axis=-1)
    enough = count >= max(least * side * side, 1)
    here = inside[enough]
    for channel in range(channels):
        pixels = _cells(values[channel], side)[enough].astype(np.float64)
        mean = np.where(here, pixels, 0.0).sum(axis=-1) / count[enough]
        squares = np.where(here, pixels - mean[:, None], 0.0) ** 2
        spread = np.sqrt(squares.sum(axis=-1) / count[enough])
        largest = np.where(here, pixels, -np.inf).max(axis=-1, initial=-np.inf)
        for position, found in enumerate((mean, spread, largest)):
            out[position * channels + channel][enough] = found
    return out


def _cells(pixels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """(y * side, x * side) -> (y, x, side * side)"""
    rows, cols = pixels.shape[0] // side, pixels.shape[1] // side
    parts = pixels.reshape(rows, side, cols, side).transpose(0, 2, 1, 3)
    return parts.reshape(rows, cols, side * side)
