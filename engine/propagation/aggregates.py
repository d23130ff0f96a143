"""Features of a cell from the embeddings of its pixels: mean, spread and maximum of each channel.

Sums are integers (`engine.propagation.exact`), so pixels may come in pieces of any shape, those of
one cell in several, and the features are the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.jit import compiled
from engine.propagation.exact import (
    SQUARE_LIMBS,
    SUM_LIMBS,
    add_number,
    moments_of,
    require_range,
)

__all__ = ["SIDE", "VALID", "Aggregates", "CellSums", "aggregate"]

SIDE = 32
"""Pixels of 10 m along a cell of 320 m."""

VALID = 0.9
"""Share of a cell's pixels that must be valid."""

_LARGEST = 64  # side of a cell: beyond, sums of a cell may not fit

Axes = Literal["cyx", "yxc"]


@dataclass(frozen=True)
class Aggregates:
    """Features of a window of cells.

    Attributes
    ----------
    values : float32 (cell row, cell column, 3 channels)
        Means, then population standard deviations, then maxima; NaN in cells that are not kept.
    kept : bool (cell row, cell column), cells with enough valid pixels.
    skipped : cells with some valid pixels, but too few.
    empty : cells without any.
    """

    values: npt.NDArray[np.float32]
    kept: npt.NDArray[np.bool_]
    skipped: int
    empty: int


@dataclass(frozen=True)
class CellSums:
    """What is known so far of a window of cells; its arrays are added to in place.

    Attributes
    ----------
    count : int64 (cell row, cell column), valid pixels.
    sums, squares : int64 (cell row, cell column, channel, limb)
    highest : float32 (cell row, cell column, channel), -inf where there is none yet.
    side : pixels along a cell.
    """

    count: npt.NDArray[np.int64]
    sums: npt.NDArray[np.int64]
    squares: npt.NDArray[np.int64]
    highest: npt.NDArray[np.float32]
    side: int = SIDE

    @classmethod
    def none(cls, rows: int, cols: int, channels: int, side: int = SIDE) -> CellSums:
        """Sums of no pixels.

        Raises
        ------
        LabelError
            Where there would be no cell or channel, or cells are larger than 64 px.
        """
        if min(rows, cols, channels) < 1 or not 1 <= side <= _LARGEST:
            raise LabelError(
                "there are no such cells",
                got=f"{rows} x {cols} cells of {side} px with {channels} channels",
                expected=f"at least one, of 1 to {_LARGEST} px",
            )
        shape = (rows, cols, channels)
        return cls(
            np.zeros(shape[:2], np.int64),
            np.zeros((*shape, SUM_LIMBS), np.int64),
            np.zeros((*shape, SQUARE_LIMBS), np.int64),
            np.full(shape, -np.inf, np.float32),
            side,
        )

    def add(
        self,
        pixels: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_] | None = None,
        *,
        top: int = 0,
        left: int = 0,
        axes: Axes = "cyx",
    ) -> None:
        """Add a piece of pixels; none may be added twice.

        Parameters
        ----------
        pixels : float (channel, y, x), or (y, x, channel) with `axes` "yxc".
        valid : bool (y, x); a pixel with a channel that is not finite never is.
        top, left : place of the piece in the window, in pixels.
        axes : order of the pixels' dimensions.

        Raises
        ------
        LabelError
            Where shapes do not fit, the piece reaches beyond the window, or a valid number is
            beyond all measure.
        """
        found = np.asarray(pixels)
        if axes == "yxc" and found.ndim == 3:
            found = np.moveaxis(found, -1, 0)
        channels = self.sums.shape[2]
        if found.ndim != 3 or found.shape[0] != channels or found.dtype.kind not in "iuf":
            raise LabelError(
                "pixels are no embedding of these cells",
                got=f"{found.dtype} of shape {np.shape(pixels)}, axes {axes}",
                expected=f"numbers with {channels} channels and two dimensions of place",
            )
        good = np.isfinite(found).all(0)
        if valid is not None:
            if np.shape(valid) != good.shape:
                raise LabelError(
                    "pixels and their mask have different shapes",
                    got=np.shape(valid),
                    expected=good.shape,
                )
            good &= np.asarray(valid, bool)
        height, width = good.shape
        tall, wide = (n * self.side for n in self.count.shape)
        if top < 0 or left < 0 or top + height > tall or left + width > wide:
            raise LabelError(
                "a piece of pixels reaches beyond the cells",
                got=f"rows {top} to {top + height}, columns {left} to {left + width}",
                expected=f"within {tall} x {wide} px",
            )
        whole = np.where(good, found, 0).astype(np.float32)
        require_range(whole, "embeddings")
        _add(whole, good, top, left, self.side, self.count, self.sums, self.squares, self.highest)

    def merge(self, other: CellSums) -> CellSums:
        """Sums of the pixels of both; of the same window, and exact in any order.

        Raises
        ------
        LabelError
            Where the other is of another window.
        """
        if self.sums.shape != other.sums.shape or self.side != other.side:
            raise LabelError(
                "sums of different windows cannot be merged",
                got=(other.sums.shape[:3], other.side),
                expected=(self.sums.shape[:3], self.side),
            )
        return CellSums(
            self.count + other.count,
            self.sums + other.sums,
            self.squares + other.squares,
            np.maximum(self.highest, other.highest),
            self.side,
        )

    def finish(self, least: float = VALID) -> Aggregates:
        """Features of the cells.

        Parameters
        ----------
        least : share of a cell's pixels that must be valid, over 0 and up to 1.

        Raises
        ------
        LabelError
            Where the share is none.
        """
        if not 0 < least <= 1:
            raise LabelError(
                "there is no such share of pixels", got=least, expected="over 0, up to 1"
            )
        # a hair less: .9 of a number of pixels must not be one more for its rounding
        kept = self.count >= max(least * self.side**2 * (1 - 1e-12), 1)
        values = np.full((*kept.shape, 3 * self.highest.shape[2]), np.nan, np.float32)
        _finish(kept, self.count, self.sums, self.squares, self.highest, values)
        empty = int((self.count == 0).sum())
        return Aggregates(values, kept, int(kept.size - kept.sum()) - empty, empty)


def aggregate(
    pixels: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_] | None = None,
    *,
    side: int = SIDE,
    least: float = VALID,
    axes: Axes = "cyx",
) -> Aggregates:
    """Features of the cells of an array whose sides are whole numbers of cells.

    Parameters
    ----------
    pixels, valid, axes : as of `CellSums.add`.
    side : pixels along a cell.
    least : as of `CellSums.finish`.

    Raises
    ------
    LabelError
        Where the array has other sides, and as of these two.
    """
    shape = np.shape(pixels)
    if len(shape) != 3 or side < 1:
        raise LabelError("pixels are no embedding", got=shape, expected="three dimensions")
    channels, rows, cols = shape if axes == "cyx" else (shape[2], *shape[:2])
    if rows % side or cols % side:
        raise LabelError(
            "pixels do not make whole cells",
            got=f"{rows} x {cols} px",
            expected=f"multiples of {side}",
            remedy="read a window that begins and ends at borders of cells",
        )
    found = CellSums.none(rows // side, cols // side, channels, side)
    found.add(pixels, valid, axes=axes)
    return found.finish(least)


@compiled
def _add(
    pixels: Any,
    good: Any,
    top: int,
    left: int,
    side: int,
    count: Any,
    sums: Any,
    squares: Any,
    highest: Any,
) -> None:
    channels, height, width = pixels.shape
    for y in range(height):
        for x in range(width):
            if good[y, x]:
                count[(top + y) // side, (left + x) // side] += 1
    for c in range(channels):
        for y in range(height):
            row = (top + y) // side
            for x in range(width):
                if good[y, x]:
                    col, value = (left + x) // side, pixels[c, y, x]
                    add_number(value, sums[row, col, c], squares[row, col, c])
                    highest[row, col, c] = max(highest[row, col, c], value)


@compiled
def _finish(kept: Any, count: Any, sums: Any, squares: Any, highest: Any, values: Any) -> None:
    rows, cols, channels = highest.shape
    for row in range(rows):
        for col in range(cols):
            if kept[row, col]:
                for c in range(channels):
                    mean, spread = moments_of(
                        count[row, col], sums[row, col, c], squares[row, col, c]
                    )
                    values[row, col, c] = mean
                    values[row, col, channels + c] = spread
                    values[row, col, 2 * channels + c] = highest[row, col, c]
