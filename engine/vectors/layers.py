"""What a file of vectors holds: layers of geometries with attributes, each in its own CRS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from engine.errors import NatmapError
from engine.grid.antimeridian import unroll
from engine.grid.moving import mend, polygons_of

__all__ = ["Layer", "Parts", "Vectors", "polygon_of"]

_MORE_THAN_DEGREES = 360.0
_KINDS = {"Point": "points", "MultiPoint": "points", "LineString": "lines"}


@dataclass(frozen=True)
class Layer:
    """A layer of a database, a folder of a KML, or all of a plain file.

    Attributes
    ----------
    name : of the layer or folder; of a plain file its own.
    geometry : one for each feature, None where it has none.
    fields : values by name, as many as geometries; only those that were asked for.
    names : of all fields.
    crs : CRS, None where the file does not say.
    path : names of the folders that it lies in, the outermost first; its own is the last.
    partial : whether only what is near something was read.
    total : features that it has, near or not; None where the file does not say.
    """

    name: str
    geometry: Sequence[BaseGeometry | None]
    fields: Mapping[str, Sequence[Any]]
    names: tuple[str, ...]
    crs: CRS | None
    path: tuple[str, ...] = ()
    partial: bool = False
    total: int | None = None


@dataclass(frozen=True)
class Parts:
    """Polygons of a layer: `row` is the feature that each is a part of."""

    polygons: list[BaseGeometry]
    row: npt.NDArray[np.intp]


@dataclass
class Vectors:
    """Layers of a file, and notes of what was left out or repaired in reading them."""

    name: str
    layers: list[Layer]
    notes: list[str] = field(default_factory=list)

    @property
    def partial(self) -> bool:
        """Whether only what is near something was read."""
        return any(layer.partial for layer in self.layers)

    def polygons(self, refuse: type[NatmapError]) -> list[tuple[Layer, Parts]]:
        """The polygons of all layers, apart, whole and valid; what is none is left out and noted.

        Raises
        ------
        NatmapError
            Of the class `refuse`: where coordinates are not numbers, or not degrees where they
            should be.
        """
        tally: Counter[str] = Counter()
        found = []
        for layer in self.layers:
            rows: list[int] = []
            kept: list[BaseGeometry] = []
            _require_degrees(self.name, layer, refuse)
            for row, geometry in enumerate(layer.geometry):
                polygons = self._clean(geometry, row, layer, refuse, tally)
                kept += polygons
                rows += [row] * len(polygons)
            if kept:
                found.append((layer, Parts(kept, np.array(rows, np.intp))))
        self.notes += [f"{number} {what}" for what, number in tally.items() if number]
        return found

    def _clean(
        self,
        geometry: BaseGeometry | None,
        row: int,
        layer: Layer,
        refuse: type[NatmapError],
        tally: Counter[str],
    ) -> list[BaseGeometry]:
        if geometry is None or geometry.is_empty:
            tally["empty polygons dropped"] += 1
            return []
        geometry = shapely.force_2d(geometry)
        if not np.isfinite(shapely.get_coordinates(geometry)).all():
            raise refuse(
                f"{self.name} holds coordinates that are not numbers",
                got=f"NaN or infinity in geometry {row + 1} of {layer.name}",
                remedy="repair or remove that geometry",
            )
        for kind in _others(geometry):
            tally[f"{kind} left out: only polygons are areas"] += 1
        if layer.crs is not None and layer.crs.is_geographic:
            turned = unroll(geometry)
            tally["polygons taken to cross 180 degrees"] += turned is not geometry
            geometry = turned
        # one by one: GEOS repairs no collection that has lines as well
        mixed = geometry.geom_type == "GeometryCollection"
        parts = []
        for polygon in polygons_of(geometry) if mixed else [geometry]:
            if not polygon.is_valid:
                polygon = mend(polygon)
                tally["invalid ones repaired"] += 1
            parts += polygons_of(polygon)
        whole = [part for part in parts if part.area > 0]
        tally["empty polygons dropped"] += len(parts) - len(whole)
        return whole


def polygon_of(rings: Iterable[Any]) -> tuple[BaseGeometry | None, int]:
    """A polygon of rings, the outer one first, and how many of them had to be closed.

    Parameters
    ----------
    rings : coordinates (n, 2 or more).

    Returns
    -------
    (polygon, closed)
        No polygon where the outer ring has fewer than three corners; an inner one of that kind
        is left out.

    Raises
    ------
    ValueError
        Where coordinates are not pairs of finite numbers.
    """
    found, closed = [], 0
    for number, ring in enumerate(rings):
        xy = _numbers(ring)
        if not np.isfinite(xy).all():
            raise ValueError("a ring has NaN or infinity among its coordinates")
        if len(xy) and (xy[0] != xy[-1]).any():
            xy, closed = np.concatenate([xy, xy[:1]]), closed + 1
        if len(xy) >= 4:
            found.append(shapely.linearrings(xy))
        elif number == 0:
            return None, closed
    return (shapely.Polygon(found[0], found[1:]) if found else None), closed


def _numbers(ring: Any) -> npt.NDArray[np.float64]:
    if isinstance(ring, np.ndarray):
        return ring[:, :2]
    try:
        pairs = [(p[0], p[1]) for p in ring]
    except (TypeError, IndexError, KeyError):
        raise ValueError("a ring is not a list of coordinates") from None
    if any(isinstance(v, bool) or not isinstance(v, int | float) for p in pairs for v in p):
        raise ValueError("a ring has coordinates that are not numbers")
    try:
        return np.array(pairs, float).reshape(-1, 2)
    except OverflowError:
        raise ValueError("a ring has coordinates that no number of 64 bits can be") from None


def _others(geometry: BaseGeometry) -> list[str]:
    """What a geometry has beside polygons, by kind."""
    kind = geometry.geom_type
    if kind in ("Polygon", "MultiPolygon"):
        return []
    if kind == "GeometryCollection":
        return [name for part in geometry.geoms for name in _others(part)]
    return [_KINDS.get(kind, "lines")]


def _require_degrees(name: str, layer: Layer, refuse: type[NatmapError]) -> None:
    """Refuse metres where degrees are due, and degrees where metres are."""
    shapes = [g for g in layer.geometry if g is not None and not g.is_empty]
    if layer.crs is None or not shapes:
        return
    west, south, east, north = shapely.total_bounds(shapes)
    got = f"{name}: coordinates from ({west:.6g}, {south:.6g}) to ({east:.6g}, {north:.6g})"
    if layer.crs.is_geographic:
        if max(-west, east) > _MORE_THAN_DEGREES or max(-south, north) > 90 + 1e-6:
            raise refuse(
                "coordinates are not in degrees",
                got=got,
                expected=f"longitudes and latitudes of {layer.crs.name}",
                remedy="write the file again in WGS 84, or in a form that says its CRS (GPKG)",
            )
    elif layer.crs.is_projected and max(-west, east) <= 180 and max(-south, north) <= 90:
        raise refuse(
            "coordinates look like degrees, and the file says metres",
            got=f"{got}, {layer.crs.name}",
            remedy="give the file the CRS that its coordinates are in",
        )
