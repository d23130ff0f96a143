"""Areas of pixels on the ellipsoid, as integers: sums of them do not depend on their order."""

from __future__ import annotations

import math
import threading
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from affine import Affine
from pyproj import CRS, Geod, Transformer

from engine.errors import AreaError

__all__ = ["PixelAreas"]

_STEPS = 2**20  # of a pixel's area: one part in a million
_COARSE = 1024  # pixels at least along a square for which one area of a pixel holds


class PixelAreas:
    """What pixels of a map cover.

    In a geographic CRS a row of pixels has one area, which is exact on the CRS's ellipsoid. In a
    projected one the pixels of a square (whole units, 1024 px or more) share the square's area.

    Parameters
    ----------
    crs : of the map.
    transform : of the map.
    shape : height and width.
    unit : side of a unit, in pixels.

    Attributes
    ----------
    quantum : m2 that a weight of 1 stands for.
    """

    def __init__(self, crs: CRS, transform: Affine, shape: tuple[int, int], unit: int) -> None:
        self._transform, self._shape, self._unit = transform, shape, unit
        self._square = unit * max(-(-_COARSE // unit), 1)
        ellipsoid = crs.ellipsoid
        if ellipsoid is None or not (crs.is_geographic or crs.is_projected):
            raise AreaError(
                "pixels of the map have no area on the ground",
                got=crs.name,
                expected="a geographic or projected CRS",
            )
        a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
        self._geod = Geod(a=a, b=b)
        self._a, self._b = a, b
        self._geographic = crs.is_geographic
        unit_of = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        if self._geographic:  # the factor is that to radians
            self._radians = unit_of
            largest = abs(transform.e) * self._radians * abs(transform.a) * self._radians * a * a
        else:
            geographic = crs.geodetic_crs
            self._lock = threading.Lock()  # a transformer is for one thread at a time
            self._back = Transformer.from_crs(crs, geographic, always_xy=True)
            largest = abs(transform.determinant) * unit_of**2
        if not largest > 0 or not math.isfinite(largest):
            raise AreaError("pixels of the map have no area", got=tuple(transform)[:6])
        self.quantum = largest / _STEPS

    def weights(self, rows: slice, cols: slice) -> npt.NDArray[np.int64]:
        """Area of a pixel in quanta: int64 (rows, units that the columns meet)."""
        units = np.arange(cols.start // self._unit, (cols.stop - 1) // self._unit + 1)
        if self._geographic:
            each = self._rows(rows) / self.quantum
            return np.repeat(np.round(each).astype(np.int64)[:, None], len(units), axis=1)
        downs = np.arange(rows.start, rows.stop) // self._square
        overs = units * self._unit // self._square
        found = np.zeros((len(downs), len(overs)), np.int64)
        for down in np.unique(downs).tolist():
            for over in np.unique(overs).tolist():
                value = self._of_square(down, over) / self.quantum
                whole = round(value) if math.isfinite(value) else 0
                found[np.ix_(downs == down, overs == over)] = whole
        return found

    def _rows(self, rows: slice) -> npt.NDArray[np.float64]:
        """Area of a pixel of each row: a rectangle of degrees on the ellipsoid."""
        edges = np.arange(rows.start, rows.stop + 1) * self._transform.e + self._transform.f
        sines = np.sin(np.clip(edges * self._radians, -math.pi / 2, math.pi / 2))
        e = math.sqrt(1 - (self._b / self._a) ** 2)
        # area from the equator to a parallel, by radian of longitude (Snyder 1987, eq. 3-12)
        zone = sines / (1 - (e * sines) ** 2) + np.arctanh(e * sines) / e if e > 0 else 2 * sines
        zone *= self._b**2 / 2
        found: npt.NDArray[np.float64] = np.abs(np.diff(zone)) * abs(
            self._transform.a * self._radians
        )
        return found

    @lru_cache(maxsize=4096)  # noqa: B019  # as long as the map is counted
    def _of_square(self, down: int, over: int) -> float:
        """Area of a pixel of a square, from the geodesic area of its outline."""
        n = self._square
        along = np.linspace(0, n, 9)[:-1]
        x = np.concatenate([along, np.full(8, n), n - along, np.zeros(8)]) + over * n
        y = np.concatenate([np.zeros(8), along, np.full(8, n), n - along]) + down * n
        t = self._transform
        with self._lock:
            lon, lat = self._back.transform(t.a * x + t.c, t.e * y + t.f)
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            return math.nan
        area, _ = self._geod.polygon_area_perimeter(lon, lat)
        return abs(area) / n**2
