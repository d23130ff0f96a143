"""Sentinel-2 scenes of a made-up world: any window of a zone's grid, on several days at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from engine.jit import compiled
from engine.synthetic.clouds import cast_clouds, classify_scene, cloudiness
from engine.synthetic.districts import World
from engine.synthetic.hashing import SALT, fractal
from engine.synthetic.light import Sun, reach, sun_at
from engine.synthetic.materials import BANDS, spectra
from engine.synthetic.sensor import SQUARE, add_haze, add_noise, look, radiance
from engine.synthetic.surface import paint

__all__ = ["CRS", "FINE", "Overpass", "View", "see"]

CRS = "EPSG:3035"
"""The made-up worlds' own: metres, equal area, true distances to a part in a thousand."""

FINE = ("B02", "B03", "B04", "B08")
"""Bands with pixels of 10 m; the others have 20 m."""

_TEN = np.array([BANDS.index(name) for name in FINE])
_TWENTY = np.array([k for k in range(len(BANDS)) if k not in set(_TEN.tolist())])
_RELIEF = SALT["relief"]
_NEAR = 30  # metres that the point spread function reaches, rounded up to squares
_PLACE = 12.0, 49.5  # where the sun of an overpass is taken: one sun for all zones


@dataclass(frozen=True)
class Overpass:
    """One acquisition of the whole swath.

    Attributes
    ----------
    when : datetime, UTC
    baseline : processing baseline; from 04.00 on, digital numbers carry an offset of 1000.
    cover : share of the sky under cloud.
    haze : most reflectance that haze adds in B02.
    edge : (x, y, bearing) or None
        The swath lies to the right of a line through a point, looking along a bearing (degrees).
    """

    when: datetime
    baseline: str = "05.00"
    cover: float = 0.0
    haze: float = 0.015
    edge: tuple[float, float, float] | None = None

    @property
    def day(self) -> int:
        """A number of the day, for draws that belong to it."""
        return self.when.toordinal()

    @property
    def sun(self) -> Sun:
        """Where it stands; one place for the whole swath, since a country is small."""
        return sun_at(self.when, *_PLACE)

    @property
    def shift(self) -> int:
        """What the baseline adds to digital numbers."""
        return 1000 if self.baseline >= "04.00" else 0

    def inside(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """Which points the swath covers."""
        if self.edge is None:
            return np.ones(x.shape, bool)
        px, py, bearing = self.edge
        east, north = math.cos(math.radians(bearing)), -math.sin(math.radians(bearing))
        found: npt.NDArray[np.bool_] = (x - px) * east + (y - py) * north >= 0
        return found

    @property
    def swath(self) -> BaseGeometry:
        """What it covers of a world, a polygon in `CRS`."""
        far = 3e6
        if self.edge is None:
            return shapely.box(0, 0, 2 * far, 2 * far)
        strip = shapely.box(0, -far, far, far)
        turned = shapely.affinity.rotate(strip, -self.edge[2], origin=(0, 0))
        return shapely.affinity.translate(turned, *self.edge[:2])


@dataclass(frozen=True)
class View:
    """Digital numbers of a window on one day; 0 without data.

    Attributes
    ----------
    ten : uint16 (4, rows, columns), `FINE`
    twenty : uint16 (6, rows / 2, columns / 2), the other bands in order
    scl : uint8 (rows / 2, columns / 2)
    """

    ten: npt.NDArray[np.uint16]
    twenty: npt.NDArray[np.uint16]
    scl: npt.NDArray[np.uint8]


def see(
    world: World,
    zone: int,
    left: int,
    top: int,
    rows: int,
    cols: int,
    overpasses: Sequence[Overpass],
) -> list[View]:
    """Scenes of a window of a UTM zone's grid.

    Parameters
    ----------
    world : World
    zone : 1 to 60, north.
    left, top : corner in metres of the zone, multiples of 20.
    rows, cols : pixels of 10 m; even.
    overpasses : all seen at once, since the ground is made but once.

    Returns
    -------
    list of View, in that order; a pixel is the same in whatever window.
    """
    x10, y10 = _places(zone, left, top, rows, cols, 10)
    x20, y20 = _places(zone, left, top, rows // 2, cols // 2, 20)
    far = max(reach(overpass.sun) for overpass in overpasses)
    margin = -(-(far + _NEAR) // SQUARE) * SQUARE
    west = math.floor(x10.min() / SQUARE) * SQUARE - margin
    north = math.ceil(y10.max() / SQUARE) * SQUARE + margin
    width = math.ceil((x10.max() + margin - west) / SQUARE) * SQUARE
    height = math.ceil((north - y10.min() + margin) / SQUARE) * SQUARE
    surface = paint(world, west, north, height, width)

    views = []
    for overpass in overpasses:
        sun = overpass.sun
        day_of_year = overpass.when.timetuple().tm_yday
        table = np.stack([_table(world.seed, key, day_of_year) for key in surface.cities])
        squares = radiance(surface, sun, table)
        azimuth = math.radians(sun.azimuth)
        slope = math.tan(math.radians(sun.elevation))
        _relief(world.seed, west, north, math.sin(azimuth), math.cos(azimuth), slope, squares)

        ten = np.empty((len(_TEN), rows, cols), np.float32)
        twenty = np.empty((len(_TWENTY), rows // 2, cols // 2), np.float32)
        for out, bands, x, y, step in ((ten, _TEN, x10, y10, 10), (twenty, _TWENTY, x20, y20, 20)):
            look(squares, float(west), float(north), x, y, bands, out)
            add_haze(world.seed, overpass.day, x, y, overpass.haze, bands, out)
            cloud, shadow = cloudiness(world.seed, overpass.day, overpass.cover, sun, x, y)
            cast_clouds(out, cloud, shadow, bands)
            add_noise(world.seed, overpass.day + zone, -top // step, left // step, bands, out)
        halved = ten.reshape(len(_TEN), rows // 2, 2, cols // 2, 2).mean((2, 4))
        seen = np.stack([halved[0], halved[2], halved[3], twenty[4]])
        scl = classify_scene(world.seed, overpass.day, x20, y20, cloud, shadow, seen)
        views.append(
            View(
                _numbers(ten, overpass, overpass.inside(x10, y10)),
                _numbers(twenty, overpass, inside := overpass.inside(x20, y20)),
                np.where(inside, scl, 0).astype(np.uint8),
            )
        )
    return views


def _numbers(
    reflectance: npt.NDArray[np.float32], overpass: Overpass, inside: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint16]:
    """Digital numbers: 1e-4 reflectance, the baseline's offset, 0 outside the swath."""
    # darkest 1, in either baseline: what the older one cannot hold, the newer must not tell
    numbers = np.clip(np.rint(reflectance * 10_000), 1, 60_000) + overpass.shift
    return np.where(inside, numbers, 0).astype(np.uint16)


def _places(
    zone: int, left: int, top: int, rows: int, cols: int, step: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pixel centres in the world, each projected by itself."""
    x, y = np.meshgrid(left + (np.arange(cols) + 0.5) * step, top - (np.arange(rows) + 0.5) * step)
    there = _transformer(zone).transform(x.ravel(), y.ravel())
    return there[0].reshape(x.shape), there[1].reshape(x.shape)


@lru_cache(maxsize=60)
def _transformer(zone: int) -> Transformer:
    return Transformer.from_crs(f"EPSG:{32600 + zone}", CRS, always_xy=True)


@lru_cache(maxsize=4096)
def _table(seed: int, city: int, day_of_year: int) -> npt.NDArray[np.float32]:
    return spectra(seed, city, day_of_year)


@compiled
def _relief(
    seed: Any, west: int, north: int, east_sun: float, north_sun: float, slope: float, out: Any
) -> None:
    """Light on slopes: hills of some tens of metres, lit more where they face the sun."""
    for i in range(out.shape[0]):
        y = north - (i + 0.5) * SQUARE
        for j in range(out.shape[1]):
            x = west + (j + 0.5) * SQUARE
            here = fractal(seed, x, y, 2600.0, 3, _RELIEF)
            ahead = fractal(seed, x + 20 * east_sun, y + 20 * north_sun, 2600.0, 3, _RELIEF)
            rise = 70.0 * (ahead - here) / 20  # towards the sun; facing it means falling
            light = np.float32(min(max(1 - rise / slope, 0.7), 1.3))
            for b in range(out.shape[2]):
                out[i, j, b] *= light
