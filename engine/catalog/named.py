"""Polygons with names, one for each city, that share no ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from engine.catalog.boundaries import bring_near
from engine.errors import RecipeError
from engine.grid.area import Area
from engine.vectors.layers import Layer
from engine.vectors.read import read_vectors

__all__ = ["Named", "read_named"]

_AROUND = 1000.0  # metres around the area in which polygons are brought to the grid
_LONGEST = 100  # letters of a name


@dataclass(frozen=True)
class Named:
    """A city of a file.

    Attributes
    ----------
    name : of one line, the only one so called.
    fields : values of the fields that were asked for.
    source, crs : its polygons as the file has them, made valid.
    polygons : what of them is near the area, in the grid's CRS; may be empty.
    """

    name: str
    fields: Mapping[str, Any]
    source: tuple[BaseGeometry, ...]
    crs: CRS
    polygons: tuple[BaseGeometry, ...]

    def meets(self, area: BaseGeometry) -> bool:
        """Whether ground of the city lies in a shape; one that is prepared answers at once."""
        whole = shapely.union_all(list(self.polygons))
        if not area.intersects(whole):
            return False
        return bool(area.contains_properly(whole)) or self.within(area).area > 0

    def within(self, area: BaseGeometry) -> BaseGeometry:
        """What of the city lies in a shape of the grid's CRS."""
        return shapely.intersection(shapely.union_all(list(self.polygons)), area)


def read_named(
    path: Path,
    area: Area,
    pixel: float,
    *,
    name: str = "name",
    fields: Sequence[str] = (),
    what: str = "file of cities",
) -> tuple[list[Named], list[str]]:
    """The cities of a file that lie in an area, by name.

    Parameters
    ----------
    path : in any form that `engine.vectors` reads; ``path#layer`` names a layer.
    area : the wanted one, in the grid's CRS.
    pixel : of the map, in metres. Neighbours that overlap by no more than its width, as polygons of
        a shared border do once they are moved, are not refused.
    name : the field of the name.
    fields : others that are wanted; they must be there.
    what : the file is called in errors.

    Returns
    -------
    (cities whose ground meets the area, in the order of their names; notes)

    Raises
    ------
    RecipeError
        Where there is no such file, field or city in the area, where a city has no name, no polygon
        or that of another, and where two share ground in or about the area.
    """
    found = read_vectors(
        path, wanted=lambda field: field in (name, *fields), refuse=RecipeError, what=what
    )
    around = shapely.box(*area.geometry.bounds).buffer(_AROUND)
    cities: dict[str, Named] = {}
    for layer, parts in found.polygons(RecipeError):
        for field in (name, *fields):
            if field not in layer.names:
                raise RecipeError(
                    f"{found.name} has no field {field}",
                    got=", ".join(layer.names) or "no fields",
                    expected=", ".join((name, *fields)),
                )
        if layer.crs is None:
            raise RecipeError(
                f"the {what} does not say which CRS it is in",
                got=found.name,
                expected="a CRS in the file, or a .prj beside a shapefile",
            )
        near = bring_near(parts.polygons, layer.crs, area.crs, around)
        for row in range(len(layer.geometry)):
            own = np.flatnonzero(parts.row == row).tolist()
            called = _name_of(layer, row, name, found.name)
            if not own:
                raise RecipeError(
                    f"city {called} has no polygon", got=f"feature {row + 1} of {found.name}"
                )
            if called in cities:
                raise RecipeError(
                    "two cities have one name",
                    got=f"{called}, twice in {found.name}",
                    expected="each name once",
                    remedy="make one feature of both (a MultiPolygon), or name them apart",
                )
            cities[called] = Named(
                called,
                {field: layer.fields[field][row] for field in fields},
                tuple(parts.polygons[k] for k in own),
                layer.crs,
                tuple(part for k in own for part in near[k]),
            )
    if not cities:
        raise RecipeError(
            f"{found.name} holds no polygons", got="; ".join(found.notes) or "nothing"
        )
    inside = [city for city in cities.values() if city.meets(area.geometry)]
    if not inside:
        raise RecipeError(
            "none of the cities lies in the area",
            got=f"{found.name}: {len(cities)} polygons with names, none in the area",
            expected="polygons that cover some of the area",
            remedy="look at the area and the CRS of both files, or leave cities out",
        )
    _require_apart([city for city in cities.values() if city.polygons], pixel, found.name)
    notes = [f"{found.name}: {note}" for note in found.notes]
    if gone := len(cities) - len(inside):
        notes.append(f"{found.name}: {gone} of {len(cities)} cities lie outside the area")
    return sorted(inside, key=lambda city: city.name), notes


def _name_of(layer: Layer, row: int, field: str, file: str) -> str:
    value = layer.fields[field][row]
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(
            "a city has no name",
            got=f"{field}: {value!r} of feature {row + 1} of {file}",
            expected="text",
        )
    called = value.strip()
    if len(called) > _LONGEST or not called.isprintable():
        raise RecipeError(
            "a city cannot have this name",
            got=f"{called[:_LONGEST]!r} of feature {row + 1} of {file}",
            expected=f"one line of {_LONGEST} letters at most",
        )
    return called


def _require_apart(cities: Sequence[Named], pixel: float, file: str) -> None:
    """Refuse cities that share ground wider than a pixel."""
    whole = [shapely.union_all(list(city.polygons)) for city in cities]
    tree = shapely.STRtree(whole)
    for one, other in tree.query(whole, predicate="intersects").T.tolist():
        if one >= other:
            continue
        both = shapely.intersection(whole[one], whole[other])
        if both.area > 0 and not shapely.buffer(both, -pixel / 2).is_empty:
            raise RecipeError(
                "polygons of two cities overlap",
                got=f"{cities[one].name} and {cities[other].name} of {file}, "
                f"{both.area / 1e6:.4g} km2",
                expected="polygons that share a border at most: one model maps a pixel",
                remedy="cut one of them by the other",
            )
