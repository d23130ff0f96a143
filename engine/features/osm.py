"""OpenStreetMap as a source of features: shares of pixels that its classes cover, and its mask."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from engine.errors import ReadError, RecipeError
from engine.features.coverage import coverage, in_blocks
from engine.features.files import stamp_of
from engine.features.osm_classes import BUILT, CLASSES, LCZ_OF, WATER
from engine.features.osm_extent import extent_of_file
from engine.features.osm_ground import Ground, degrees_of, ground_of
from engine.features.osm_opening import Box
from engine.features.osm_reading import read_extract
from engine.features.source import Origin, Read

__all__ = [
    "ATTRIBUTION",
    "COVERED",
    "LICENCE",
    "OsmReader",
    "OsmSource",
    "codes_of_cells",
    "ground_in",
    "open_osm",
    "water_of_cells",
]

LICENCE = "ODbL-1.0"
ATTRIBUTION = "© OpenStreetMap contributors"
"""What openstreetmap.org/copyright asks for."""

COVERED = 0.8
"""Share of a cell that one class must cover, for the cell to be of that class."""

_HAIR = 1e-6
_SHOWN = 10  # ids in a note


@dataclass(frozen=True)
class OsmReader:
    """What a worker is sent (`engine.features.source.FeatureReader`).

    Attributes
    ----------
    path : absolute, of the extract.
    classes : whose shares are given, in this order.
    crs : of the grid.
    bounds : of the grid, in metres.
    extent : absolute path of the polygon by which the extract was cut.
    stamp : of the files.
    """

    path: str
    classes: tuple[str, ...]
    crs: str
    bounds: Box
    extent: str | None
    stamp: bytes

    @property
    def channels(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    def read(self, box: GeoBox, anchor: tuple[float, float]) -> Read:
        """Shares of the known part of each pixel.

        Raises
        ------
        ReadError, RecipeError
        """
        layers = _opened(self).layers

        def block(bounds: Box, pixels: int) -> npt.NDArray[np.float32]:
            *shapes, known = layers.within(bounds)
            seen = coverage(known, bounds, pixels)
            found = np.zeros((len(shapes) + 1, pixels, pixels), np.float32)
            whole = bool((seen == 1).all())
            for k, shape in enumerate(shapes):
                if not whole:
                    shape = shapely.intersection(shape, known)
                share = coverage(shape, bounds, pixels)
                with np.errstate(invalid="ignore"):
                    found[k] = np.minimum(share / np.where(seen > 0, seen, np.nan), 1.0)
            found[-1] = seen
            return found

        both = in_blocks(box, anchor, block)
        return Read(both[:-1], both[-1])


@dataclass(frozen=True)
class OsmSource:
    """An extract, opened and checked (`engine.features.source.FeatureSource`)."""

    name: str
    reader: OsmReader
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    origins: tuple[Origin, ...]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What decides the result beside the files."""
        return {"osm": list(self.reader.classes), "rules": _rules()}

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """None: all channels are shares."""
        return {}

    def stamp(self, bounds: tuple[float, float, float, float]) -> bytes:
        """Of the files; an extract has no parts that can be told apart."""
        return self.reader.stamp


def open_osm(
    path: Path,
    classes: Sequence[str],
    crs: str,
    bounds: tuple[float, float, float, float],
    *,
    name: str = "osm",
    extent: Path | None = None,
    year: int | None = None,
) -> OsmSource:
    """Open an extract, read it, and say what it lacks.

    Parameters
    ----------
    path : .osm.pbf, .osm, .osm.gz or .osm.bz2, of one version of each object.
    classes : of `osm_classes.CLASSES`.
    crs : of the grid.
    bounds : of the grid, in metres: west, south, east, north.
    name : of the feature.
    extent : polygons by which the extract was cut (.poly, or any file of polygons); by default the
        box in its header. Outside of it nothing is known.
    year : that is wanted: another one is noted.

    Raises
    ------
    RecipeError
        Where osmium is not installed, a class is none, or the extract is empty, of another place,
        a history, over the 180th meridian, or too large.
    ReadError
        Where it is damaged.
    """
    unknown = [each for each in classes if each not in CLASSES]
    if unknown or not classes or len({*classes}) < len(classes):
        raise RecipeError(
            "these are no classes of OpenStreetMap's objects",
            got=", ".join(unknown) or list(classes),
            expected=f"some of {', '.join(CLASSES)}, each once",
        )
    files = [path, *([] if extent is None else [extent])]
    for file in files:
        if not file.is_file():
            raise RecipeError("there is no such extract of OpenStreetMap", got=file)
    reader = OsmReader(
        str(path.absolute()),
        tuple(classes),
        crs,
        bounds,
        None if extent is None else str(extent.absolute()),
        _stamp_of(path, extent),
    )
    ground = _opened(reader)
    when = ground.timestamp
    origin = Origin(
        reader.path,
        len(files),
        sum(file.stat().st_size for file in files),
        "EPSG:4326",
        reader.stamp.hex(),
        None if when is None else when.year,
        LICENCE,
        ATTRIBUTION,
    )
    return OsmSource(name, reader, _notes(ground, year), _facts(ground), (origin,))


def ground_in(reader: OsmReader, bounds: Box) -> dict[str, BaseGeometry]:
    """Shapes of each class in a box, in metres of the grid's CRS, of the known ground alone.

    Parameters
    ----------
    reader : of the extract.
    bounds : west, south, east, north in metres, within the reader's own.

    Returns
    -------
    by class, those without a shape there left out
    """
    *shapes, known = _opened(reader).layers.within(bounds)
    box = shapely.intersection(shapely.box(*bounds), known)
    cut = {
        name: shapely.intersection(shape, box)
        for name, shape in zip(reader.classes, shapes, strict=True)
    }
    return {name: shape for name, shape in cut.items() if shapely.area(shape) > 0}


def water_of_cells(
    reader: OsmReader, cells: GeoBox, anchor: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Share of each cell that is water for certain, sea and lakes: float64 (y, x), 0 to 1.

    What is not known of a cell is not water here; where nothing is known it is 0.

    Parameters
    ----------
    reader : with class water.
    cells : window of the grid, of cells of any size.
    anchor : of the grid.
    """
    values, known = reader.read(cells, anchor)
    share: npt.NDArray[np.float64] = values[reader.classes.index(WATER)].astype(np.float64) * known
    return np.where(np.isnan(share), 0.0, share)


def codes_of_cells(
    reader: OsmReader, cells: GeoBox, anchor: tuple[float, float], least: float = COVERED
) -> npt.NDArray[np.uint8]:
    """Local climate zone of each cell that one natural class covers: uint8 (y, x), 0 for none.

    A cell that two classes cover, of different zones, has none: one of them is drawn over the
    other, and nobody knows which is seen from above.

    Parameters
    ----------
    reader : of natural classes; a park and what is built have no zone.
    cells, anchor : as in `water_of_cells`.
    least : share of a cell.
    """
    values, known = reader.read(cells, anchor)
    covered = np.nan_to_num(values.astype(np.float64) * known, nan=0.0) >= least - _HAIR
    lowest = np.full(cells.shape, 255, np.uint8)
    highest = np.zeros(cells.shape, np.uint8)
    for name, there in zip(reader.classes, covered, strict=True):
        if name in LCZ_OF:
            code = np.uint8(LCZ_OF[name])
            lowest[there] = np.minimum(lowest[there], code)
            highest[there] = np.maximum(highest[there], code)
    return np.where(lowest == highest, highest, 0).astype(np.uint8)


@lru_cache(maxsize=2)
def _opened(reader: OsmReader) -> Ground:
    """An extract, once for a process and for as long as its files are the same."""
    path, extent = Path(reader.path), None if reader.extent is None else Path(reader.extent)
    if _stamp_of(path, extent) != reader.stamp:
        raise ReadError(
            "an extract of OpenStreetMap has changed since the run began",
            got=path,
            remedy="run again",
        )
    shape = None if extent is None else extent_of_file(extent)
    near = degrees_of(reader.bounds, reader.crs)
    extract = read_extract(path, reader.classes, near)
    return ground_of(extract, shape, reader.crs, reader.bounds)


def _stamp_of(path: Path, extent: Path | None) -> bytes:
    return stamp_of([str(file) for file in (path, extent) if file is not None])


def _rules() -> str:
    """Digest of the table of tags: another table is another result."""
    return hashlib.blake2b(repr((CLASSES, BUILT)).encode(), digest_size=8).hexdigest()


def _facts(ground: Ground) -> dict[str, Any]:
    """For the report, JSON values."""
    sea = ground.sea
    return {
        "timestamp": None if ground.timestamp is None else ground.timestamp.isoformat(),
        "covered": round(ground.covered, 6),
        "dropped": {
            reason: {"count": len(names), "ids": names[:100]}
            for reason, names in ground.dropped.items()
        },
        "coastlines": None
        if sea is None
        else {
            "lines": sea.lines,
            "islands": sea.islands,
            "ends drawn on to the border": sea.extended,
            "unclosed": list(sea.unclosed),
            "backward": list(sea.backward),
            "faces that are not known": len(sea.unknown),
        },
    }


def _notes(ground: Ground, year: int | None) -> tuple[str, ...]:
    name, when, sea = ground.name, ground.timestamp, ground.sea
    notes = []
    if when is None:
        notes.append(f"{name} does not say of which day it is")
    elif year is not None and when.year != year:
        notes.append(f"{name} is of {when.date()}, and {year} is wanted")
    if not ground.relations:
        notes.append(f"{name} holds no relation, so no area of several rings: is it cut short?")
    if ground.covered < 1 - _HAIR:
        notes.append(f"{name} covers {ground.covered:.1%} of the grid's ground: else not known")
    for reason, ids in ground.dropped.items():
        more = ", …" if len(ids) > _SHOWN else ""
        notes.append(
            f"{name}: {len(ids)} objects are left out, and their ground is not known: {reason} "
            f"({', '.join(ids[:_SHOWN])}{more})"
        )
    if any("missing" in reason for reason in ground.dropped):
        notes.append(f"{name} cuts objects at its border: osmium extract -s smart keeps them whole")
    if sea is None:
        return tuple(notes)
    if not sea.lines:
        notes.append(f"{name} holds no coastline: none of its ground is taken for sea")
    if sea.extended:
        notes.append(
            f"{name}: {sea.extended} ends of coastlines are drawn on to its border, over at most "
            f"{sea.farthest:.2g} degrees"
        )
    for what, ways in (("do not close", sea.unclosed), ("are backward", sea.backward)):
        if ways:
            notes.append(f"{name}: coastlines {what}: {', '.join(map(str, ways[:_SHOWN]))}")
    if sea.unknown:
        notes.append(f"{name}: coastlines disagree on {len(sea.unknown)} faces: not known there")
    return tuple(notes)
