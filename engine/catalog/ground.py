"""Where an item lies: its footprint, and the frames that it claims for its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from engine.errors import ItemError, NatmapError
from engine.grid.antimeridian import Folded, fold
from engine.grid.area import polygons_of, reproject
from engine.grid.moving import mend

__all__ = ["Frames", "footprint_of"]

_BEYOND = 0.05  # of a footprint's area; outlines of real items lie up to 1.2 % beyond their frame
_MOST_EAST = 540.0  # degrees: footprints may be written beyond 180, and beyond that once more


_SYSTEMS = ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson")


def _code(value: Any) -> str:
    """A CRS as text; tables may have made a float of its number."""
    if isinstance(value, Mapping):
        return str(CRS.from_json_dict(dict(value)).to_wkt())
    number = str(value).removesuffix(".0")
    return f"EPSG:{number}" if number.isdigit() else str(value)


def _transform(value: Any) -> tuple[float, ...]:
    a, b, c, d, e, f = (float(number) for number in value[:6])
    return a, b, c, d, e, f


def _shape(value: Any) -> tuple[int, int]:
    height, width = (int(number) for number in value)
    return height, width


def _parsed(name: str, value: Any, parse: Callable[[Any], Any]) -> Any:
    """A field's value; None of one that is not there."""
    try:
        return None if value is None else parse(value)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError, CRSError) as error:
        raise ItemError(f"{name} cannot be read", got=f"{value!r:.100}") from error


class Frames:
    """What an item claims of its files' frames, checked against its own footprint.

    Parameters
    ----------
    footprint : in degrees.
    notes : of the item.
    """

    def __init__(self, footprint: BaseGeometry, notes: list[str]) -> None:
        self._footprint = shapely.segmentize(footprint, 0.05)
        self._notes = notes
        self._known: dict[tuple[object, ...], bool] = {}

    def claims(self, *places: Mapping[str, Any]) -> dict[str, Any]:
        """crs, transform and shape as the projection extension says them, where they can be true.

        A frame that does not hold the footprint is not believed: the file knows.

        Raises
        ------
        ItemError
            Where one of them is nothing that it could be.
        """

        def told(*names: str) -> Any:
            values = (place.get(name) for place in places for name in names)
            return next((value for value in values if value), None)

        crs, at, size = told(*_SYSTEMS), told("proj:transform"), told("proj:shape")
        found: dict[str, Any] = {
            "crs": _parsed("crs", crs, _code),
            "transform": _parsed("proj:transform", at, _transform),
            "shape": _parsed("proj:shape", size, _shape),
        }
        try:
            sound = None in found.values() or self._holds(**found)
        except (ValueError, OverflowError, CRSError):
            sound = False
        if sound:
            return found
        note = "its proj: fields contradict its footprint, and are not believed"
        if note not in self._notes:
            self._notes.append(note)
        return dict.fromkeys(found)

    def _holds(self, crs: str, transform: tuple[float, ...], shape: tuple[int, int]) -> bool:
        """Whether a frame holds the footprint, but for a little; rotated files are not read."""
        a, b, c, d, e, f = transform
        height, width = shape
        if b or d or not a or not e:
            return False
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
        ring = [(round(c + a * x, 6), round(f + e * y, 6)) for x, y in corners]
        key = crs, tuple(ring)  # bands of one frame have pixels of several sizes
        if key not in self._known:
            frame = shapely.Polygon(ring)
            self._known[key] = bool(frame.area) and self._beyond(frame, crs) <= _BEYOND
        return self._known[key]

    def _beyond(self, frame: BaseGeometry, crs: str) -> float:
        """Share of the footprint that lies outside of a frame."""
        try:
            there = mend(reproject(self._footprint, "EPSG:4326", crs))
        except (NatmapError, CRSError):
            return 1.0
        return float(1 - shapely.intersection(there, frame).area / there.area) if there.area else 0


def footprint_of(name: str, raw: Mapping[str, Any], notes: list[str]) -> Folded:
    """Footprint in degrees, folded at the antimeridian; its polygons alone."""
    try:
        geometry = shapely.force_2d(shape(raw["geometry"]))
    except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as error:
        raise ItemError(f"item {name} has no footprint", got=raw.get("geometry")) from error
    if geometry.is_empty:
        raise ItemError(f"item {name} has an empty footprint", got=raw["geometry"])
    west, south, east, north = geometry.bounds
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise ItemError(f"item {name} has a footprint that is not finite")
    if not (west >= -_MOST_EAST and east <= _MOST_EAST and south >= -90 and north <= 90):
        raise ItemError(
            f"item {name} has a footprint that is not in degrees",
            got=geometry.bounds,
            expected="longitude and latitude",
        )
    if not geometry.is_valid:
        geometry = mend(geometry)
        notes.append("footprint repaired")
    geometry = shapely.MultiPolygon(polygons_of(geometry)) if not _plain(geometry) else geometry
    if not geometry.area > 0:
        raise ItemError(f"item {name} has a footprint without area", got=raw["geometry"])
    found = fold(geometry)
    if found.crosses:
        notes.append("footprint crosses the antimeridian")
    return found


def _plain(geometry: BaseGeometry) -> bool:
    return geometry.geom_type in ("Polygon", "MultiPolygon")
