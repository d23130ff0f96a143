"""Files of lines, roads say."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from engine.errors import NatmapError
from engine.vectors.shapes import read_shapes

__all__ = ["LineLayer", "read_lines"]


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
        are not numbers, or has no line.
    """
    found = []
    for layer in read_shapes(path, refuse, "file of lines"):
        shapes = layer.shapes[~shapely.is_missing(layer.shapes)]
        parts = shapely.get_parts(shapely.get_parts(shapes))
        lines = parts[shapely.get_type_id(parts) == shapely.GeometryType.LINESTRING]
        kept = lines[shapely.length(lines) > 0].tolist()
        if layer.crs.is_geographic:
            kept = [shapely.transform(line, _unrolled) for line in kept]
        if kept:
            found.append(LineLayer(layer.name, kept, layer.crs))
    if not found:
        raise refuse("the file of lines has no line", got=path.name)
    return found


def _unrolled(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Degrees whose longitudes go on beyond 180 instead of jumping to -180."""
    return np.column_stack([np.unwrap(xy[:, 0], period=360.0), xy[:, 1]])
