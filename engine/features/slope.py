"""Slope from elevation, in the CRS of the grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from engine.features.rasters import Lookup, RasterReader
from engine.features.source import Read

__all__ = ["SlopeReader", "slope_of"]


def slope_of(elevation: npt.NDArray[np.float64], resolution: float) -> npt.NDArray[np.float64]:
    """Degrees of slope by the eight neighbours of each pixel (Horn, 1981).

    Parameters
    ----------
    elevation : (y + 2, x + 2), metres; NaN where it is not known.
    resolution : metres of a pixel.

    Returns
    -------
    (y, x), NaN where a neighbour or the pixel itself is not known.
    """
    z = elevation
    east = z[:-2, 2:] + 2 * z[1:-1, 2:] + z[2:, 2:]
    west = z[:-2, :-2] + 2 * z[1:-1, :-2] + z[2:, :-2]
    north = z[:-2, :-2] + 2 * z[:-2, 1:-1] + z[:-2, 2:]
    south = z[2:, :-2] + 2 * z[2:, 1:-1] + z[2:, 2:]
    rise = np.hypot(east - west, north - south) / (8 * resolution)
    found: npt.NDArray[np.float64] = np.degrees(np.arctan(rise))
    return np.where(np.isnan(z[1:-1, 1:-1]), np.nan, found)


@dataclass(frozen=True)
class SlopeReader:
    """Elevations of rasters -> statistics of the slope in each pixel of the grid.

    Elevations are brought onto a lattice of `resolution` metres from the grid's anchor: there each
    is the mean of points that lie no further apart than the file's pixels, interpolated between
    them. A pixel of that lattice has a slope where it and its eight neighbours are known whole.

    Attributes
    ----------
    lookup : of the elevations, bilinear.
    resolution : metres over which a slope is measured.
    statistics : of slopes.
    """

    lookup: Lookup
    resolution: float
    statistics: tuple[str, ...] = ("mean",)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the values."""
        return self.statistics

    def read(self, box: GeoBox, anchor: tuple[float, float]) -> Read:
        """The slope on a window of the grid's lattice."""
        side = box.resolution.x
        # both are whole numbers of this length, in millimetres
        unit = math.gcd(round(1000 * side), round(1000 * self.resolution))
        parts, across = round(1000 * side) // unit, round(1000 * self.resolution) // unit
        first = (
            round((anchor[1] - box.transform.f) / side) * parts,
            round((box.transform.c - anchor[0]) / side) * parts,
        )
        rows, cols = (
            np.arange(start, start + count * parts) // across
            for start, count in zip(first, box.shape, strict=True)
        )
        slopes = self._slopes(rows[0], rows[-1] + 1, cols[0], cols[-1] + 1, str(box.crs), anchor)
        reader = RasterReader(self.lookup, self.statistics)
        values = np.empty((len(self.channels), *box.shape), np.float32)
        known = np.empty(box.shape, np.float32)
        step = max((1 << 22) // (len(cols) * parts), 1)
        for top in range(0, box.shape[0], step):
            here = slice(top, min(top + step, box.shape[0]))
            down = rows[here.start * parts : here.stop * parts] - rows[0]
            points = slopes[np.ix_(down, cols - cols[0])]
            values[:, here], known[here] = reader.count(points, parts)
        return Read(values, known)

    def _slopes(
        self, top: int, bottom: int, left: int, right: int, crs: str, anchor: tuple[float, float]
    ) -> npt.NDArray[np.float64]:
        """Slopes of rows and columns of the lattice, counted from the anchor."""
        metres = self.resolution
        corner = Affine(
            metres, 0, anchor[0] + (left - 1) * metres, 0, -metres, anchor[1] - (top - 1) * metres
        )
        box = GeoBox((bottom - top + 2, right - left + 2), corner, crs)
        parts = max(math.ceil(metres / self.lookup.pixel - 1e-6), 1)
        elevation = np.full(box.shape, np.nan)
        for rows, points in self.lookup.strips(box, anchor, parts):
            shape = rows.stop - rows.start, parts, box.shape[1], parts
            # of each pixel in one order, whatever the window; NaN where a point has none
            cells = points.reshape(shape).transpose(0, 2, 1, 3).reshape(*shape[::2], -1)
            elevation[rows] = cells.mean(axis=-1)
        return slope_of(elevation, metres)
