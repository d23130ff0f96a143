"""Which ground an extract of OpenStreetMap covers: outside of it nothing is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from engine.errors import RecipeError
from engine.grid.moving import mend, reproject
from engine.vectors.read import read_vectors

__all__ = ["extent_of_file", "require_degrees"]


def extent_of_file(path: Path) -> BaseGeometry:
    """The polygon by which an extract was cut, in degrees.

    Parameters
    ----------
    path : osmosis' polygon file (``.poly``), or any file of polygons that `read_vectors` reads.

    Raises
    ------
    RecipeError
    """
    if not path.is_file():
        raise RecipeError("there is no such file of an extract's extent", got=path)
    if path.suffix.lower() == ".poly":
        shape = _of_poly(path)
    else:
        found = read_vectors(path, refuse=RecipeError, what="file of an extract's extent")
        parts = []
        for layer, polygons in found.polygons(RecipeError):
            if layer.crs is None:
                raise RecipeError(
                    f"{found.name} does not say which CRS it is in",
                    remedy="add the .prj that came with the data",
                )
            parts += [reproject(p, layer.crs, "EPSG:4326") for p in polygons.polygons]
        shape = shapely.union_all(parts)
    return require_degrees(shape, path.name)


def require_degrees(shape: BaseGeometry, name: str) -> BaseGeometry:
    """Refuse an extent that is none, or that goes over the 180th meridian.

    Raises
    ------
    RecipeError
    """
    bounds = np.array(shape.bounds)
    if shape.is_empty or not np.isfinite(bounds).all() or not shape.area > 0:
        raise RecipeError("an extract covers no ground", got=f"{name}: {shape.geom_type}")
    west, south, east, north = bounds.tolist()
    if west < -180 or east > 180 or south < -90 or north > 90:
        raise RecipeError(
            "the extent of an extract goes over the 180th meridian or a pole",
            got=f"{name}: {west:g}, {south:g} to {east:g}, {north:g}",
            expected="-180 to 180 and -90 to 90 degrees",
            remedy="cut the extract in two at 180 degrees (osmium extract -b), and map each side",
        )
    return shape


def _of_poly(path: Path) -> BaseGeometry:
    """A polygon file: a name, then rings of lines ``lon lat``, each closed by END; ! is a hole."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        whole, rest = shapely.Polygon(), iter(line for line in lines[1:] if line)
        holes = []
        for name in rest:
            if name == "END":
                break
            ring = []
            for line in rest:
                if line == "END":
                    break
                lon, lat = map(float, line.split())
                ring.append((lon, lat))
            part = mend(shapely.Polygon(ring))
            if name.startswith("!"):
                holes.append(part)
            else:
                whole = shapely.union(whole, part)
        return shapely.difference(whole, shapely.union_all(holes))
    except (ValueError, UnicodeDecodeError, shapely.errors.ShapelyError) as error:
        raise RecipeError(
            "the polygon of an extract cannot be read",
            got=f"{path.name}: {str(error)[:200]}",
            expected="a polygon file of osmosis: a name, rings of lon and lat, END after each",
        ) from error
