"""Rasters of a user as features: points of every pixel looked up in the files, and counted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from engine.cube.source import Source
from engine.cube.warp import Placed, crs_text, pieces_of, place, take
from engine.features.files import RasterFile, Span
from engine.features.source import Read
from engine.infer.aggregate import STATISTICS, aggregate_cells

__all__ = ["Lookup", "RasterReader", "finer", "share_of"]

_AT_ONCE = 1 << 22  # points of a strip
_WINDOW = 1 << 24  # pixels of a file at once
_MARGIN = 2  # pixels about points, that bilinear looks at
_NOWHERE = -2e9

Values = npt.NDArray[np.float64]


def finer(box: GeoBox, parts: int) -> GeoBox:
    """A window with pixels of which `parts` lie along a side of one of its own."""
    height, width = box.shape
    affine = box.transform * Affine.scale(1 / parts)
    return box if parts == 1 else GeoBox((height * parts, width * parts), affine, box.crs)


@dataclass(frozen=True)
class Lookup:
    """Files that lie side by side, asked for the value at points of a lattice.

    Attributes
    ----------
    files : the first that knows a point decides it.
    pixel : metres of the smallest pixel, about the area.
    nested : whether pixels of files and grid are whole parts of each other.
    limits : (low, high) that values can have, others are none; None: all.
    absent : value of pixels of a file that have no data; None: they are unknown.
    bilinear : between the four nearest pixels; else the pixel that holds the point.
    """

    files: tuple[RasterFile, ...]
    pixel: float
    nested: bool
    limits: tuple[float, float] | None = None
    absent: float | None = None
    bilinear: bool = False

    def parts(self, resolution: float) -> int:
        """Points along a side of a pixel of the grid: no pixel of a file is passed over."""
        if self.nested:
            return max(round(resolution / self.pixel), 1)
        return max(math.ceil(2 * resolution / self.pixel - 1e-6), 1)

    def strips(
        self, box: GeoBox, anchor: tuple[float, float], parts: int
    ) -> Iterator[tuple[slice, Values]]:
        """Rows of a window and the values of their points, NaN where there is none."""
        height, width = box.shape
        step = max(_AT_ONCE // (width * parts * parts), 1)
        for top in range(0, height, step):
            rows = slice(top, min(top + step, height))
            yield rows, self.at(finer(box[rows, :], parts), anchor)

    def at(self, box: GeoBox, anchor: tuple[float, float]) -> Values:
        """Values at the centres of a window's pixels, NaN where there is none."""
        found = np.full(box.shape, np.nan)
        crs, bounds = crs_text(box.crs), tuple(box.boundingbox.bbox)
        for file in self.files:
            if not file.span.reaches(bounds, crs):  # type: ignore[arg-type]
                continue
            with file.opened() as source:
                for piece, here in pieces_of(box, anchor):
                    lacks = np.isnan(found[here])
                    if lacks.any():
                        placed = place(piece, file.span.frame)
                        x = np.where(lacks, file.span.fold(placed.x), _NOWHERE)
                        self._take(file, source, x, placed.y, found[here])
            if not np.isnan(found).any():
                break
        return found

    def _take(self, file: RasterFile, source: Source, x: Values, y: Values, out: Values) -> None:
        """Fill in what a file has at points, x and y in its pixels; others lie nowhere."""
        inside = file.span.holds(x, y)
        waiting = [inside] if inside.any() else []
        while waiting:
            chosen = waiting.pop()
            window = _around(file.span, x[chosen], y[chosen])
            (top, bottom), (left, right) = window.toranges()
            if (bottom - top) * (right - left) > _WINDOW and chosen.sum() > 1:
                # either side of 180 degrees, or a file far finer than the grid
                along = x if right - left >= bottom - top else y
                middle = (along[chosen].min() + along[chosen].max()) / 2
                halves = [chosen & (along < middle), chosen & (along >= middle)]
                if all(half.any() for half in halves):
                    waiting += halves
                    continue
            values = self._values(file, source, window)
            placed = Placed(np.where(chosen, x, _NOWHERE), np.where(chosen, y, _NOWHERE))
            # a resolution of 0: the four nearest pixels, however coarse the grid is
            found, known = take(
                values, (top, left), placed, file.span.frame, 0.0, nearest=not self.bilinear
            )
            np.copyto(out, found, where=known & chosen)

    def _values(self, file: RasterFile, source: Source, window: Window) -> Values:
        """Pixels of a file, NaN where they say nothing."""
        raw, nodata = source.validity.read(source.file, file.band, window)
        values = raw.astype(np.float64)
        nothing = np.isnan(values)
        if nodata is not None:
            nothing |= raw == nodata
        if (file.scale, file.offset) != (1.0, 0.0):
            values = values * file.scale + file.offset
        values[nothing] = np.nan if self.absent is None else self.absent
        if self.limits is not None:
            with np.errstate(invalid="ignore"):
                values[(values < self.limits[0]) | (values > self.limits[1])] = np.nan
        return values


def _around(span: Span, x: Values, y: Values) -> Window:
    height, width = span.frame.shape
    left, right = max(math.floor(x.min()) - _MARGIN, 0), math.floor(x.max()) + 1 + _MARGIN
    top, bottom = max(math.floor(y.min()) - _MARGIN, 0), math.floor(y.max()) + 1 + _MARGIN
    right, bottom = min(right, width), min(bottom, height)
    return Window(left, top, right - left, bottom - top)


@dataclass(frozen=True)
class RasterReader:
    """Numbers or codes of rasters -> statistics or shares of each pixel of the grid.

    Attributes
    ----------
    lookup : Lookup
    statistics : of numbers.
    above : the share of known ground with more than that is added; None: it is not.
    classes : names and their codes; their shares of known ground are given, and nothing else.
    """

    lookup: Lookup
    statistics: tuple[str, ...] = ()
    above: float | None = None
    classes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the values."""
        more = ("share",) if self.above is not None else ()
        return (*self.statistics, *more, *(name for name, _ in self.classes))

    def read(self, box: GeoBox, anchor: tuple[float, float]) -> Read:
        """The feature on a window of the grid's lattice."""
        parts = self.lookup.parts(box.resolution.x)
        values = np.full((len(self.channels), *box.shape), np.nan, np.float32)
        known = np.zeros(box.shape, np.float32)
        for rows, points in self.lookup.strips(box, anchor, parts):
            values[:, rows], known[rows] = self.count(points, parts)
        return Read(values, known)

    def count(
        self, points: Values, parts: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Channels of pixels, and the share of each that is known, from its points."""
        there = ~np.isnan(points)
        found: list[npt.NDArray[np.float32]] = []
        if any(name in STATISTICS for name in self.statistics):
            every = aggregate_cells(points[None], there, parts, 0.0)
        ordered = None
        for name in self.statistics:
            if name in STATISTICS:
                found.append(every[STATISTICS.index(name)])
                continue
            ordered = in_order(points, parts) if ordered is None else ordered
            found.append(percentile(ordered, int(name[1:])))
        if self.above is not None:
            with np.errstate(invalid="ignore"):
                found.append(share_of(points > self.above, there, parts))
        for _, codes in self.classes:
            found.append(share_of(np.isin(points, codes), there, parts))
        return np.stack(found), share_of(there, np.ones_like(there), parts)


def in_order(points: Values, parts: int) -> Values:
    """Points of each pixel (y, x, parts * parts), ascending; those without a value last."""
    height, width = (side // parts for side in points.shape)
    cells = points.reshape(height, parts, width, parts).transpose(0, 2, 1, 3)
    return np.sort(cells.reshape(height, width, parts * parts), axis=-1)


def percentile(ordered: Values, percent: int) -> npt.NDArray[np.float32]:
    """Of ordered points that have a value, linear between two; NaN where none has."""
    count = np.count_nonzero(~np.isnan(ordered), axis=-1)
    place = np.maximum(count - 1, 0) * (percent / 100)
    low = np.floor(place).astype(np.intp)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    first, second = (
        np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0] for at in (low, high)
    )
    return np.asarray(first + (second - first) * (place - low), np.float32)


def share_of(
    some: npt.NDArray[np.bool_], of: npt.NDArray[np.bool_], parts: int
) -> npt.NDArray[np.float32]:
    """Share of a pixel's points `of` that are also `some`; NaN where there are none."""
    height, width = (side // parts for side in some.shape)
    shape = height, parts, width, parts
    count = of.reshape(shape).sum(axis=(1, 3))
    part = (some & of).reshape(shape).sum(axis=(1, 3))
    share = np.divide(part, count, out=np.full(count.shape, np.nan), where=count > 0)
    found: npt.NDArray[np.float32] = share.astype(np.float32)
    return found
