"""Pixels of a map counted against a reference, by squares of ground, block by block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from engine.errors import MetricError

__all__ = ["Squares", "count_squares", "onto", "require_places"]

_BLOCK = 2048  # pixels down and across that are compared at once
_GROUND = 1000.0  # metres of a block of ground that is drawn as a whole

Positions = Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]
"""Values of a raster -> positions of classes, -1 where it says nothing."""


class Squares(NamedTuple):
    """Counts (n, n), rows reference, columns map, by square of ground; mapped pixels without
    reference; values of the reference that were met."""

    squares: dict[str, npt.NDArray[np.int64]]
    silent: int
    seen: list[float]


def onto(mine: rasterio.DatasetReader, other: rasterio.DatasetReader) -> WarpedVRT:
    """Another raster on the map's grid; NaN outside of it, at its nodata and where it is masked."""
    return WarpedVRT(
        other,
        crs=mine.crs,
        transform=mine.transform,
        height=mine.height,
        width=mine.width,
        resampling=Resampling.nearest,
        dtype="float64",
        nodata=np.nan,
    )


def require_places(*files: rasterio.DatasetReader) -> None:
    """Refuse rasters that do not say where they lie, and a map, the first of them, in degrees.

    Raises
    ------
    MetricError
    """
    for file in files:
        if file.crs is None:
            raise MetricError("a raster does not say which CRS it is in", got=file.name)
    if files[0].crs.is_geographic:
        raise MetricError(
            "the map is in degrees", got=files[0].name, expected="a projected CRS, as natmap's are"
        )


def count_squares(
    mine: rasterio.DatasetReader,
    views: Sequence[WarpedVRT],
    n: int,
    of_map: Positions,
    of_reference: Positions,
) -> Squares:
    """Count pixels by what map and reference say of them.

    Parameters
    ----------
    mine : the map.
    views : the reference on the map's grid, then rasters that are not 0 where pixels count.
    n : classes.
    of_map, of_reference : what their values mean.
    """
    squares: dict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros((n, n), np.int64))
    silent, seen, met = 0, set[float](), False
    side = max(round(_GROUND / mine.res[0]), 1)
    for top in range(0, mine.height, _BLOCK):
        for left in range(0, mine.width, _BLOCK):
            height, width = min(_BLOCK, mine.height - top), min(_BLOCK, mine.width - left)
            window = Window(left, top, width, height)
            found = of_map(mine.read(1, window=window))
            mapped = found >= 0
            if not mapped.any():
                continue
            values = views[0].read(1, window=window)
            truth = of_reference(values)
            known = truth >= 0
            for where in views[1:]:
                places = where.read(1, window=window)
                known &= np.isfinite(places) & (places != 0)
            silent += int((mapped & ~known).sum())
            both = mapped & known
            if not met:  # of interest only where a class is not found at all
                seen |= set(np.unique(values[both][: _BLOCK**2 // 64]).tolist())
                met = bool((truth[both] > 0).any())
            row = np.arange(top, top + height) // side
            col = np.arange(left, left + width) // side
            across = col[-1] - col[0] + 1
            place = (row - row[0])[:, None] * across + (col - col[0])
            pairs = (place[both] * n + truth[both]) * n + found[both]
            parts = np.bincount(pairs, minlength=n * n * (place[-1, -1] + 1)).reshape(-1, n, n)
            for number in np.flatnonzero(parts.any(axis=(1, 2))):
                squares[f"{row[0] + number // across} {col[0] + number % across}"] += parts[number]
    return Squares(dict(squares), silent, sorted(seen))
