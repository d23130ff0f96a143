"""Geometries from one CRS to another: edges that bend, domains that end."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from engine.errors import AreaError

__all__ = ["Move", "far_outside", "mend", "move_of", "polygons_of", "reproject"]

_DEGREES, _METRES = 0.05, 1000.0  # edges are cut to these lengths before they are moved
_FAR = 1.0  # degrees beyond a CRS's area of use that are worth a note
_KEPT = 256  # moves that a thread remembers
_own = threading.local()


@dataclass(frozen=True)
class Move:
    """From one CRS to another, in the thread that made it; `unit` is the source's in metres."""

    target: CRS
    transformer: Transformer
    geographic: bool
    unit: float

    @property
    def spacing(self) -> float:
        """Length to which edges are cut, in units of the source."""
        return _DEGREES if self.geographic else _METRES / self.unit

    def points(self, xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Coordinates (n, 2), moved."""
        return np.column_stack(self.transformer.transform(xy[:, 0], xy[:, 1]))

    def geometry(self, geometry: BaseGeometry) -> BaseGeometry:
        """A geometry vertex by vertex, its edges as they are."""
        return shapely.transform(geometry, self.points)

    def goes_back(self, geometry: BaseGeometry, moved: BaseGeometry) -> bool:
        """Whether vertices survive the way there and back: outside its domain a projection may
        return finite nonsense."""
        xy, there = shapely.get_coordinates(geometry), shapely.get_coordinates(moved)
        if not np.isfinite(there).all():
            return False
        back = self.transformer.transform(there[:, 0], there[:, 1], direction="INVERSE")
        off = np.abs(np.column_stack(back) - xy)
        if self.geographic:
            off[:, 0] = np.minimum(off[:, 0] % 360.0, 360.0 - off[:, 0] % 360.0)
            return bool((off < 1e-5).all())
        return bool((off < 1.0 / self.unit).all())


def move_of(source: str | CRS, target: str | CRS) -> Move | None:
    """The move between two systems, None where they are the same.

    One for each pair and thread: it takes 50 ms to make, a country has thousands of footprints, and
    PROJ's transformers must not be shared among threads.
    """
    moves: dict[tuple[str, str], Move | None] = _own.__dict__.setdefault("moves", {})
    key = str(source), str(target)
    if key not in moves:
        first, second = CRS.from_user_input(source), CRS.from_user_input(target)
        if len(moves) >= _KEPT:
            moves.clear()
        moves[key] = None if first == second else _made(first, second)
    return moves[key]


def _made(source: CRS, target: CRS) -> Move:
    unit = source.axis_info[0].unit_conversion_factor if source.axis_info else 1.0
    move = Transformer.from_crs(source, target, always_xy=True)
    return Move(target, move, source.is_geographic, float(unit))


def reproject(geometry: BaseGeometry, source: str | CRS, target: str | CRS) -> BaseGeometry:
    """Move a geometry to another CRS, its long edges first cut into short ones.

    Raises
    ------
    AreaError
        Where the geometry leaves the domain of the target CRS.
    """
    move = move_of(source, target)
    if move is None:
        return geometry
    geometry = shapely.segmentize(geometry, move.spacing)
    moved = move.geometry(geometry)
    if not move.goes_back(geometry, moved):
        raise AreaError(
            "the area leaves the domain of the grid's CRS",
            got=f"{move.target.name}, area bounds {tuple(round(b, 3) for b in geometry.bounds)}",
            remedy="choose a CRS made for this part of the world",
        )
    return mend(moved)


def mend(geometry: BaseGeometry) -> BaseGeometry:
    """A geometry made valid: ground that an outline goes round twice stays in it.

    What a hole leaves of its polygon is not in it, wherever the hole reaches beyond. GEOS's other
    way takes ground in and out by turns, so that an outline that overlaps itself gets a hole.
    """
    if geometry.is_valid:
        return geometry
    return shapely.make_valid(geometry, method="structure", keep_collapsed=False)


def polygons_of(geometry: BaseGeometry) -> list[Any]:
    """The polygons that a geometry is made of, at any depth; its points and lines are left out."""
    if geometry.geom_type == "Polygon":
        return [] if geometry.is_empty else [geometry]
    return [p for part in getattr(geometry, "geoms", ()) for p in polygons_of(part)]


def far_outside(geographic: BaseGeometry, crs: str | CRS) -> str | None:
    """What to say where a geometry in degrees lies far outside of a CRS's area of use."""
    known = CRS.from_user_input(crs)
    use = known.area_of_use
    if use is None or geographic.is_empty:
        return None
    east = use.east + 360.0 if use.east < use.west else use.east
    boxes = [shapely.box(use.west + k, use.south, east + k, use.north) for k in (-360, 0, 360)]
    parts = shapely.envelope(polygons_of(geographic))
    corners = shapely.points(shapely.get_coordinates(parts))
    away = float(shapely.distance(corners, shapely.union_all(boxes)).max())
    if away <= _FAR:
        return None
    return (
        f"the area lies up to {away:.0f} degrees outside the area of use of {known.name} "
        f"({use.name}): metres and areas are distorted there"
    )
