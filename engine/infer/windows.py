"""Segmentation of large images: windows on one lattice, overlapping, blended where they meet.

Windows lie on multiples of their stride from the grid's origin, whatever the tile; a pixel adds up
the same windows in the same order in every layout, so it gets the same bits. Logits are blended,
not probabilities, with weights that fall smoothly to the window's border and sum to one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from engine.accounting import spent
from engine.prefetch import ahead

__all__ = ["NO_SCORE", "Lattice", "segment_image", "to_percent", "to_percents"]

NO_SCORE = 255

Read = Callable[[slice, slice], tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]
"""(rows, columns) of the grid -> image (band, y, x), as `Predict` takes it, and validity (y, x)."""
Predict = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""Windows (n, band, side, side) -> logit of class 1 (n, side, side), or of each class of several
(n, class, side, side)."""


@dataclass(frozen=True)
class Lattice:
    """Where windows lie: the k-th of an axis begins at pixel k x stride of the grid.

    Attributes
    ----------
    side, overlap : pixels.
    """

    side: int = 512
    overlap: int = 64

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap <= self.side:
            raise ValueError(
                f"windows of {self.side} px cannot overlap by {self.overlap}: half at most"
            )

    @property
    def stride(self) -> int:
        """Pixels from one window to the next."""
        return self.side - self.overlap

    def meeting(self, first: int, last: int) -> range:
        """Windows that meet the pixels from `first` up to `last`, which is none of them."""
        return range((first - self.side) // self.stride + 1, -(-last // self.stride))

    @cached_property
    def weights(self) -> npt.NDArray[np.float32]:
        """Of a window's pixels, (side, side): sin^2 ramps where neighbours overlap."""
        ramp = np.sin(np.pi / 2 * (np.arange(self.overlap) + 0.5) / max(self.overlap, 1)) ** 2
        along = np.concatenate([ramp, np.ones(self.side - 2 * self.overlap), ramp[::-1]])
        found: npt.NDArray[np.float32] = np.outer(along, along).astype(np.float32)
        return found


def segment_image(
    read: Read,
    rows: slice,
    cols: slice,
    wanted: npt.NDArray[np.bool_],
    predict: Predict,
    lattice: Lattice | None = None,
    batch: int = 8,
    classes: int = 0,
) -> Iterator[tuple[slice, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Blended logits of a piece of the grid, strip by strip from the top.

    Memory holds two rows of windows, whatever the piece's height: one is read while one is looked
    at. A window runs where it meets a pixel that is wanted and has data: a sea, or a tile without
    a frame, costs its reading alone.

    Parameters
    ----------
    read : of windows that may reach beyond the piece, and beyond all imagery.
    rows, cols : of the piece, in pixels of the grid.
    wanted : bool (rows, cols)
    predict : a network.
    lattice : Lattice, optional
    batch : windows that it gets at once, at most.
    classes : that it gives logits of; 0: of one, without a dim for it.

    Yields
    ------
    rows (of the piece), logits float32 (y, x) or (class, y, x), scored bool (y, x): valid, wanted.
    """
    lattice = lattice or Lattice()
    side, stride = lattice.side, lattice.stride
    across = lattice.meeting(cols.start, cols.stop)
    left = across.start * stride
    width = (len(across) - 1) * stride + side
    here = slice(cols.start - left, cols.stop - left)

    def runs(number: int, valid: npt.NDArray[np.bool_] | None = None) -> list[int]:
        """Windows of a row that meet a pixel that is wanted, and valid where that is known."""
        inside = _inside(number, lattice, rows)
        needed = wanted[inside.start - rows.start : inside.stop - rows.start]
        if valid is not None:
            top = number * stride
            needed = needed & valid[inside.start - top : inside.stop - top, here]
        parts = (_part(k * stride, side, here, cols) for k in range(len(across)))
        return [k for k, part in enumerate(parts) if needed[:, part].any()]

    def load(number: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | None:
        if not runs(number):
            return None
        return read(slice(number * stride, number * stride + side), slice(left, left + width))

    lead = (classes,) if classes else ()
    carried = np.zeros((*lead, lattice.overlap, width), np.float32)
    for number, coming in ahead(load, lattice.meeting(rows.start, rows.stop)):
        top = number * stride
        total = np.zeros((*lead, side, width), np.float32)
        total[..., : lattice.overlap, :] = carried
        valid = np.zeros((side, width), bool)
        loaded = coming.result()
        if loaded is not None:
            image, valid = loaded
            some = runs(number, valid)
            for first in range(0, len(some), batch):
                part = some[first : first + batch]
                windows = np.stack([image[:, :, k * stride : k * stride + side] for k in part])
                found = predict(windows)
                with spent("blend"):
                    for k, logits in zip(part, found, strict=True):
                        total[..., k * stride : k * stride + side] += lattice.weights * logits
        carried = total[..., stride:, :].copy()
        # what the next row of windows cannot reach any more
        done = slice(max(top, rows.start), min(top + stride, rows.stop))
        if done.start < done.stop:
            strip = slice(done.start - top, done.stop - top)
            piece = slice(done.start - rows.start, done.stop - rows.start)
            yield piece, total[..., strip, here], valid[strip, here] & wanted[piece]


def _inside(number: int, lattice: Lattice, rows: slice) -> slice:
    """Rows of a piece that a row of windows covers."""
    top = number * lattice.stride
    return slice(max(top, rows.start), min(top + lattice.side, rows.stop))


def _part(start: int, side: int, here: slice, cols: slice) -> slice:
    """Columns of a piece that a window covers, `start` being counted from the first window."""
    first = max(start - here.start, 0)
    return slice(first, max(min(start + side - here.start, cols.stop - cols.start), first))


def to_percent(
    logits: npt.NDArray[np.float32], scored: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Probability of class 1 in percent, 255 where there is none."""
    with spent("blend"):
        percent = np.rint(100.0 * expit(logits.astype(np.float64)))
        found: npt.NDArray[np.uint8] = np.where(scored, percent, NO_SCORE).astype(np.uint8)
    return found


def to_percents(
    logits: npt.NDArray[np.float32], scored: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Probability of each class in percent, (class, y, x); 255 where there is none."""
    with spent("blend"):
        percent = np.rint(100.0 * softmax(logits.astype(np.float64), axis=0))
        found: npt.NDArray[np.uint8] = np.where(scored, percent, NO_SCORE).astype(np.uint8)
    return found
