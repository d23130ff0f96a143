"""Files of lines, roads say."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyogrio
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from engine.errors import NatmapError
from engine.vectors.read import file_of, form_of, named_layer

__all__ = ["LineLayer", "read_lines"]

_FORMS = ("GPKG", "GeoJSON", "FlatGeobuf", "ESRI Shapefile")
"""That hold their geometries themselves; others of GDAL's name further files."""

_EXPECTED = "GeoPackage, GeoJSON, FlatGeobuf or a shapefile"


class LineLayer(NamedTuple):
    """Lines of a layer, each a LineString with two points or more, and their CRS."""

    name: str
    lines: list[BaseGeometry]
    crs: CRS


def read_lines(path: Path, refuse: type[NatmapError]) -> list[LineLayer]:
    """The lines of all layers of a file, or of the one that ``path#layer`` names.

    Parameters
    ----------
    path : GeoPackage, GeoJSON, FlatGeobuf or a shapefile.
    refuse : class of the errors.

    Raises
    ------
    NatmapError
        Of the class `refuse`: where it cannot be read, does not say its CRS, has coordinates that
        are no numbers, or has no line.
    """
    file, wanted = file_of(path), named_layer(path)
    if not file.is_file():
        raise refuse("there is no such file of lines", got=str(path))
    found: list[LineLayer] = []
    try:
        with file.open("rb") as opened:
            form = form_of(opened.read(512))
        if form not in _FORMS:
            raise refuse(
                "a file of lines has a form that is not read",
                got=f"{file.name}: {form}",
                expected=_EXPECTED,
            )
        names = [str(name) for name, kind in pyogrio.list_layers(file) if kind is not None]
        if wanted is not None and wanted not in names:
            raise refuse(
                f"{file.name} has no layer of that name", got=wanted, expected=", ".join(names)
            )
        for name in names if wanted is None else [wanted]:
            meta, _, raw, _ = pyogrio.raw.read(file, layer=name, columns=[], force_2d=True)
            lines = _lines(shapely.from_wkb(raw), file.name, refuse)
            if lines:
                found.append(LineLayer(name, lines, _crs(meta["crs"], file.name, refuse)))
    except NatmapError:
        raise
    except (OSError, ValueError, RuntimeError, shapely.errors.ShapelyError) as error:
        raise refuse(
            "a file of lines cannot be read", got=f"{file.name}: {error}", expected=_EXPECTED
        ) from error
    if not found:
        raise refuse("a file of lines has no line", got=file.name)
    return found


def _lines(shapes: np.ndarray, name: str, refuse: type[NatmapError]) -> list[BaseGeometry]:
    parts = shapely.get_parts(shapely.get_parts(shapes[~shapely.is_missing(shapes)]))
    lines = parts[shapely.get_type_id(parts) == shapely.GeometryType.LINESTRING]
    if not np.isfinite(shapely.get_coordinates(lines)).all():
        raise refuse(f"{name} holds coordinates that are not numbers")
    found: list[BaseGeometry] = lines[shapely.length(lines) > 0].tolist()
    return found


def _crs(text: str | None, name: str, refuse: type[NatmapError]) -> CRS:
    try:
        crs = None if text is None else CRS.from_user_input(text)
    except CRSError:
        crs = None
    if crs is None or not (crs.is_geographic or crs.is_projected):
        raise refuse(f"{name} does not say which CRS it is in", got=text or "none")
    return crs
