"""Maps of classes, wherever they lie, read by windows of their own pixels."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.errors import RasterioError

from engine.compare.folder import map_of, read_folder
from engine.compare.releases import ReleaseMap
from engine.errors import LabelError, MetricError, first_line
from engine.labels.rasters import read_shown, require_plain
from engine.store.repository import Store

__all__ = ["MOST_CODE", "NOTHING", "ClassMap", "RasterMap", "StoreMap", "open_classes"]

NOTHING = -1
"""Code of a pixel without a class."""

MOST_CODE = 65_535
"""Codes of classes run from 0 to it."""


class ClassMap(Protocol):
    """A map of classes.

    Attributes
    ----------
    name : shown to people.
    shape : height and width in pixels.
    transform : from pixels to the CRS; upright, or turned by whole right angles at most.
    crs : pyproj.CRS
    titles : of codes, as far as something tells them.
    stamp : another one when the map's content may be another.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def transform(self) -> Affine: ...

    @property
    def crs(self) -> CRS: ...

    @property
    def titles(self) -> Mapping[int, str]: ...

    @property
    def stamp(self) -> str: ...

    def read(self, rows: slice, cols: slice) -> npt.NDArray[np.int32]:
        """Codes of a window that lies in it, `NOTHING` where there is no class: int32 (y, x)."""


class RasterMap:
    """A raster of codes.

    Parameters
    ----------
    path : in any form that rasterio opens.
    titles : of codes that may occur; () for any.
    unknown : codes that say nothing, beside nodata and what masks hide.

    Raises
    ------
    LabelError
        Where it cannot be read, has no CRS, or is not a raster of codes.
    """

    def __init__(
        self, path: Path, titles: Mapping[int, str] | None = None, unknown: Sequence[int] = ()
    ) -> None:
        self.name, self.titles = path.name, dict(titles or {})
        self._path, self._unknown = path, tuple(unknown)
        self._own = threading.local()  # a handle of GDAL's is for one thread
        try:
            file = self._file()
            require_plain(file, LabelError)
            if file.crs is None:
                raise LabelError("the map does not say which CRS it is in", got=path)
            self.crs = CRS.from_wkt(file.crs.to_wkt())
            self.shape, self.transform = (file.height, file.width), file.transform
            if (self.transform.b, self.transform.d) != (0, 0):
                raise LabelError(
                    "the map is rotated",
                    got=f"{path.name}: {tuple(self.transform)[:6]}",
                    expected="rows and columns along the axes of its CRS",
                    remedy="write it on a grid that is not (gdalwarp -r near)",
                )
        except RasterioError as error:
            raise LabelError("the map cannot be read", got=first_line(error)) from error
        known = path.stat()
        told = f"{path.absolute()} {known.st_size} {known.st_mtime_ns} {unknown}"
        self.stamp = hashlib.sha256(told.encode()).hexdigest()

    def _file(self) -> rasterio.DatasetReader:
        if not hasattr(self._own, "file"):
            self._own.file = rasterio.open(self._path)
        found: rasterio.DatasetReader = self._own.file
        return found

    def read(self, rows: slice, cols: slice) -> npt.NDArray[np.int32]:
        """Codes of a window.

        Raises
        ------
        LabelError
            Where it cannot be read, or holds what is not a code, or not one of the titles'.
        """
        window = (rows.start, rows.stop), (cols.start, cols.stop)
        try:
            file = self._file()
            values = read_shown(file, window)
        except RasterioError as error:
            raise LabelError("the map cannot be read", got=first_line(error)) from error
        silent = [*self._unknown, *(() if file.nodata is None else (file.nodata,))]
        if values.dtype.kind == "f":
            hidden = ~np.isfinite(values)
            whole = np.where(hidden, 0, values)
            if (whole != np.round(whole)).any():
                raise self._odd(whole[whole != np.round(whole)])
        else:
            hidden, whole = np.zeros(values.shape, bool), values
        for code in silent:
            hidden |= values == code
        if whole.size and (whole.min() < 0 or whole.max() > MOST_CODE):
            there = whole[~hidden]
            odd = there[(there < 0) | (there > MOST_CODE)]
            if len(odd):
                raise self._odd(odd)
        codes: npt.NDArray[np.int32] = np.where(hidden, NOTHING, whole.astype(np.int32))
        if self.titles:
            there = np.flatnonzero(np.bincount(codes.ravel() - NOTHING)[1:])
            if strange := sorted(set(there.tolist()) - set(self.titles)):
                raise LabelError(
                    "the map holds codes that its legend does not have",
                    got=f"{self.name}: {', '.join(map(str, strange[:8]))}",
                    expected=", ".join(map(str, self.titles)),
                )
        return codes

    def _odd(self, values: npt.NDArray[Any]) -> LabelError:
        return LabelError(
            "the map holds values that are not codes of classes",
            got=f"{self.name}: {', '.join(f'{v:g}' for v in np.unique(values)[:5])}",
            expected=f"integers from 0 to {MOST_CODE}",
            remedy="name codes that say nothing, or declare them as nodata",
        )


class StoreMap:
    """The map of a store: of a release, or what was committed last.

    Raises
    ------
    StoreError, PublishError
        Where there is no such store, release or map.
    """

    def __init__(self, place: str | Path, tag: str | None = None) -> None:
        self._map = ReleaseMap(Store.open(place), tag)
        self.name = f"{place}" + (f" {tag}" if tag else "")
        self.shape = self._map.shape
        self.transform, self.crs = self._map.box.transform, CRS.from_user_input(self._map.box.crs)
        self.titles = {c.code: c.title for c in self._map.legend}
        self._code = np.array([NOTHING, *(c.code for c in self._map.legend)], np.int32)
        self.stamp = hashlib.sha256(f"{place} {self._map.snapshot}".encode()).hexdigest()

    def read(self, rows: slice, cols: slice) -> npt.NDArray[np.int32]:
        """Codes of a window."""
        found: npt.NDArray[np.int32] = self._code[self._map.read(rows, cols)]
        return found


def open_classes(
    place: str | Path,
    *,
    layer: str = "map",
    tag: str | None = None,
    unknown: Sequence[int] = (),
) -> ClassMap:
    """A map of classes.

    Parameters
    ----------
    place : a raster, a product folder, or a store.
    layer : of a product folder.
    tag : release of a store.
    unknown : codes of a raster that say nothing.

    Raises
    ------
    LabelError, MetricError, StoreError, PublishError
        Where there is none.
    """
    path = Path(place)
    folder = read_folder(path)
    if tag is not None or (not path.is_file() and folder is None and Store.exists(place)):
        if unknown:
            raise LabelError(
                "codes that say nothing are told of rasters",
                got=f"{place}: a store",
                expected="a raster, or a product folder",
            )
        return StoreMap(place, tag)
    raster = map_of(path, layer)
    if folder is None:
        return RasterMap(raster, None, unknown)
    classes = folder.layers[layer].classes if layer in folder.layers else ()
    if not classes:
        raise MetricError("the layer has no classes", got=f"{path}: {layer}")
    return RasterMap(raster, {c.code: c.title for c in classes}, unknown)
