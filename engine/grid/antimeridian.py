"""Geometries in degrees about 180: of one place folded there, of many unrolled beyond it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from engine.grid.moving import mend, move_of, polygons_of

__all__ = ["Folded", "cut_about_poles", "fold", "unroll"]

_SLIT = 1e-3  # metres


class Folded(NamedTuple):
    """A geometry within -180 and 180.

    Attributes
    ----------
    geometry : cut where it crosses.
    bounds : west, south, east, north; west > east where it crosses.
    centre : longitude of the centroid, of what lies on both sides as one piece.
    crosses : whether it crosses.
    """

    geometry: BaseGeometry
    bounds: tuple[float, float, float, float]
    centre: float
    crosses: bool


def fold(geometry: BaseGeometry) -> Folded:
    """Fold a geometry in degrees, in whatever way it is written about 180.

    It may go on beyond 180 or -180, be cut there, or jump from one side to the other, so that it
    seems to go round the Earth. One that seems to is taken for one that jumps, where it then goes
    less than half round.

    Parameters
    ----------
    geometry : polygons, finite; longitudes may be any.
    """
    geometry = _valid(geometry)
    west, south, east, north = geometry.bounds
    if east - west > 180:
        rolled = _valid(shapely.transform(geometry, _roll))
        left, _, right, _ = rolled.bounds
        if right - left <= 180 and _flat(rolled) == _flat(geometry):
            geometry, west, east = rolled, left, right
    centre = float(geometry.centroid.x)
    if west >= -180 and east <= 180:
        return Folded(geometry, (west, south, east, north), centre, False)
    first, last = int((west + 180) // 360), int(np.ceil((east + 180) / 360)) - 1
    pieces = [
        shapely.transform(
            shapely.intersection(geometry, shapely.box(turn - 180, -90, turn + 180, 90)),
            lambda xy, turn=turn: xy - [turn, 0.0],
        )
        for turn in (360.0 * n for n in range(first, max(first, last) + 1))
    ]
    cut = _valid(shapely.union_all(pieces))
    if cut.geom_type == "GeometryCollection":  # lines along 180 degrees are no ground
        cut = shapely.union_all(polygons_of(cut))
    crosses = last > first
    if east - west >= 360:
        return Folded(cut, (-180.0, south, 180.0, north), _turn(centre), False)
    return Folded(cut, (_turn(west), south, _turn(east, last=True), north), _turn(centre), crosses)


def cut_about_poles(geometry: BaseGeometry, crs: str) -> BaseGeometry:
    """A geometry in a projection, slit along 180 degrees where it may go round a pole.

    Its outline goes once round the Earth there, which no ring in degrees can say; slit, it goes up
    along 180 to the pole, and down along -180.
    """
    move = move_of("EPSG:4326", crs)
    if move is None:
        return geometry
    hull = geometry.convex_hull
    for pole in (-90.0, 90.0):
        latitudes = np.linspace(pole, 0.0, 1801)
        line = move.points(np.column_stack([np.full(1801, 180.0), latitudes]))
        line = line[np.isfinite(line).all(axis=1)]
        if len(line) > 1 and hull.intersects(shapely.Point(line[0])):
            slit = shapely.LineString(line).buffer(_SLIT, cap_style="flat")
            geometry = shapely.difference(geometry, slit)
    return geometry


def unroll(geometry: BaseGeometry) -> BaseGeometry:
    """A geometry in degrees whose edges jump over 180 degrees, in longitudes that go on beyond it.

    An edge of more than 180 degrees is one that goes the other way about the Earth; one of 360
    is the outline of the whole Earth, and stays. Each polygon is judged by its own edges, where
    `fold` judges all by their extent: a file of areas may hold places all round the Earth.
    """
    xy = shapely.get_coordinates(geometry)
    if not len(xy) or np.ptp(xy[:, 0]) <= 180:
        return geometry

    def jumps(ring: Any) -> bool:
        step = np.abs(np.diff(shapely.get_coordinates(ring)[:, 0]))
        return bool(((step > 180) & (step < 360 - 1e-6)).any())

    parts, found = polygons_of(geometry), []
    for part in parts:
        if jumps(part.exterior):
            part = shapely.transform(part, _roll)
        found.append(part)
    if all(a is b for a, b in zip(parts, found, strict=True)):
        return geometry
    return shapely.union_all([mend(part) for part in found])


def _valid(geometry: BaseGeometry) -> BaseGeometry:
    """By turns in and out, so that what is rolled and goes round the Earth is flat."""
    if geometry.is_valid:
        return geometry
    try:
        return shapely.make_valid(geometry)
    except shapely.errors.GEOSException:  # of rings that collapse
        return mend(geometry)


def _flat(geometry: BaseGeometry) -> bool:
    """Whether nothing of it is an area: what goes once round the Earth is, when it is rolled."""
    return not geometry.area > 0


def _roll(xy: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rolled = xy.copy()
    rolled[:, 0] %= 360.0
    return rolled


def _turn(longitude: float, *, last: bool = False) -> float:
    """Between -180 and 180; `last`: 180 stays 180, as the eastern end of something."""
    turned = (longitude + 180.0) % 360.0 - 180.0
    return 180.0 if last and turned == -180.0 else turned
