"""The section `features` of a recipe, opened: files checked, years chosen, gaps told."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from engine.cube.warp import crs_text
from engine.errors import RecipeError
from engine.features.files import Bounds, RasterFile, check_raster, lattice_of, stamp_of
from engine.features.osm import open_osm
from engine.features.polygons import PolygonReader
from engine.features.rasters import Lookup, RasterReader
from engine.features.slope import SlopeReader
from engine.features.source import HERE, FeatureReader, FeatureSource, Origin
from engine.grid.area import Area
from engine.recipes.features import (
    Classes,
    Elevation,
    Feature,
    Heights,
    OpenStreetMap,
    Polygons,
    Slope,
    Values,
)
from engine.vectors.read import file_of, files_of

__all__ = ["nearest_year", "open_features"]

_LOOKED = 64  # points along the area by which it is told how much of it files cover


@dataclass(frozen=True)
class Opened:
    """A feature of files (`FeatureSource`).

    Attributes
    ----------
    files : rasters, that can be told apart by where they lie; none of polygons.
    whole : stamp of what cannot.
    margin : metres beyond a window that the reader looks at.
    limits : (low, high) of its numbers; None: it has shares alone.
    """

    name: str
    reader: FeatureReader
    parameters: Mapping[str, Any]
    notes: tuple[str, ...]
    origins: tuple[Origin, ...]
    crs: str
    files: tuple[RasterFile, ...] = ()
    whole: bytes = b""
    margin: float = 0.0
    limits: tuple[float, float] | None = None

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of the statistics of numbers within limits; shares are of 0 to 1."""
        if self.limits is None:
            return {}
        low, high = self.limits
        levels = ("mean", "max", "p10", "p50", "p90")
        return {**dict.fromkeys(levels, (low, high)), "std": (0.0, (high - low) / 2)}

    def stamp(self, bounds: Bounds) -> bytes:
        """Of the files that reach bounds."""
        west, south, east, north = bounds
        wide = west - self.margin, south - self.margin, east + self.margin, north + self.margin
        digest = hashlib.blake2b(self.whole, digest_size=16)
        for file in self.files:
            if file.span.reaches(wide, self.crs):
                digest.update(file.stamp)
        return digest.digest()


def open_features(
    wanted: Sequence[Feature],
    base: Path,
    area: Area,
    year: int,
    *,
    anchor: tuple[float, float],
    resolution: float,
) -> tuple[FeatureSource, ...]:
    """Open the features of a recipe.

    Parameters
    ----------
    wanted : the section.
    base : folder of the recipe's relative paths.
    area : the wanted one.
    year : of what is mapped; of several years the nearest is taken, the earlier of two.
    anchor : of the grid, in metres.
    resolution : of the grid's pixels, in metres.

    Raises
    ------
    RecipeError, ReadError
        Where a file is not there, or is not what it should be.
    """
    found: list[FeatureSource] = []
    for one in wanted:
        if isinstance(one, Polygons):
            found.append(_polygons(one, base, area, year))
        elif isinstance(one, OpenStreetMap):
            found.append(_openstreetmap(one, base, area, year))
        else:
            found.append(_raster(one, base, area, year, anchor, resolution))
    return tuple(found)


def nearest_year(years: Sequence[int], wanted: int) -> int:
    """The year nearest to a wanted one; of two the earlier, which had come to be by then."""
    return min(years, key=lambda year: (abs(year - wanted), year))


def _chosen(one: Feature, base: Path, year: int) -> tuple[int, tuple[str, ...], list[str]]:
    """The year whose files are taken, these, and what people should know of it."""
    chosen = nearest_year(list(one.by_year), year)
    paths = tuple(
        path if "://" in path else str((base / path).absolute()) for path in one.by_year[chosen]
    )
    if len(set(paths)) < len(paths):
        raise RecipeError(f"a file of feature {one.name} is named twice", got=", ".join(paths))
    notes = []
    if chosen != year:
        others = ", ".join(map(str, sorted(one.by_year)))
        notes.append(f"{one.name}: of {chosen}, wanted {year}, there is {others}")
    return chosen, paths, notes


def _origin(
    one: Feature, year: int, paths: Sequence[str], crs: str, parts: Sequence[str]
) -> Origin:
    return Origin(
        paths[0] if len(paths) == 1 else str(Path(paths[0]).parent),
        len(paths),
        sum(Path(part).stat().st_size for part in parts),
        crs,
        stamp_of(parts).hex(),
        year,
        one.licence,
        one.attribution,
        one.citation,
    )


# -- rasters ------------------------------------------------------------------------------------


def _raster(
    one: Values | Elevation | Heights | Slope | Classes,
    base: Path,
    area: Area,
    year: int,
    anchor: tuple[float, float],
    resolution: float,
) -> Opened:
    chosen, paths, notes = _chosen(one, base, year)
    codes = isinstance(one, Classes)
    files = tuple(check_raster(path, one.band, classes=codes) for path in paths)
    if "band" not in one.model_fields_set:
        _require_one_band(files)
    if isinstance(one, Elevation | Heights | Slope):
        notes += _require_metres(one.name, files)
    centre = shapely.box(*area.bounds()).centroid
    pixels = [file.span.pixel((centre.x, centre.y), area.crs) for file in files]
    crs = crs_text(area.crs)
    nested = len(set(pixels)) == 1 and all(f.span.nests(resolution, anchor, crs) for f in files)
    if nested:  # as the file has it, not as it was measured
        pixels = [abs(files[0].span.frame.step[0])]
    lookup = Lookup(
        files,
        min(pixels),
        nested,
        None if isinstance(one, Classes) else one.range,
        one.absent if isinstance(one, Heights) else None,
        bilinear=isinstance(one, Slope),
    )
    reader: RasterReader | SlopeReader
    margin = 0.0
    if isinstance(one, Slope):
        reader = SlopeReader(lookup, _over(one, lookup.pixel, resolution), one.statistics)
        margin = 2 * reader.resolution
    elif isinstance(one, Classes):
        reader = RasterReader(lookup, classes=tuple(one.classes.items()))
    else:
        above = one.above if isinstance(one, Heights) else None
        reader = RasterReader(lookup, one.statistics, above)
    parts = [part for file in files for part in file.parts]
    systems = sorted({file.span.frame.crs for file in files})
    parameters = {
        **one.model_dump(
            mode="json",
            exclude={"name", "path", "years", "licence", "attribution", "citation", "year"},
        ),
        HERE: {"year": chosen, "pixel": lookup.pixel, "nested": nested},
    }
    if isinstance(reader, SlopeReader):
        parameters["resolution"] = reader.resolution
    notes += _lacking(one.name, files, area)
    return Opened(
        one.name,
        reader,
        parameters,
        tuple(notes),
        (_origin(one, chosen, paths, ", ".join(systems), parts),),
        crs,
        files,
        margin=margin,
        limits=None if isinstance(one, Classes) else _limits(one),
    )


def _require_one_band(files: Sequence[RasterFile]) -> None:
    """Refuse files of several bands where the recipe does not say which is meant.

    Raises
    ------
    RecipeError
    """
    for file in files:
        if file.bands != (1,):
            raise RecipeError(
                "a raster of a feature has several bands",
                got=f"{file.path}: bands {', '.join(map(str, file.bands[:8]))}",
                expected="band: the one that is meant",
                remedy="set band in the feature, 1 for the first",
            )


def _require_metres(name: str, files: Sequence[RasterFile]) -> list[str]:
    """Refuse heights that say they are in something else; note those that may be.

    Raises
    ------
    RecipeError
    """
    for file in files:
        word = file.unit.lower().replace("_", " ").removeprefix("us survey ").removeprefix("us-")
        if _OTHERS.match(word):
            raise RecipeError(
                f"heights of feature {name} are not in metres",
                got=f"{file.path}: {file.unit}",
                expected="metres",
                remedy="write them in metres: of feet, gdal_calc --calc 'A*0.3048' and "
                "gdal_edit -units m",
            )
    silent = [file for file in files if not file.unit]
    if any(file.span.frame.projected and file.span.frame.unit != 1.0 for file in silent):
        return [
            f"{name}: its CRS is not in metres, and it does not say what its heights are in: they "
            "are taken for metres"
        ]
    return []


_OTHERS = re.compile(
    r"(international |british |clarke's |indian )?"
    r"(ft|foot|feet|fathom|in|inch|yd|yard|mi|mile|cm|mm|dm|km|(centi|milli|deci|kilo)met(er|re))"
    r"(us|s|es)?\b|us (ft|foot|feet)|%|percent|deg|rad"
)
"""Units that no height may have: they are not metres."""


def _limits(one: Values | Elevation | Heights | Slope) -> tuple[float, float]:
    return (0.0, 90.0) if isinstance(one, Slope) else one.range


def _over(one: Slope, pixel: float, resolution: float) -> float:
    """Metres over which a slope is measured.

    Raises
    ------
    RecipeError
    """
    if one.resolution is None:
        return max(round(pixel / resolution), 1) * resolution
    long, short = max(one.resolution, resolution), min(one.resolution, resolution)
    if not math.isclose(long / short, round(long / short)) or round(1000 * short) < 1:
        raise RecipeError(
            f"slopes of {one.name} do not fit the grid",
            got=f"resolution: {one.resolution:g} m, pixels of {resolution:g} m",
            expected="a multiple, or a whole part, of grid.resolution",
        )
    return one.resolution


def _lacking(name: str, files: Sequence[RasterFile], area: Area) -> list[str]:
    """What of the area no file covers."""
    west, south, east, north = area.bounds()
    half = (east - west) / _LOOKED / 2, (north - south) / _LOOKED / 2
    inner = west + half[0], south + half[1], east - half[0], north - half[1]
    points = lattice_of(inner, _LOOKED)
    points = points[shapely.intersects_xy(area.geometry, points[:, 0], points[:, 1])]
    if not len(points):  # an area thinner than that
        centre = area.geometry.representative_point()
        points = np.array([[centre.x, centre.y]])
    there = np.zeros(len(points), bool)
    for file in files:
        there |= file.span.holds(*file.span.points(points, area.crs))
    if there.all():
        return []
    if there.any():
        return [f"{name}: its files cover about {there.mean():.0%} of the area; it is unknown else"]
    if any(file.span.reaches(area.bounds(), area.crs) for file in files):
        return [f"{name}: its files cover less than a hundredth of the area"]
    return [f"{name}: its files cover no part of the area: it is unknown everywhere"]


# -- polygons -----------------------------------------------------------------------------------


def _polygons(one: Polygons, base: Path, area: Area, year: int) -> Opened:
    chosen, paths, notes = _chosen(one, base, year)
    for path in paths:
        if "://" in path or not file_of(path).is_file():
            raise RecipeError("there is no such file of a feature", got=path)
    parts = tuple(str(part) for path in paths for part in files_of(path))
    classes = tuple((one.classes or {}).items())
    reader = PolygonReader(
        paths, parts, stamp_of(parts), str(area.crs), area.bounds(), one.field, classes
    )
    ground = reader.ground()
    notes += [f"{one.name}: {note}" for note in ground.notes]
    empty = [c for c, n in zip(reader.channels, ground.count, strict=True) if not n]
    if ground.extent is None:
        notes.append(f"{one.name}: no polygon is near the area: it is unknown everywhere")
    elif empty and one.classes:
        notes.append(f"{one.name}: no polygon near the area is of class {', '.join(empty)}")
    if ground.extent is not None:
        inside = shapely.intersection(shapely.box(*ground.extent), area.geometry)
        share = inside.area / area.geometry.area
        if share < 0.9995:
            notes.append(
                f"{one.name}: the rectangle about its polygons covers {share:.0%} of the area; "
                "it is unknown else"
            )
    parameters = {
        "kind": one.kind,
        "field": one.field,
        "classes": {name: list(values) for name, values in classes},
        HERE: {
            "year": chosen,
            "near": None if ground.extent is None else [round(v, 3) for v in ground.extent],
        },
    }
    return Opened(
        one.name,
        reader,
        parameters,
        tuple(notes),
        (_origin(one, chosen, paths, "as its layers say", parts),),
        str(area.crs),
        whole=reader.stamp,
    )


# -- OpenStreetMap ------------------------------------------------------------------------------


def _openstreetmap(one: OpenStreetMap, base: Path, area: Area, year: int) -> FeatureSource:
    chosen, paths, notes = _chosen(one, base, year)
    source = open_osm(
        Path(paths[0]),
        one.classes,
        str(area.crs),
        area.bounds(),
        name=one.name,
        extent=None if one.extent is None else base / one.extent,
        year=chosen,
    )
    origin = replace(
        source.origins[0],
        licence=one.licence or source.origins[0].licence,
        attribution=one.attribution or source.origins[0].attribution,
        citation=one.citation,
    )
    told = tuple(f"{one.name}: {note}" for note in source.notes)
    return replace(source, notes=(*notes, *told), origins=(origin,))
