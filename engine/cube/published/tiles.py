"""TESSERA's tiles of a tenth of a degree: numpy files, georeferenced by a land mask beside them.

``<year>/grid_<lon>_<lat>/grid_<lon>_<lat>.npy`` (y, x, channel) with ``_scales.npy`` (y, x) or
(y, x, channel), and somewhere in the same folder ``grid_<lon>_<lat>.tiff``: 0 is water, and its
CRS and transform are the tile's. Names are of the tile's centre.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.io import DatasetReader
from rasterio.windows import Window

from engine.cube.gdal import gdal_settings
from engine.cube.published.arrays import reading
from engine.cube.published.reader import Piece, Published
from engine.cube.published.rules import TESSERA, VALID, WATER, Decoded
from engine.cube.published.sheet import Sheet, known_crs, north_up
from engine.cube.room import require_blocks
from engine.errors import CatalogError, ReadError

__all__ = ["published_tiles"]

_TILE = re.compile(r"(grid_(-?\d{1,3}\.\d\d)_(-?\d{1,2}\.\d\d))\.npy")
_MASK = re.compile(r"(grid_-?\d{1,3}\.\d\d_-?\d{1,2}\.\d\d)\.tiff?")
_YEAR = re.compile(r"(?:19|20|21)\d\d")
_MOST = 10_000_000  # files of a folder
_CHANNELS = 128
_HALF = 0.05  # degrees
_BESIDE = 0.1  # degrees that a tile's rectangle reaches beyond it, at most


@dataclass(frozen=True)
class _Tile:
    """Files of one tile."""

    name: str
    lon: float
    lat: float
    codes: Path
    mask: Path

    @property
    def scales(self) -> Path:
        return self.codes.with_name(f"{self.name}_scales.npy")


def published_tiles(folder: Path) -> Published:
    """Embeddings of a folder of TESSERA's tiles; they are opened once they are wanted.

    Raises
    ------
    CatalogError
        Where there are none, or land masks or years are missing.
    """
    found: dict[tuple[int, str], tuple[float, float, Path]] = {}
    masks: dict[str, Path] = {}
    count = 0
    for parent, folders, files in os.walk(folder):
        folders.sort()
        count += len(files)
        if count > _MOST:
            raise CatalogError("the folder has too many files", got=folder, expected=_MOST)
        for file in sorted(files):
            path = Path(parent, file)
            if mask := _MASK.fullmatch(file):
                masks.setdefault(mask[1], path)
            elif tile := _TILE.fullmatch(file):
                year = _year_of(path.relative_to(folder), folder)
                found.setdefault((year, tile[1]), (float(tile[2]), float(tile[3]), path))
    if not found:
        raise CatalogError(
            "there are no tiles of TESSERA here",
            got=folder,
            expected="<year>/grid_<lon>_<lat>/grid_<lon>_<lat>.npy",
        )
    missing = sorted({name for _, name in found} - masks.keys())
    if missing:
        raise CatalogError(
            f"{len(missing)} of the tiles have no land mask, which says where they lie",
            got=missing[0],
            expected=f"{missing[0]}.tiff below {folder}",
            remedy="fetch global_0.1_degree_tiff_all, or landmasks, beside the tiles",
        )
    tiles: dict[str, dict[int, _Tile]] = {}
    for (year, name), (lon, lat, path) in found.items():
        tiles.setdefault(name, {})[year] = _Tile(name, lon, lat, path, masks[name])
    return Published(
        str(folder),
        tuple(f"T{k:03d}" for k in range(_CHANNELS)),
        [_piece(name, years) for name, years in sorted(tiles.items())],
    )


def _year_of(path: Path, folder: Path) -> int:
    for part in reversed(path.parent.parts):
        if _YEAR.fullmatch(part):
            return int(part)
    if _YEAR.fullmatch(folder.name):
        return int(folder.name)
    raise CatalogError(
        "a tile of TESSERA lies in no folder of a year",
        got=path,
        expected=f"2023/{path.stem}/{path.name}",
    )


def _piece(name: str, tiles: Mapping[int, _Tile]) -> Piece:
    one = next(iter(tiles.values()))
    reach = _HALF + _BESIDE
    bounds = (one.lon - reach, one.lat - reach, one.lon + reach, one.lat + reach)
    if abs(one.lon) + reach > 180.0:  # west beyond east says so
        bounds = ((bounds[0] + 180.0) % 360.0 - 180.0, bounds[1], bounds[2] - 360.0, bounds[3])
        if one.lon < 0:
            bounds = (bounds[0], bounds[1], one.lon + reach, bounds[3])
    return Piece(name, frozenset(tiles), bounds, lambda year: _open(tiles[year]))


def _open(tile: _Tile) -> Sheet:
    codes = _mapped(tile.codes)
    if codes.ndim != 3 or codes.dtype != np.int8 or codes.shape[2] != _CHANNELS:
        raise ReadError(
            f"{tile.codes.name} is no tile of TESSERA",
            got=f"{codes.dtype} {codes.shape}",
            expected=f"int8 (y, x, {_CHANNELS})",
        )
    scales = _mapped(tile.scales)
    if scales.dtype != np.float32 or scales.shape not in (codes.shape[:2], codes.shape):
        raise ReadError(
            f"{tile.scales.name} has not the scales of its tile",
            got=f"{scales.dtype} {scales.shape}",
            expected=f"float32 {codes.shape[:2]} or {codes.shape}",
        )
    what = f"the land mask of {tile.name}"
    with reading(what), _opened(tile.mask) as file:
        if (file.height, file.width) != codes.shape[:2] or file.count != 1:
            raise ReadError(
                f"{what} is of another tile",
                got=f"{file.count} band of {file.height} x {file.width}",
                expected=f"1 band of {codes.shape[0]} x {codes.shape[1]}",
                remedy="masks are of one version of the tiles: fetch those of yours",
            )
        require_blocks(file, 1)
        crs = known_crs(file.crs and file.crs.to_wkt(), what)
        corner, step, flipped = north_up(tuple(file.transform)[:6], file.shape, what)
    if flipped:
        raise ReadError(f"{what} goes north", got=step, expected="rows that go south")
    home = (tile.lon - _HALF, tile.lat - _HALF, tile.lon + _HALF, tile.lat + _HALF)
    height, width = codes.shape[:2]
    load = partial(_load, tile)
    return Sheet(tile.name, crs, corner, step, (height, width), _CHANNELS, load, home)


def _load(tile: _Tile, rows: slice, cols: slice) -> Decoded:
    window = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
    with reading(f"the land mask of {tile.name}"), _opened(tile.mask) as file:
        land = file.read(1, window=window) != 0
    codes = np.asarray(_mapped(tile.codes)[rows, cols]).transpose(2, 0, 1)
    scales = np.asarray(_mapped(tile.scales)[rows, cols])
    if scales.ndim == 3:
        scales = scales.transpose(2, 0, 1)
    vectors, state = TESSERA(codes, scales)
    state[~land] = WATER
    vectors[:, state != VALID] = np.nan
    return vectors, state


def _mapped(path: Path) -> npt.NDArray[Any]:
    """An array of a file, of which only what is used is read."""
    with reading(path.name):
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ReadError(f"{path.name} holds more than an array", expected="a file of np.save")
    return found


def _opened(path: Path) -> Any:
    with rasterio.Env(**gdal_settings(str(path))):
        return DatasetReader(str(path), driver=["GTiff"])
