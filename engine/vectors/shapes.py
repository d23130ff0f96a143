"""Points, lines and polygons of a file, as they are; areas of a map have a reader that repairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from engine.errors import NatmapError
from engine.grid.antimeridian import unroll
from engine.vectors.read import file_of, form_of, named_layer

__all__ = ["ShapeLayer", "read_shapes"]

_FORMS = ("GPKG", "GeoJSON", "FlatGeobuf", "ESRI Shapefile")
"""That hold their geometries themselves; others of GDAL's name further files."""

_EXPECTED = "GeoPackage, GeoJSON, FlatGeobuf or a shapefile"


class ShapeLayer(NamedTuple):
    """Features of a layer.

    Attributes
    ----------
    name : of the layer.
    shapes : array of geometries in two dimensions, None where a feature has none.
    crs : geographic or projected. Polygons in degrees that cross 180 go on beyond it.
    key : values of the first wanted field that it has, None where it has none.
    """

    name: str
    shapes: npt.NDArray[Any]
    crs: CRS
    key: list[Any] | None


def read_shapes(
    path: Path, refuse: type[NatmapError], what: str, keys: Sequence[str] = ()
) -> list[ShapeLayer]:
    """The layers of a file, or the one that ``path#layer`` names.

    Parameters
    ----------
    path : GeoPackage, GeoJSON, FlatGeobuf or a shapefile.
    refuse : class of the errors.
    what : the file is called in them, "file of lines" say.
    keys : names of fields, in any case, of which the first that a layer has is read.

    Raises
    ------
    NatmapError
        Of the class `refuse`: where it cannot be read, a layer does not say its CRS, or
        coordinates are not numbers.
    """
    file, wanted = file_of(path), named_layer(path)
    if not file.is_file():
        raise refuse(f"there is no such {what}", got=str(path))
    try:
        with file.open("rb") as opened:
            form = form_of(opened.read(512))
        if form not in _FORMS:
            raise refuse(
                f"the {what} is in a form that is not read",
                got=f"{file.name}: {form}",
                expected=_EXPECTED,
            )
        names = [str(name) for name, kind in pyogrio.list_layers(file) if kind is not None]
        if wanted is not None and wanted not in names:
            raise refuse(
                f"{file.name} has no layer of that name", got=wanted, expected=", ".join(names)
            )
        return [_layer(file, name, keys, refuse) for name in names if wanted in (None, name)]
    except NatmapError:
        raise
    except (OSError, ValueError, RuntimeError, shapely.errors.ShapelyError) as error:
        raise refuse(
            f"the {what} cannot be read", got=f"{file.name}: {error}", expected=_EXPECTED
        ) from error


def _layer(file: Path, name: str, keys: Sequence[str], refuse: type[NatmapError]) -> ShapeLayer:
    fields = [str(field) for field in pyogrio.read_info(file, layer=name)["fields"]]
    key = next((f for wanted in keys for f in fields if f.lower() == wanted), None)
    meta, _, raw, values = pyogrio.raw.read(
        file, layer=name, columns=[] if key is None else [key], force_2d=True
    )
    shapes, crs = shapely.from_wkb(raw), _crs(meta["crs"], file.name, refuse)
    for number, shape in enumerate(shapes, 1):
        if not np.isfinite(shapely.get_coordinates(shape)).all():
            raise refuse(
                f"{file.name} holds coordinates that are not numbers",
                got=f"NaN or infinity in feature {number} of {name}",
                remedy="repair or remove that feature",
            )
    if crs.is_geographic:
        areas = np.isin(shapely.get_type_id(shapes), _AREAS)
        shapes[areas] = [unroll(shape) for shape in shapes[areas]]
    return ShapeLayer(name, shapes, crs, None if key is None else values[0].tolist())


_AREAS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


def _crs(text: str | None, name: str, refuse: type[NatmapError]) -> CRS:
    try:
        crs = None if text is None else CRS.from_user_input(text)
    except CRSError:
        crs = None
    # "Undefined …" is GeoPackage's way to say that it does not say
    if (
        crs is None
        or crs.name.startswith("Undefined ")
        or not (crs.is_geographic or crs.is_projected)
    ):
        raise refuse(
            f"{name} does not say which CRS it is in",
            got=text or "none",
            remedy="write it again with its CRS (a shapefile needs a .prj beside it)",
        )
    return crs
