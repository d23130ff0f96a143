"""Polygons from files: the wanted area, and urban boundaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from engine.catalog.cards import BoundaryCard, find_boundaries, load_boundary_card
from engine.errors import AreaError, CardError, RecipeError
from engine.grid.area import Area, polygons_of, reproject
from engine.grid.moving import far_outside
from engine.recipes.sections import AreaChoice
from engine.vectors.layers import Layer
from engine.vectors.read import Box, file_of, read_vectors

__all__ = [
    "bring_near",
    "read_boundaries",
    "read_mask",
    "read_polygons",
    "resolve_area",
    "where_near",
]

_SEAM = 1e-6  # degrees
_AROUND = 1000.0  # metres around an area in which boundaries are read
_FAR_DEGREES, _FAR_METRES = 10.0, 1e6  # beyond an area, where polygons are cut before they move

Polygons = list[tuple[list[BaseGeometry], CRS]]
"""Polygons of layers, each layer with its CRS."""


def read_polygons(
    path: str | Path,
    *,
    key: str | None = None,
    value: str | None = None,
    near: Callable[[CRS], Sequence[Box] | None] = lambda crs: None,
) -> tuple[Polygons, list[str]]:
    """Polygons of a file: of all its layers, or of that which ``path#layer`` names.

    Parameters
    ----------
    path : in any form that `engine.vectors` reads.
    key, value : str, optional
        Take only features whose field `key` equals `value`.
    near : boxes in a CRS outside of which nothing is needed.

    Returns
    -------
    (polygons by layer, and notes of what was left out or repaired)

    Raises
    ------
    AreaError
        Where there are no polygons, or nothing says which CRS they are in.
    """
    found = read_vectors(path, wanted=lambda name: name == key, near=near, refuse=AreaError)
    known: set[str] = set()
    if key is not None:
        found.layers = [_chosen(layer, key, value, found.name, known) for layer in found.layers]
        if not any(layer.geometry for layer in found.layers):
            raise AreaError("no such country", got=value, expected=", ".join(sorted(known)))
    polygons: Polygons = []
    for layer, parts in found.polygons(AreaError):
        if layer.crs is None:
            raise AreaError(
                "the polygon file does not say which CRS it is in",
                got=found.name,
                expected="a .prj beside a shapefile, or a CRS in the file",
                remedy="add the .prj that came with the data",
            )
        polygons.append((parts.polygons, layer.crs))
    if not polygons and not found.partial:
        raise AreaError(
            f"{found.name} holds no polygons",
            got="; ".join(found.notes) or "nothing",
            expected="polygons",
        )
    return polygons, found.notes


def _chosen(layer: Layer, key: str, value: str | None, name: str, known: set[str]) -> Layer:
    """Features of a layer whose field `key` is `value`; the field's values go to `known`."""
    if key not in layer.names:
        raise AreaError(f"{name} has no field {key}", got=", ".join(layer.names))
    told = layer.fields[key]
    known |= {str(each) for each in told if each is not None}
    here = [k for k, each in enumerate(told) if each == value]
    fields = {field: [values[k] for k in here] for field, values in layer.fields.items()}
    return replace(layer, geometry=[layer.geometry[k] for k in here], fields=fields)


def read_boundaries(
    name: str,
    crs: str,
    within: BaseGeometry,
    base: Path | None = None,
    *,
    what: str = "mask.boundaries",
) -> tuple[list[BaseGeometry], list[str]]:
    """Polygons of a boundary card, or of any polygon file, that meet an area.

    Parameters
    ----------
    name : a card's name, or the path of a polygon file (relative to `base`).
    crs : the grid's.
    within : the area, in that CRS.
    what : the key of the recipe that has the name, for errors.

    Returns
    -------
    (polygons in `crs`, notes)
    """
    card: BoundaryCard | None = None
    path = (base or Path()) / name
    if not file_of(path).is_file():
        try:
            card = load_boundary_card(name)
        except CardError as error:
            raise CardError(
                f"{what} is neither a card nor a polygon file",
                got=name,
                expected=error.expected,
                remedy="name a card, or the path of a polygon file",
            ) from error
        path = find_boundaries(card)
    around = shapely.box(*within.bounds).buffer(_AROUND)
    polygons, notes = read_polygons(path, near=lambda source: where_near(around, crs, source))
    moved = [
        part
        for shapes, source in polygons
        for there in bring_near(shapes, source, crs, around)
        for part in there
        if part.intersects(within)
    ]
    return moved, notes


def bring_near(
    shapes: Sequence[BaseGeometry], source: CRS, crs: str, around: BaseGeometry
) -> list[list[BaseGeometry]]:
    """What of each shape is near a part of the grid, as polygons in the grid's CRS.

    Only what is near is moved: a polygon of the other hemisphere may leave the CRS's domain.
    """
    boxes = _boxes(around, crs, source)
    if boxes is None:
        return [polygons_of(reproject(shape, source, crs)) for shape in shapes]
    near, reach = [shapely.box(*box) for box in boxes], _reach(boxes, source)
    found: list[list[BaseGeometry]] = []
    for shape in shapes:
        found.append([])
        if any(box.intersects(shape) for box in near):
            kept = shape if reach.covers(shape) else shapely.intersection(shape, reach)
            found[-1] = polygons_of(reproject(kept, source, crs))
    return found


def _reach(boxes: Sequence[Box], source: CRS) -> BaseGeometry:
    """What of a polygon can be moved: further off projections fold a continent onto itself."""
    far = _FAR_DEGREES if source.is_geographic else _FAR_METRES
    return shapely.union_all([shapely.box(*box).buffer(far, join_style="mitre") for box in boxes])


def where_near(around: BaseGeometry, crs: str, source: CRS) -> list[Box] | None:
    """Boxes in which a file is read: what jumps over 180 seems to lie about 0 to its index."""
    boxes = _boxes(around, crs, source)
    if boxes is None or not source.is_geographic:
        return boxes
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    return [*boxes, (-_SEAM, south, _SEAM, north)]


def _boxes(around: BaseGeometry, crs: str, source: CRS) -> list[Box] | None:
    """Boxes in a file's CRS that hold a part of the grid; None where its CRS does not reach it."""
    if not source.is_geographic:
        try:
            return [reproject(around, crs, source).bounds]
        except AreaError:
            return None
    found = []
    for part in polygons_of(Area(around, crs).geographic):
        west, south, east, north = part.bounds
        # A file may write what lies beyond 180 in either way.
        found += [(west + turn, south, east + turn, north) for turn in (-360.0, 0.0, 360.0)]
    return found


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
        area = Area.from_bbox(choice.bbox, crs)
        return area, _doubts(area, crs)
    if choice.country is not None:
        card = load_boundary_card("ne-countries")
        polygons, notes = read_polygons(
            find_boundaries(card), key=card.key, value=choice.country.upper()
        )
    else:
        polygons, notes = read_polygons((base or Path()) / str(choice.file))
    parts = [reproject(shapely.union_all(shapes), source, crs) for shapes, source in polygons]
    area = Area(parts[0] if len(parts) == 1 else shapely.union_all(parts), crs)
    systems: list[str | CRS] = [crs, *(source for _, source in polygons if source.is_projected)]
    return area, list(dict.fromkeys([*notes, *(d for one in systems for d in _doubts(area, one))]))


def _doubts(area: Area, crs: str | CRS) -> list[str]:
    doubt = far_outside(area.geographic, crs)
    return [] if doubt is None else [doubt]
