"""Training areas: polygons that somebody drew and gave an LCZ type, in the WUDAPT way.

In KML and KMZ the type is the name of the folder that a polygon lies in; elsewhere it is a field:
``lcz``, ``Class`` or ``Name``, in any case, or the one that is named. Names and descriptions of
places are dropped: they may hold what a volunteer did not mean to publish.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import Geod
from shapely.geometry.base import BaseGeometry

from engine.errors import LabelError, RecipeError
from engine.grid.area import reproject
from engine.legend import parse_class
from engine.vectors.layers import Layer, Parts
from engine.vectors.read import read_vectors

__all__ = ["TrainingArea", "TrainingAreas", "read_training_areas"]

_LARGE = 300_000.0  # square metres; WUDAPT's POLYSIZE
_DISC = 300.0  # metres; WUDAPT's BUFFERSIZE
_LEAST, _ROUND, _MANY = 40_000.0, 3.0, 20  # square metres, circularity, vertices
_FIELDS = ("lcz", "class", "name")  # the first of them whose values are all types
_ANSWERED = {"interpreter", "page"}  # fields of answers that nobody has settled
_EARTH = Geod(ellps="WGS84")


@dataclass(frozen=True)
class TrainingArea:
    """One polygon.

    Attributes
    ----------
    id : str
        Of type and outline: the same polygon in another file, or in another order, keeps it.
    lcz : 1 to 17.
    geometry : Polygon in EPSG:4326.
    square_metres, perimeter : of the outline, in m2 and m, in an equal-area projection about it.
    """

    id: str
    lcz: int
    geometry: BaseGeometry
    square_metres: float
    perimeter: float

    @property
    def circularity(self) -> float:
        """Perimeter squared over 4 pi area: 1 for a disc, more for whatever is longer."""
        return self.perimeter**2 / (4 * np.pi * self.square_metres)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a reviewer would look at."""
        found = []
        if self.square_metres < _LEAST:
            found.append(f"small: {self.square_metres / 1e6:.3f} km2, under {_LEAST / 1e6:g}")
        if self.circularity > _ROUND:
            found.append(f"long or jagged: circularity {self.circularity:.1f}, over {_ROUND:g}")
        if (n := shapely.get_num_coordinates(self.geometry) - 1) > _MANY:
            found.append(f"many vertices: {n}, over {_MANY}")
        return tuple(found)

    def core(self) -> BaseGeometry:
        """The part that samples are taken from, in EPSG:4326.

        Of polygons of 0.3 km2 and more it is what lies within 300 m of the centroid, so that few
        large ones do not outweigh many small ones.
        """
        if self.square_metres < _LARGE:
            return self.geometry
        centre = self.geometry.centroid
        turns = np.linspace(0.0, 360.0, 64, endpoint=False)
        x, y, _ = _EARTH.fwd(
            np.full(64, centre.x), np.full(64, centre.y), turns, np.full(64, _DISC)
        )
        around = np.mod(np.asarray(x) - centre.x + 180.0, 360.0) - 180.0 + centre.x
        disc = shapely.Polygon(np.column_stack([around, y]))
        found = shapely.intersection(disc, self.geometry)
        # a crescent's centroid lies outside of it
        return self.geometry if found.area == 0 else found


@dataclass(frozen=True)
class TrainingAreas:
    """The polygons of a file.

    Attributes
    ----------
    areas : by type, then id.
    notes : what was dropped, repaired or is in doubt, one line each.
    """

    areas: tuple[TrainingArea, ...]
    notes: tuple[str, ...]

    def counts(self) -> dict[int, int]:
        """Polygons by type."""
        codes, numbers = np.unique([area.lcz for area in self.areas], return_counts=True)
        return dict(zip(codes.tolist(), numbers.tolist(), strict=True))


def read_training_areas(path: str | Path, *, field: str | None = None) -> TrainingAreas:
    """Read training areas.

    Parameters
    ----------
    path : KML, KMZ, GeoJSON, GPKG or shapefile; one layer of several is ``file.gpkg#layer``.
    field : that holds the type; by default the folder's name, or `lcz`, `Class` or `Name`.

    Returns
    -------
    TrainingAreas
        Polygons of several parts are taken apart; what is no polygon, empty ones and rings of fewer
        than four points are dropped, invalid ones repaired. All of it is noted.

    Raises
    ------
    LabelError
        Where the file cannot be read, names no types or fewer than two, or names one that is none;
        or where it holds answers of interpreters, which may contradict each other.
    """
    found = read_vectors(
        path,
        wanted=lambda name: name.lower() in _FIELDS or name == field,
        what="file of training areas",
    )
    areas: dict[str, TrainingArea] = {}
    twice = 0
    notes: list[str] = []
    for layer, parts in found.polygons(LabelError):
        if layer.crs is None:
            raise LabelError(
                f"{found.name} does not say which CRS it is in",
                remedy="add the .prj that came with the data",
            )
        if set(layer.names) >= _ANSWERED:
            raise LabelError(
                f"{found.name} holds answers of interpreters, not labels",
                got="doubts and contradictions among them are not settled",
                remedy=f"natmap label {found.name} --to areas.gpkg",
            )
        codes, told = _types(layer, parts, found.name, field)
        notes += [note for note in told if note not in notes]
        for polygon, code in zip(parts.polygons, codes, strict=True):
            geometry = reproject(polygon, layer.crs, "EPSG:4326")
            area = _measure(code, geometry)
            twice += area.id in areas
            areas[area.id] = area
    notes = [*found.notes, *notes]
    if twice:
        notes.append(f"{twice} found twice, taken once")
    ordered = tuple(sorted(areas.values(), key=lambda area: (area.lcz, area.id)))
    if len({area.lcz for area in ordered}) < 2:
        raise LabelError(
            f"{found.name} does not tell types apart",
            got=sorted({area.lcz for area in ordered}) or "; ".join(["no polygons", *notes]),
            expected="polygons of two LCZ types or more",
        )
    for area in ordered:
        notes += [f"LCZ {area.lcz} {area.id}: {doubt}" for doubt in area.doubts]
    return TrainingAreas(ordered, tuple(notes + _overlaps(ordered)))


# -- types ------------------------------------------------------------------------------------


def _types(layer: Layer, parts: Parts, name: str, field: str | None) -> tuple[list[int], list[str]]:
    """The type of each polygon, and notes of where it was found."""
    if field is not None and field not in layer.names:
        raise LabelError(
            f"{name} has no field {field}",
            got=f"layer {layer.name}: {', '.join(layer.names) or 'no fields'}",
            remedy="name one of these, or one layer: FILE#LAYER",
        )
    if layer.path and field is None:  # folders, the innermost first
        for folder in reversed(layer.path):
            if (code := _code(folder)) is not None:
                codes = [code] * len(parts.polygons)
                return codes, _contradicted(codes, layer, parts, f"the folder {folder}")
    wanted = _FIELDS if field is None else (field,)
    known = [f for w in wanted for f in layer.names if f == field or f.lower() == w]
    strange: list[tuple[str, Any]] = []
    for each in known:
        values = [layer.fields[each][row] for row in parts.row]
        whole = [code for value in values if (code := _code(value)) is not None]
        if len(whole) == len(values):
            note = f"types of {layer.name} are read from its field {each}"
            usual = each == field or each.lower() in _FIELDS[:2]
            told = _contradicted(whole, layer, parts, f"the field {each}")
            return whole, told if usual else [note, *told]
        strange.append((each, next(value for value in values if _code(value) is None)))
    expected = "1 to 17, A to G, or 101 to 107"
    remedy = "name the field that holds the type: --field, or `field` in a recipe of training"
    if layer.path:
        raise LabelError(
            f"no LCZ type: {name}, folder name", got=repr(layer.name), expected=expected,
            remedy="name folders by their types; " + remedy,
        )  # fmt: skip
    if strange:
        raise LabelError(
            f"no LCZ type: {name}, field {strange[0][0]}",
            got=repr(strange[0][1]),
            expected=expected,
            remedy=remedy,
        )
    raise LabelError(
        f"{name} has no field for the type",
        got=f"layer {layer.name}: {', '.join(layer.names) or 'no fields'}",
        expected="lcz, Class or Name",
        remedy=remedy,
    )


def _contradicted(codes: list[int], layer: Layer, parts: Parts, believed: str) -> list[str]:
    """Notes of fields for the type that say others than what is believed."""
    notes = []
    for each in layer.fields:
        others = [_code(layer.fields[each][row]) for row in parts.row]
        number = sum(b not in (a, None) for a, b in zip(codes, others, strict=True))
        if each.lower() in _FIELDS[:2] and number:
            notes.append(
                f"{number} areas of {layer.name} have another type in the field {each}: "
                f"{believed} is believed; --field {each} believes the other"
            )
    return notes


def _code(value: Any) -> int | None:
    try:
        return None if value is None else parse_class(value)
    except RecipeError:
        return None


# -- geometry ---------------------------------------------------------------------------------


def _measure(lcz: int, polygon: BaseGeometry) -> TrainingArea:
    # a tenth of a metre: other software writes other last digits
    outline = shapely.to_wkb(shapely.set_precision(polygon, 1e-6).normalize())
    name = hashlib.blake2b(bytes([lcz]) + outline, digest_size=5).hexdigest()
    area, length = _EARTH.geometry_area_perimeter(shapely.orient_polygons(polygon))
    return TrainingArea(name, lcz, polygon, abs(float(area)), float(length))


def _overlaps(areas: tuple[TrainingArea, ...]) -> list[str]:
    """Pairs of different types that claim the same ground."""
    shapes = [area.geometry for area in areas]
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    notes = []
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if i < j and areas[i].lcz != areas[j].lcz:
            shared = shapely.intersection(shapes[i], shapes[j]).area / min(
                shapes[i].area, shapes[j].area
            )
            if shared > 0.01:
                notes.append(
                    f"LCZ {areas[i].lcz} {areas[i].id} and LCZ {areas[j].lcz} {areas[j].id} "
                    f"overlap by {shared:.0%} of the smaller"
                )
    return notes
