"""Polygons of a user as a feature: the share of ground that each class of them covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from engine.errors import ReadError, RecipeError
from engine.features.coverage import Layers, coverage, in_blocks
from engine.features.files import Bounds, stamp_of
from engine.features.source import Read
from engine.vectors.layers import Vectors
from engine.vectors.read import read_vectors

__all__ = ["Ground", "PolygonReader"]

_AROUND = 1000.0  # metres about the area in which polygons are read


@dataclass(frozen=True)
class Ground:
    """Polygons near an area, in the CRS of the grid.

    Attributes
    ----------
    layers : of the classes, and last of the ground that the file speaks of: the rectangle about
        all of its polygons that are near the area.
    count : of the polygons of each class.
    extent : that rectangle; None where there is no polygon near.
    notes : what was left out or repaired.
    """

    layers: Layers
    count: tuple[int, ...]
    extent: Bounds | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PolygonReader:
    """Files of polygons -> shares of each pixel of the grid, exact.

    Attributes
    ----------
    paths : absolute, each with a layer where one is named.
    parts : all files that these are made of.
    stamp : of their names, sizes and times.
    crs : of the grid.
    near : bounds of the area.
    field : that has the class; None: all polygons are one.
    classes : names and the values of the field.
    """

    paths: tuple[str, ...]
    parts: tuple[str, ...]
    stamp: bytes
    crs: str
    near: Bounds
    field: str | None = None
    classes: tuple[tuple[str, tuple[str | int, ...]], ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the values."""
        return tuple(name for name, _ in self.classes) or ("share",)

    def read(self, box: GeoBox, anchor: tuple[float, float]) -> Read:
        """Shares of the known part of each pixel; where polygons of a class overlap they count
        once."""
        layers = self.ground().layers

        def block(bounds: Bounds, pixels: int) -> npt.NDArray[np.float32]:
            *shapes, known = layers.within(bounds)
            seen = coverage(known, bounds, pixels)
            found = np.zeros((len(shapes) + 1, pixels, pixels), np.float32)
            for k, shape in enumerate(shapes):
                # the rectangle holds all of them
                share = coverage(shape, bounds, pixels)
                found[k] = np.minimum(
                    np.divide(share, seen, out=np.full(seen.shape, np.nan), where=seen > 0), 1.0
                )
            found[-1] = seen
            return found

        both = in_blocks(box, anchor, block)
        return Read(both[:-1], both[-1])

    def ground(self) -> Ground:
        """The polygons, read once in a process.

        Raises
        ------
        RecipeError
            Where there is no such field, or a file does not say its CRS.
        ReadError
            Where files are others than were checked.
        """
        return _read(self)


@lru_cache(maxsize=8)
def _read(reader: PolygonReader) -> Ground:
    # a worker that reads no polygons does without
    from engine.catalog.boundaries import bring_near, where_near

    if stamp_of(reader.parts) != reader.stamp:
        raise ReadError(
            "a file of a feature has changed since the run began",
            got=", ".join(reader.paths),
            remedy="run again",
            transient=False,
        )
    around = shapely.box(*reader.near).buffer(_AROUND)
    shapes: list[list[BaseGeometry]] = [[] for _ in reader.channels]
    notes: list[str] = []
    every: list[Bounds] = []
    for path in reader.paths:
        found = read_vectors(
            path,
            wanted=lambda name: name == reader.field,
            near=lambda crs: where_near(around, reader.crs, crs),
            refuse=RecipeError,
            what="file of polygons",
        )
        _require_polygons(found)
        for layer in found.layers:
            if reader.field is not None and reader.field not in layer.names:
                raise RecipeError(
                    f"{found.name} has no such field",
                    got=reader.field,
                    expected=", ".join(layer.names) or "a field",
                )
        cleaned = found.polygons(RecipeError)
        if not cleaned and not found.partial:
            _refuse(found)
        for layer, parts in cleaned:
            if layer.crs is None:
                raise RecipeError(
                    f"{found.name} does not say which CRS it is in",
                    expected="a .prj beside a shapefile, or a CRS in the file",
                )
            values = None if reader.field is None else layer.fields[reader.field]
            moved = bring_near(parts.polygons, layer.crs, reader.crs, around)
            for row, polygons in zip(parts.row.tolist(), moved, strict=True):
                near = [polygon for polygon in polygons if polygon.intersects(around)]
                every += [polygon.bounds for polygon in near]
                for k in _of(reader, None if values is None else values[row]):
                    shapes[k] += near
        notes += found.notes
    extent = _together(every)
    known = [] if extent is None else [shapely.box(*extent)]
    counts = tuple(map(len, shapes))
    return Ground(Layers([*shapes, known]), counts, extent, tuple(notes))


def _require_polygons(found: Vectors) -> None:
    """Refuse a file whose layers hold nothing, or nothing that covers ground."""
    if not any(layer.total is None or layer.total for layer in found.layers):
        _refuse(found)


def _refuse(found: Vectors) -> NoReturn:
    raise RecipeError(
        f"{found.name} holds no polygons",
        got="; ".join(found.notes)[:300] or "no features",
        expected="a polygon or more",
        remedy="draw the ground that points and lines stand for as polygons (a buffer), or name "
        "another layer: FILE#LAYER",
    )


def _of(reader: PolygonReader, value: object) -> list[int]:
    """Positions of the classes that a value of the field belongs to."""
    if reader.field is None:
        return [0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [k for k, (_, values) in enumerate(reader.classes) if value in values]


def _together(every: Sequence[Bounds]) -> Bounds | None:
    if not every:
        return None
    bounds = np.array(every)
    low, high = bounds.min(axis=0), bounds.max(axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3])
