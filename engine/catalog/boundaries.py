"""Polygons from files: the wanted area, and urban boundaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import shapely
from pyogrio.errors import DataSourceError
from shapely.geometry.base import BaseGeometry

from engine.catalog.cards import BoundaryCard, find_boundaries, load_boundary_card
from engine.errors import AreaError, CardError, RecipeError
from engine.grid.area import Area, polygons_of, reproject
from engine.recipes.sections import AreaChoice

__all__ = ["read_boundaries", "read_mask", "read_polygons", "resolve_area"]


def read_polygons(
    path: str | Path, *, key: str | None = None, value: str | None = None
) -> tuple[list[BaseGeometry], str, list[str]]:
    """Polygons of a file.

    Parameters
    ----------
    path : GeoJSON, GPKG, shapefile or whatever GDAL reads as polygons.
    key, value : str, optional
        Take only features whose field `key` equals `value`.

    Returns
    -------
    (polygons, crs, notes)
        CRS as WKT; notes say what was repaired.

    Raises
    ------
    AreaError
        Where there are no polygons, or nothing says which CRS they are in.
    """
    path = Path(path)
    if not path.is_file():
        raise AreaError("there is no such polygon file", got=path)
    try:
        frame: Any = geopandas.read_file(path)
    except (DataSourceError, ValueError) as error:
        raise AreaError("the polygon file cannot be read", got=f"{path.name}: {error}") from error
    if frame.crs is None:
        if path.suffix.lower() not in (".json", ".geojson"):
            raise AreaError(
                "the polygon file does not say which CRS it is in",
                got=path.name,
                expected="a .prj beside a shapefile, or a CRS in the file",
                remedy="add the .prj that came with the data",
            )
        frame = frame.set_crs("EPSG:4326")  # the GeoJSON standard
    if key is not None:
        if key not in frame.columns:
            raise AreaError(f"{path.name} has no field {key}", got=", ".join(frame.columns))
        known = sorted(str(v) for v in frame[key].dropna().unique())
        frame = frame[frame[key] == value]
        if not len(frame):
            raise AreaError("no such country", got=value, expected=", ".join(known))
    shapes = [g for g in frame.geometry if g is not None and not g.is_empty]
    notes: list[str] = []
    broken = sum(not g.is_valid for g in shapes)
    if broken:
        notes.append(f"{broken} invalid polygons of {path.name} repaired")
    polygons = [p for g in shapes for p in polygons_of(g if g.is_valid else shapely.make_valid(g))]
    if not polygons:
        kinds = sorted({g.geom_type for g in shapes}) or ["nothing"]
        raise AreaError(f"{path.name} holds no polygons", got=", ".join(kinds), expected="polygons")
    return polygons, frame.crs.to_wkt(), notes


def read_boundaries(
    name: str, crs: str, within: BaseGeometry, base: Path | None = None
) -> tuple[list[BaseGeometry], list[str]]:
    """Polygons of a boundary card, or of any polygon file, that meet an area.

    Parameters
    ----------
    name : a card's name, or the path of a polygon file (relative to `base`).
    crs : the grid's.
    within : the area, in that CRS.

    Returns
    -------
    (polygons in `crs`, notes)
    """
    card: BoundaryCard | None = None
    path = (base or Path()) / name
    if not path.is_file():
        try:
            card = load_boundary_card(name)
        except CardError as error:
            raise CardError(
                "mask.boundaries is neither a card nor a polygon file",
                got=name,
                expected=error.expected,
                remedy="name a card, or the path of a polygon file",
            ) from error
        path = find_boundaries(card)
    polygons, source, notes = read_polygons(path)
    # Only what is near is projected: a polygon of the other hemisphere may leave the CRS's domain.
    near = reproject(shapely.box(*within.bounds).buffer(1000.0), crs, source)
    moved = [reproject(p, source, crs) for p in polygons if p.intersects(near)]
    return [p for p in moved if p.intersects(within)], notes


def read_mask(
    name: str, area: Area, base: Path | None = None
) -> tuple[list[BaseGeometry], list[str]]:
    """Polygons of a recipe's mask, as of `read_boundaries`.

    Raises
    ------
    RecipeError
        Where no ground of the area lies in any: the map would hold nothing.
    """
    polygons, notes = read_boundaries(name, area.crs, area.geometry, base)
    if not any(shapely.intersection(p, area.geometry).area > 0 for p in polygons):
        raise RecipeError(
            "the mask misses the area: nothing would be mapped",
            got=f"mask.boundaries: {name}, none of its polygons in the area",
            expected="polygons that cover some of the area",
            remedy="look at area and mask, and at the CRS of both files, or leave mask out",
        )
    return polygons, notes


def resolve_area(choice: AreaChoice, crs: str, base: Path | None = None) -> tuple[Area, list[str]]:
    """The area that a recipe asks for, in the grid's CRS; with notes of what was repaired.

    Raises
    ------
    AreaError, CardError
    """
    if choice.bbox is not None:
        return Area.from_bbox(choice.bbox, crs), []
    if choice.country is not None:
        card = load_boundary_card("ne-countries")
        polygons, source, notes = read_polygons(
            find_boundaries(card), key=card.key, value=choice.country.upper()
        )
    else:
        polygons, source, notes = read_polygons((base or Path()) / str(choice.file))
    return Area(reproject(shapely.union_all(polygons), source, crs), crs), notes
