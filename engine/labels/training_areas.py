"""Training areas: polygons that somebody drew and gave an LCZ type, in the WUDAPT way.

In KML and KMZ the type is the name of the folder that a polygon lies in; in GeoJSON, GPKG and
shapefiles it is the field ``lcz`` or ``Class``. Names and descriptions of places are dropped: they
may hold what a volunteer did not mean to publish.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from engine.errors import LabelError, RecipeError
from engine.grid.area import polygons_of
from engine.legend import parse_class

__all__ = ["TrainingArea", "TrainingAreas", "read_training_areas"]

_MOST_BYTES = 200 << 20  # of an unpacked KMZ
_LARGE = 300_000.0  # square metres; WUDAPT's POLYSIZE
_DISC = 300.0  # metres; WUDAPT's BUFFERSIZE
_LEAST, _ROUND, _MANY = 40_000.0, 3.0, 20  # square metres, circularity, vertices
_FIELDS = ("lcz", "class")


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

        Polygons of 0.3 km2 and more are replaced by a disc of 300 m about their centroid, so that
        few large ones do not outweigh many small ones.
        """
        if self.square_metres < _LARGE:
            return self.geometry
        there, back = _local(self.geometry)
        centre = _moved(self.geometry, there).centroid
        return _moved(centre.buffer(_DISC, quad_segs=16), back)


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


def read_training_areas(path: str | Path) -> TrainingAreas:
    """Read training areas.

    Parameters
    ----------
    path : KML, KMZ, GeoJSON, GPKG or shapefile.

    Returns
    -------
    TrainingAreas
        Polygons of several parts are taken apart; empty ones and rings of fewer than four points
        are dropped, invalid ones repaired. All of it is noted.

    Raises
    ------
    LabelError
        Where the file cannot be read, names no types or fewer than two, or names one that is none.
    """
    path = Path(path)
    if not path.is_file():
        raise LabelError("there is no such file of training areas", got=path)
    pairs, notes = _read(path)
    found: dict[str, TrainingArea] = {}
    dropped = repaired = twice = 0
    for lcz, geometry in pairs:
        if geometry is None or geometry.is_empty:
            dropped += 1
            continue
        geometry = shapely.force_2d(geometry)
        if not geometry.is_valid:
            geometry, repaired = shapely.make_valid(geometry), repaired + 1
        for polygon in polygons_of(geometry):
            if len(polygon.exterior.coords) < 4 or polygon.area == 0:
                dropped += 1
                continue
            area = _measure(lcz, polygon)
            twice += area.id in found
            found[area.id] = area
    for number, what in (
        (dropped, "empty polygons dropped"),
        (repaired, "invalid ones repaired"),
        (twice, "found twice, taken once"),
    ):
        if number:
            notes.append(f"{number} {what}")
    areas = tuple(sorted(found.values(), key=lambda area: (area.lcz, area.id)))
    if len({area.lcz for area in areas}) < 2:
        raise LabelError(
            f"{path.name} does not tell types apart",
            got=sorted({area.lcz for area in areas}) or "no polygons",
            expected="polygons of two LCZ types or more",
        )
    for area in areas:
        notes += [f"LCZ {area.lcz} {area.id}: {doubt}" for doubt in area.doubts]
    return TrainingAreas(areas, tuple(notes + _overlaps(areas)))


# -- files ------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[list[tuple[int, BaseGeometry | None]], list[str]]:
    """Types with their geometries in EPSG:4326, and notes."""
    kind = path.suffix.lower()
    try:
        if kind in (".kml", ".kmz"):
            raw = _unpack(path) if kind == ".kmz" else path.read_bytes()
            return _by_folder(raw, path.name)
        return _by_field(path)
    except (DataSourceError, DataLayerError, OSError, zipfile.BadZipFile, ValueError) as error:
        raise LabelError(
            "the file of training areas cannot be read",
            got=f"{path.name}: {error}",
            expected="KML, KMZ, GeoJSON, GPKG or a shapefile",
        ) from error


def _unpack(path: Path) -> bytes:
    """The KML of a KMZ, in memory: nothing of the archive reaches the disk."""
    with zipfile.ZipFile(path) as archive:
        names = [info for info in archive.infolist() if info.filename.lower().endswith(".kml")]
        if not names:
            raise LabelError("the KMZ holds no KML", got=path.name, expected="doc.kml")
        first = min(names, key=lambda info: (info.filename != "doc.kml", info.filename))
        with archive.open(first) as file:
            raw = file.read(_MOST_BYTES + 1)  # what the archive says of its size may be a lie
    if len(raw) > _MOST_BYTES:
        raise LabelError(
            "the KMZ is too large", got=f"over {_MOST_BYTES >> 20} MB unpacked", remedy="split it"
        )
    return raw


def _by_folder(raw: bytes, name: str) -> tuple[list[tuple[int, BaseGeometry | None]], list[str]]:
    pairs: list[tuple[int, BaseGeometry | None]] = []
    notes: list[str] = []
    for folder, _ in pyogrio.list_layers(io.BytesIO(raw)):
        frame: Any = pyogrio.read_dataframe(io.BytesIO(raw), layer=folder, columns=[])
        if not len(frame):
            notes.append(f"folder {folder} is empty")
            continue
        code = _code(folder, f"{name}, folder name")
        pairs += [(code, geometry) for geometry in frame.geometry]
    return pairs, notes


def _by_field(path: Path) -> tuple[list[tuple[int, BaseGeometry | None]], list[str]]:
    frame: Any = geopandas.read_file(path)
    fields = {str(column).lower(): column for column in frame.columns}
    field = next((fields[name] for name in _FIELDS if name in fields), None)
    if field is None:
        raise LabelError(
            f"{path.name} has no field for the type",
            got=", ".join(str(c) for c in frame.columns if c != "geometry") or "no fields",
            expected="lcz or Class",
        )
    if frame.crs is None:
        if path.suffix.lower() not in (".json", ".geojson"):
            raise LabelError(
                f"{path.name} does not say which CRS it is in",
                remedy="add the .prj that came with the data",
            )
        frame = frame.set_crs("EPSG:4326")  # the GeoJSON standard
    frame = frame.to_crs("EPSG:4326")
    codes = [_code(value, f"{path.name}, field {field}") for value in frame[field]]
    return list(zip(codes, frame.geometry, strict=True)), []


def _code(value: Any, where: str) -> int:
    try:
        # a column of numbers with a gap comes as floats
        return parse_class(int(value) if isinstance(value, float) and value % 1 == 0 else value)
    except RecipeError as error:
        raise LabelError(
            f"no LCZ type: {where}", got=repr(value), expected="1 to 17, A to G, or 101 to 107"
        ) from error


# -- geometry ---------------------------------------------------------------------------------


def _measure(lcz: int, polygon: BaseGeometry) -> TrainingArea:
    local = _moved(polygon, _local(polygon)[0])
    # a tenth of a metre: other software writes other last digits
    outline = shapely.to_wkb(shapely.set_precision(polygon, 1e-6).normalize())
    name = hashlib.blake2b(bytes([lcz]) + outline, digest_size=5).hexdigest()
    return TrainingArea(name, lcz, polygon, float(local.area), float(local.length))


def _local(geometry: BaseGeometry) -> tuple[Transformer, Transformer]:
    """To an equal-area projection about a geometry, and back."""
    centre = geometry.centroid
    here = CRS.from_dict(
        {"proj": "laea", "lat_0": centre.y, "lon_0": centre.x, "units": "m", "ellps": "WGS84"}
    )
    there = Transformer.from_crs("EPSG:4326", here, always_xy=True)
    return there, Transformer.from_crs(here, "EPSG:4326", always_xy=True)


def _moved(geometry: BaseGeometry, move: Transformer) -> BaseGeometry:
    return shapely.transform(
        geometry, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1]))
    )


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
