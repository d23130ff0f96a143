"""An extract of OpenStreetMap on a grid: polygons of each class, and of what is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from engine.errors import RecipeError
from engine.features.coastline import Sea, sea_of
from engine.features.coverage import Layers
from engine.features.osm_classes import WATER
from engine.features.osm_extent import require_degrees
from engine.features.osm_opening import Box
from engine.features.osm_reading import CUT, Extract
from engine.grid.area import Area
from engine.grid.moving import mend, move_of, polygons_of

__all__ = ["Ground", "degrees_of", "ground_of"]

_AROUND = 0.05  # degrees about the wanted ground within which shapes are kept
_HALF = 180.0  # degrees
_CURVE = 4  # segments of a quarter circle at the ends of roads


@dataclass(frozen=True)
class Ground:
    """What an extract says of a place.

    Attributes
    ----------
    name : of the file.
    layers : polygons of each class, and at last what is known, in metres of the grid.
    timestamp : of the extract.
    sea : what its coastlines say; None where water was not asked for.
    dropped : for each reason, ids of objects that are no shapes.
    relations : that the extract holds.
    covered : share of the wanted ground that the extract covers.
    """

    name: str
    layers: Layers
    timestamp: datetime | None
    sea: Sea | None
    dropped: dict[str, list[str]]
    relations: int
    covered: float


def degrees_of(bounds: tuple[float, float, float, float], crs: str) -> Box:
    """Bounds in degrees, a little wider, of bounds in metres; the whole turn over 180 degrees."""
    west, south, east, north = Area(shapely.box(*bounds), crs).geographic.bounds
    return (
        max(west - _AROUND, -180.0),
        max(south - _AROUND, -90.0),
        min(east + _AROUND, 180.0),
        min(north + _AROUND, 90.0),
    )


def ground_of(
    extract: Extract,
    extent: BaseGeometry | None,
    crs: str,
    bounds: tuple[float, float, float, float],
) -> Ground:
    """Put an extract on a grid.

    Parameters
    ----------
    extract : of the file.
    extent : polygons in degrees by which it was cut; None: the box that it says it covers.
    crs : of the grid.
    bounds : of the grid, in metres; what lies elsewhere is left out.

    Raises
    ------
    RecipeError
        Where nobody says what the extract covers, or it is of another place.
    """
    if extent is None and extract.box is None:
        raise RecipeError(
            "an extract of OpenStreetMap does not say which ground it covers",
            got=extract.name,
            expected="a bounding box in its header",
            remedy="give `extent`, the polygon by which it was cut, or cut it once more: "
            "osmium extract -b WEST,SOUTH,EAST,NORTH --set-bounds",
        )
    whole = extent or shapely.box(*(extract.box or ()))
    require_degrees(whole, extract.name)
    if extent is None and whole.bounds[2] - whole.bounds[0] > _HALF:
        # osmium takes the western end of a box for the lesser of its two numbers
        raise RecipeError(
            "an extract of OpenStreetMap goes over the 180th meridian, or about half the Earth",
            got=f"{extract.name}: {_told(whole.bounds)}",
            expected=f"at most {_HALF:g} degrees from west to east",
            remedy="cut it to the area (osmium extract -b), or in two at 180 degrees",
        )
    near = degrees_of(bounds, crs)
    here = shapely.intersection(whole, shapely.box(*near))
    wanted = shapely.box(*bounds)
    covered = [shapely.intersection(part, wanted).area for part in _moved([here], crs)]
    if not sum(covered) > 0:
        raise RecipeError(
            "an extract of OpenStreetMap is of another place",
            got=f"{extract.name}: {_told(whole.bounds)}",
            expected=f"ground within {_told(near)}",
            remedy="get the extract of this area",
        )
    sea = sea_of(extract.coasts, whole) if WATER in extract.classes else None
    shapes = {name: [*found] for name, found in extract.areas.items()}
    unknown = [_to_border(box, whole.bounds, why == CUT) for why, box in extract.unknown]
    if sea is not None:
        shapes[WATER] += sea.water
        unknown += sea.unknown
    known = shapely.difference(here, shapely.union_all(unknown)) if unknown else here
    placed = [_moved(_clipped(shapes[name], near), crs) for name in extract.classes]
    if "road" in extract.classes and extract.roads:
        lines, widths = zip(*extract.roads, strict=True)
        drawn = shapely.buffer(_lines(lines, crs), np.array(widths) / 2, quad_segs=_CURVE)
        placed[extract.classes.index("road")] += list(drawn)
    layers = Layers([*placed, _moved([known], crs)])
    share = sum(covered) / wanted.area
    return Ground(
        extract.name,
        layers,
        extract.timestamp,
        sea,
        extract.dropped,
        extract.relations,
        share,
    )


def _told(box: Any) -> str:
    west, south, east, north = box
    return f"{west:.4g}, {south:.4g} to {east:.4g}, {north:.4g}"


def _to_border(box: Box, extent: Box, cut: bool) -> BaseGeometry:
    """The ground of an object that is not known.

    One that is cut goes on to the border: to the nearest side, and to each that is nearer than
    what is known of it is long.
    """
    if not cut:
        return shapely.box(*box)
    away = [abs(a - b) for a, b in zip(box, extent, strict=True)]
    reach = max(box[2] - box[0], box[3] - box[1], min(away))
    return shapely.box(*(extent[k] if away[k] <= reach else box[k] for k in range(4)))


def _clipped(shapes: list[BaseGeometry], near: Box) -> list[BaseGeometry]:
    """What of polygons lies near: a sea may reach beyond what a projection is made for."""
    if not shapes:
        return []
    array = np.array(shapes, object)
    bounds = shapely.bounds(array)
    west, south, east, north = near
    inside = (bounds[:, 0] >= west) & (bounds[:, 2] <= east)
    inside &= (bounds[:, 1] >= south) & (bounds[:, 3] <= north)
    array[~inside] = shapely.clip_by_rect(array[~inside], *near)
    return [part for shape in array for part in polygons_of(shape)]


def _moved(shapes: list[BaseGeometry], crs: str) -> list[BaseGeometry]:
    """Polygons in the grid's CRS, valid."""
    return [mend(shape) for shape in _in_metres(np.array(shapes, object), crs)]


def _lines(lines: Any, crs: str) -> Any:
    return _in_metres(np.array(lines, object), crs)


def _in_metres(shapes: Any, crs: str) -> Any:
    """As `grid.moving.reproject`, of many at once.

    Raises
    ------
    RecipeError
        Where they leave the domain of the CRS.
    """
    move = move_of("EPSG:4326", crs)
    if move is None or not len(shapes):
        return shapes
    dense = shapely.segmentize(shapes, move.spacing)
    moved = move.geometry(dense)
    if not move.goes_back(dense, moved):
        raise RecipeError(
            "objects of OpenStreetMap leave the domain of the grid's CRS",
            got=f"{move.target.name}, {_told(shapely.total_bounds(shapes))}",
            remedy="choose a CRS made for this part of the world, or cut the extract to the area",
        )
    return moved
