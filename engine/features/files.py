"""Raster files of features: opened, checked, stamped; where they lie, and how large a pixel is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from engine.cube.gdal import gdal_settings
from engine.cube.room import require_blocks
from engine.cube.source import Source, drivers_of
from engine.cube.validity import validity_of
from engine.cube.warp import Frame
from engine.errors import ReadError, RecipeError
from engine.grid.moving import move_of
from engine.items import Asset, Item

__all__ = ["Bounds", "RasterFile", "Span", "check_raster", "lattice_of", "open_raster", "stamp_of"]

Bounds = tuple[float, float, float, float]
"""West, south, east, north, in metres of the grid."""

_LATTICE = 17  # points along a side, by which it is told whether a file reaches a window
_NOWHERE = -2e9  # pixels: where projections have no answer
_FINEST = 0.4  # metres of a pixel
_ALIGNED = 1e-6  # of a pixel


@dataclass(frozen=True)
class Span:
    """Where the pixels of a file lie, and how they repeat about the globe.

    Attributes
    ----------
    frame : of the file.
    period : pixels of a whole turn, of a file in degrees; 0: it does not repeat.
    """

    frame: Frame
    period: float = 0.0

    def fold(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Columns, those of longitudes a turn away brought into the file."""
        if not self.period:
            return x
        return np.where(x > _NOWHERE / 2, np.mod(x, self.period), x)

    def holds(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], margin: float = 0.0
    ) -> npt.NDArray[np.bool_]:
        """Which points, in pixels of the file, lie in it, or within some pixels of it."""
        height, width = self.frame.shape
        level = (y >= -margin) & (y < height + margin)
        found = (x >= -margin) & (x < width + margin)
        if self.period:
            found |= x - self.period >= -margin
        return np.asarray(found & level)

    def points(
        self, xy: npt.NDArray[np.float64], crs: str
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Points (n, 2) of a CRS in pixels of the file."""
        frame = self.frame
        move = move_of(crs, frame.crs)
        there = xy if move is None else move.points(xy)
        across, down = there[:, 0] - frame.corner[0], there[:, 1] - frame.corner[1]
        area = frame.step[0] * frame.step[1] - frame.turn[0] * frame.turn[1]
        x = (across * frame.step[1] - down * frame.turn[0]) / area
        y = (down * frame.step[0] - across * frame.turn[1]) / area
        lost = ~(np.isfinite(x) & np.isfinite(y))
        x, y = np.where(lost, _NOWHERE, x), np.where(lost, _NOWHERE, y)
        return self.fold(x), y

    def reaches(self, bounds: Bounds, crs: str) -> bool:
        """Whether the file may hold ground of a window; never no where it does."""
        x, y = self.points(lattice_of(bounds), crs)
        if self.holds(x, y).any():
            return True
        lines = [x.reshape(_LATTICE, _LATTICE), y.reshape(_LATTICE, _LATTICE)]
        gaps = [np.abs(np.diff(line, axis=axis)) for line in lines for axis in (0, 1)]
        limit = self.period / 2 if self.period else math.inf
        margin = max((float(gap[gap < limit].max(initial=0.0)) for gap in gaps), default=0.0)
        return bool(self.holds(x, y, margin + 2.0).any())

    def pixel(self, at: tuple[float, float], crs: str) -> float:
        """The shorter side of a pixel about a place, in metres of that CRS; three digits of it."""
        frame = self.frame
        there, back = move_of(crs, frame.crs), move_of(frame.crs, crs)
        here = np.array([at])
        corner = here if there is None else there.points(here)
        right = corner + np.array([[frame.step[0], frame.turn[1]]])
        below = corner + np.array([[frame.turn[0], frame.step[1]]])
        ends = np.concatenate([corner, right, below])
        moved = ends if back is None else back.points(ends)
        sides = np.hypot(*(moved[1:] - moved[0]).T)
        side = float(sides.min())
        if not np.isfinite(sides).all() or side <= 0:  # the file lies elsewhere
            side = min(frame.sides) * (frame.unit if frame.projected else 111_320.0)
        return float(f"{side:.3g}")

    def nests(self, resolution: float, anchor: tuple[float, float], crs: str) -> bool:
        """Whether the file's pixels and those of a grid are whole parts of each other."""
        frame = self.frame
        step = abs(frame.step[0])
        if frame.turn != (0.0, 0.0) or frame.crs != crs or abs(frame.step[1]) != step:
            return False
        fine, coarse = sorted((step, resolution))
        if abs(coarse / fine - round(coarse / fine)) > _ALIGNED:
            return False
        off = [(a - b) / fine for a, b in zip(frame.corner, anchor, strict=True)]
        if step > resolution:  # lattices meet where corners of both do
            off = [(a - b) / resolution for a, b in zip(frame.corner, anchor, strict=True)]
        return all(abs(value - round(value)) <= _ALIGNED for value in off)


def lattice_of(bounds: Bounds, count: int = _LATTICE) -> npt.NDArray[np.float64]:
    """Points (count x count, 2) spread over a window, its edges among them."""
    west, south, east, north = bounds
    x, y = np.meshgrid(np.linspace(west, east, count), np.linspace(north, south, count))
    return np.column_stack([x.ravel(), y.ravel()])


@dataclass(frozen=True)
class RasterFile:
    """A raster as it was checked.

    Attributes
    ----------
    path : absolute.
    band : from 1.
    span : where it lies.
    parts : paths of all files that it is made of, itself first.
    stamp : of their names, sizes and times.
    scale, offset : of the band's numbers.
    classes : whether these are codes.
    unit : of the numbers, as the file or its vertical CRS says; "" where neither does.
    bands : that hold data, from 1; alpha is none.
    """

    path: str
    band: int
    span: Span
    parts: tuple[str, ...]
    stamp: bytes
    scale: float
    offset: float
    classes: bool
    unit: str = ""
    bands: tuple[int, ...] = (1,)

    @contextmanager
    def opened(self) -> Iterator[Source]:
        """The file, open.

        Raises
        ------
        ReadError
            Where it cannot be read, or is another one than was checked.
        """
        if stamp_of(self.parts) != self.stamp:
            raise ReadError(
                "a file of a feature has changed since the run began",
                got=self.path,
                remedy="run again",
                transient=False,
            )
        with open_raster(self.path, self.band, classes=self.classes) as source:
            yield source


def stamp_of(paths: Sequence[str]) -> bytes:
    """What tells that files are others than before: their names, sizes and times."""
    known = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError as error:
            raise ReadError("a file of a feature is gone", got=path, transient=False) from error
        known.update(f"{Path(path).name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return known.digest()


@contextmanager
def open_raster(path: str, band: int, *, classes: bool) -> Iterator[Source]:
    """A band of a raster on this machine: what lies where, and which pixels say something.

    Raises
    ------
    ReadError
        Where it cannot be read, has not the band or no georeference, or its numbers are complex,
        or positions in a palette where they are to be numbers.
    """
    try:
        with rasterio.Env(**gdal_settings(path)), _opened(path) as file:
            yield _source(file, path, band, classes)
    except ReadError:
        raise
    except (rasterio.errors.RasterioError, OSError, ValueError) as error:
        text = " ".join(str(error.__cause__ or error).split())
        raise ReadError(
            "a raster of a feature cannot be read",
            got=f"{path}: {text[:300]}",
            expected="GeoTIFF, JPEG 2000, JPEG, PNG, or a VRT of such files",
            remedy="write it as a cloud-optimised GeoTIFF (gdal_translate -of COG)",
            transient=False,
        ) from error


def _opened(path: str) -> DatasetReader:
    return DatasetReader(path, driver=drivers_of(path))


def _source(file: DatasetReader, path: str, band: int, classes: bool) -> Source:
    if not 1 <= band <= file.count:
        raise ReadError(f"{path} has no such band", got=band, expected=f"1 to {file.count}")
    require_blocks(file, band)
    kind = file.dtypes[band - 1]
    if file.colorinterp[band - 1] == ColorInterp.alpha:
        raise ReadError(f"{path} is opacity in that band", got=band, expected="a band of data")
    if kind.startswith("complex"):
        raise ReadError(f"{path} holds complex numbers", got=kind, expected="real numbers")
    if not classes and file.colorinterp[band - 1] == ColorInterp.palette:
        raise ReadError(
            f"{path} is not what its numbers are",
            got="positions in a palette",
            expected="numbers",
            remedy="read it as kind: classes",
        )
    at = file.transform
    if file.crs is None or at.is_identity:
        raise ReadError(
            f"{path} does not say where it lies",
            got="no CRS" if file.crs is None else "no transform",
            remedy="gdal_edit -a_srs EPSG:… -a_ullr …, or gdalwarp",
        )
    if not all(map(math.isfinite, at[:6])) or at.a * at.e - at.b * at.d == 0:
        raise ReadError(f"{path} has a transform that places no pixels", got=tuple(at)[:6])
    if not (file.crs.is_projected or file.crs.is_geographic):
        raise ReadError(f"{path} lies in no CRS of the Earth", got=str(file.crs)[:80])
    asset = Asset(path, scale=0.0, nodata=None, index=band)
    validity, notes = validity_of(file, asset, _item(path, asset), "values")
    return Source(file, band, file.crs, at, validity, notes)


def _item(path: str, asset: Asset) -> Item:
    """A file as the rules of validity know one."""
    return Item(
        id=Path(path).name,
        collection="features",
        source="features",
        datetime=datetime(2000, 1, 1, tzinfo=UTC),
        bbox=(-180.0, -90.0, 180.0, 90.0),
        geometry={},
        centroid_lon=0.0,
        stamp="",
        assets={"values": asset},
    )


def check_raster(path: str, band: int, *, classes: bool) -> RasterFile:
    """Open a raster once, before work starts.

    Raises
    ------
    RecipeError
        Where there is no such file, or its pixels are too fine.
    ReadError
        As of `open_raster`.
    """
    if "://" in path or path.startswith("/vsi"):
        raise RecipeError(
            "features are read from files of this machine alone",
            got=path,
            remedy="copy the part that covers the area first (gdal_translate -projwin …)",
        )
    if not Path(path).is_file():
        raise RecipeError("there is no such file of a feature", got=path)
    with open_raster(path, band, classes=classes) as source:
        file = source.file
        scale, offset = float(file.scales[band - 1]), float(file.offsets[band - 1])
        if not (math.isfinite(scale) and math.isfinite(offset) and scale):
            raise ReadError(f"{path} has a scale that is none", got=(scale, offset))
        if classes and (scale, offset) != (1.0, 0.0):
            raise ReadError(
                f"{path} has a scale, and is read as codes",
                got=(scale, offset),
                remedy="write its values out (gdal_translate -unscale …)",
            )
        parts = (path, *sorted({str(p) for p in file.files if Path(p).is_file()} - {path}))
        span = Span(source.frame, _period(source))
        bands = tuple(k for k, use in enumerate(file.colorinterp, 1) if use != ColorInterp.alpha)
        unit = (file.units[band - 1] or "").strip()
        stamp = stamp_of(parts)
        found = RasterFile(path, band, span, parts, stamp, scale, offset, classes, unit, bands)
    frame = span.frame
    metres = min(frame.sides) * (frame.unit if frame.projected else 111_320.0)
    if metres < _FINEST and frame.projected:
        raise RecipeError(
            "the pixels of a feature are too fine",
            got=f"{path}: {metres:.3g} m",
            expected=f"{_FINEST:g} m or more",
            remedy="write it at 1 m (gdalwarp -tr 1 1 -r average)",
        )
    return found


def _period(source: Source) -> float:
    """Pixels of a whole turn, of a file in degrees."""
    crs: Any = source.crs
    at = source.transform
    if not crs.is_geographic or at.b or at.d:
        return 0.0
    turn = 2 * math.pi / float(crs.units_factor[1])
    return turn / abs(at.a)
