"""From scores to a map: class, confidence, observations, and why a cell has none."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from engine.legend import PRECEDENCE, Reason

__all__ = [
    "NO_CONFIDENCE",
    "NO_DISSENT",
    "cell_dissent",
    "cell_observations",
    "cell_reason",
    "classify",
]

NO_CONFIDENCE = NO_DISSENT = 255

T = TypeVar("T", np.uint8, np.uint16)


def classify(
    scores: npt.NDArray[np.floating], codes: tuple[int, ...]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Class and confidence of each cell.

    Parameters
    ----------
    scores : float (class, y, x), NaN where a cell has none.
    codes : raster code of each position.

    Returns
    -------
    (classes, confidence), both uint8 (y, x): code of the largest score (the first of equals), 0
    none; 100 x that score rounded, 255 none.
    """
    none = np.isnan(scores).any(axis=0)
    clean = np.where(none, 0.0, scores.astype(np.float32))
    classes = np.array(codes, np.uint8)[clean.argmax(axis=0)]
    confidence = np.rint(100.0 * clean.max(axis=0)).astype(np.uint8)
    return np.where(none, 0, classes).astype(np.uint8), np.where(
        none, NO_CONFIDENCE, confidence
    ).astype(np.uint8)


def cell_observations(pixels: npt.NDArray[np.uint16], factor: int) -> npt.NDArray[np.uint16]:
    """Median of a cell's pixels, rounded half to even.

    Parameters
    ----------
    pixels : uint16 (y * factor, x * factor)

    Returns
    -------
    uint16 (y, x)
    """
    middle: npt.NDArray[np.float64] = np.rint(np.median(_cells(pixels, factor), axis=2))
    return middle.astype(np.uint16)


def cell_dissent(
    pixels: npt.NDArray[np.uint8], observations: npt.NDArray[np.uint16], factor: int
) -> npt.NDArray[np.uint8]:
    """Share of a cell's observations that depart from the composite.

    Parameters
    ----------
    pixels : uint8 (y * factor, x * factor)
        Usable days that depart (`engine.cube.composite.count_dissent`).
    observations : uint16, of the same shape
        Usable days.
    factor : pixels along a cell.

    Returns
    -------
    uint8 (y, x): percent, rounded; 255 where half of the cell or more was seen on one day or on
    none, since one look cannot contradict itself.
    """
    seen = _cells(observations, factor)
    total = np.where(seen > 1, seen, 0).sum(axis=2, dtype=np.int64)
    parted = _cells(pixels, factor).sum(axis=2, dtype=np.int64)
    percent = np.rint(100.0 * parted / np.maximum(total, 1)).astype(np.uint8)
    blind = 2 * (seen > 1).sum(axis=2) <= factor * factor
    return np.where(blind, NO_DISSENT, percent).astype(np.uint8)


def cell_reason(
    classes: npt.NDArray[np.uint8], pixels: npt.NDArray[np.uint8], factor: int
) -> npt.NDArray[np.uint8]:
    """Why cells have no class, from the reasons of their own pixels.

    Parameters
    ----------
    classes : uint8 (y, x)
        0 where there is none.
    pixels : uint8 (y * factor, x * factor)
        `Reason` of the composite.

    Returns
    -------
    uint8 (y, x): 0 where there is a class; else the first of the precedence that a pixel has; too
    few valid pixels where none has any (the patch's others are what is missing).
    """
    inside = _cells(pixels, factor)
    out = np.full(classes.shape, Reason.TOO_FEW_VALID, np.uint8)
    skipped = (Reason.OUTSIDE_AREA, Reason.OUTSIDE_MASK, Reason.TOO_FEW_VALID)
    for reason in reversed([r for r in PRECEDENCE if r not in skipped]):
        out[(inside == reason).any(axis=2)] = reason
    out[classes > 0] = Reason.DATA
    return out


def _cells(pixels: npt.NDArray[T], factor: int) -> npt.NDArray[T]:
    rows, cols = pixels.shape[0] // factor, pixels.shape[1] // factor
    return (
        pixels.reshape(rows, factor, cols, factor)
        .transpose(0, 2, 1, 3)
        .reshape(rows, cols, factor * factor)
    )
