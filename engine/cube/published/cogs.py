"""AlphaEarth's files: GeoTIFFs of 64 bands of int8, each of one UTM zone, whose rows go north."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.io import DatasetReader
from rasterio.windows import Window

from engine.addresses import is_http
from engine.cube.gateway import forget, lend, why
from engine.cube.gdal import classify, gdal_settings
from engine.cube.published.reader import Piece, Published
from engine.cube.published.rules import ALPHAEARTH, Decoded
from engine.cube.published.sheet import Box, Sheet, known_crs, north_up, zone_home
from engine.cube.room import require_blocks, require_room
from engine.errors import CatalogError, NatmapError, ReadError

__all__ = ["files_below", "published_files", "published_index"]

_BANDS = 64
_YEAR = re.compile(r"(?:19|20|21)\d\d")
_UTM = re.compile(r"EPSG:32([67])(\d\d)")
_TAIL = re.compile(r"(?:^|/)annual/((?:19|20|21)\d\d/[\w.-]+/[\w.-]+\.tiff?)$")
_BUCKET, _MIRROR = "s3://us-west-2.opendata.source.coop/", "https://data.source.coop/"
_COLUMNS = ("path", "year", "wgs84_west", "wgs84_south", "wgs84_east", "wgs84_north")
_ROWS = 10_000_000
_UNPACKED = 1 << 30  # bytes of the index's columns
_FILES = 1_000_000


@dataclass(frozen=True)
class _File:
    """One file, and the hosts that may be private; None: that of its own address."""

    href: str
    hosts: frozenset[str] | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.href).path if is_http(self.href) else self.href).name


def published_files(places: Iterable[str], title: str) -> Published:
    """Embeddings of AlphaEarth's files.

    Parameters
    ----------
    places : paths, or addresses of http and https; the year is that of a folder above.
    title : names them all.

    Raises
    ------
    CatalogError
        Where there are none, or one lies in no folder of a year.
    """
    pieces = []
    for place in sorted(set(places)):
        file = _File(place)
        pieces.append(_piece(file, _year_of(place), None))
    return _published(title, pieces)


def files_below(folder: Path) -> list[str]:
    """AlphaEarth's files in a folder of folders of years.

    Raises
    ------
    CatalogError
        Where they are too many.
    """
    found: list[str] = []
    for path in folder.rglob("*"):
        if path.suffix.lower() in (".tif", ".tiff"):
            found.append(str(path))
        if len(found) > _FILES:
            raise CatalogError("the folder has too many files", got=folder, expected=_FILES)
    return found


def published_index(index: Path) -> Published:
    """Embeddings of the files that AlphaEarth's index names (``aef_index.parquet``).

    A file that lies beside the index, as <year>/<zone>/<file>, is read there; others from the
    public web server of the bucket that the index names.

    Raises
    ------
    CatalogError
        Where it is no such index, unpacks to too much, or names files that it may not.
    """
    try:
        with pq.ParquetFile(index) as file:
            _require_bounds(file, index)
            columns = file.read(columns=list(_COLUMNS)).to_pydict()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CatalogError(
            "AlphaEarth's index cannot be read",
            got=f"{index}: {str(error)[:200]}",
            expected="a parquet file with " + ", ".join(_COLUMNS),
        ) from error
    pieces = []
    for path, year, *bounds in zip(*(columns[name] for name in _COLUMNS), strict=True):
        numbers = isinstance(year, int) and all(
            isinstance(n, float | int) and math.isfinite(n) for n in bounds
        )
        if not numbers:
            raise CatalogError(
                "a row of AlphaEarth's index has no year or bounds", got=f"{path}: {year}, {bounds}"
            )
        west, south, east, north = bounds
        place = _place(path, index)
        pieces.append(_piece(place, year, (west, south, east, north)))
    return _published(str(index), pieces)


def _require_bounds(file: pq.ParquetFile, index: Path) -> None:
    """Refuse an index by what it states, before any of it is unpacked."""
    missing = sorted(set(_COLUMNS) - set(file.schema_arrow.names))
    if missing:
        raise CatalogError(
            "AlphaEarth's index lacks columns", got=f"{index}: no {', '.join(missing)}"
        )
    size = sum(
        column.total_uncompressed_size
        for k in range(file.metadata.num_row_groups)
        for n in range(file.metadata.num_columns)
        if (column := file.metadata.row_group(k).column(n)).path_in_schema in _COLUMNS
    )
    if size > _UNPACKED or file.metadata.num_rows > _ROWS:
        raise CatalogError(
            "AlphaEarth's index is larger than it may be",
            got=f"{index}: {file.metadata.num_rows} rows, {size >> 20} MiB",
            expected=f"at most {_ROWS} rows and {_UNPACKED >> 20} MiB",
        )


def _place(path: Any, index: Path) -> _File:
    """Where a file of the index lies: beside it, or on a public web server."""
    text = str(path)
    tail = _TAIL.search(text)
    beside = index.parent / (tail[1] if tail else text)
    local = tail is not None or ("://" not in text and not text.startswith("/"))
    if local and ".." not in PurePosixPath(text).parts and beside.is_file():
        return _File(str(beside))
    address = text.replace(_BUCKET, _MIRROR, 1) if text.startswith(_BUCKET) else text
    if not is_http(address) or ".." in PurePosixPath(text).parts:
        raise CatalogError(
            "AlphaEarth's index names a file that is not to be read",
            got=text[:200],
            expected=f"a file beside {index}, {_BUCKET}... or https://...",
            remedy="copy the files beside the index, as <year>/<zone>/<file>",
        )
    return _File(address, frozenset())


def _year_of(place: str) -> int:
    parents = PurePosixPath(urlsplit(place).path if is_http(place) else place).parent.parts
    for part in reversed(parents):
        if _YEAR.fullmatch(part):
            return int(part)
    raise CatalogError(
        "a file of AlphaEarth lies in no folder of a year",
        got=place,
        expected="<year>/<zone>/<file>.tiff",
    )


def _published(title: str, pieces: list[Piece]) -> Published:
    if not pieces:
        raise CatalogError(
            "there are no files of AlphaEarth here", got=title, expected="<year>/<zone>/<file>.tiff"
        )
    return Published(title, tuple(f"A{k:02d}" for k in range(_BANDS)), pieces)


def _piece(file: _File, year: int, bounds: Box | None) -> Piece:
    return Piece(file.href, frozenset({year}), bounds, lambda _: _sheet(file))


def _sheet(file: _File) -> Sheet:
    with _opened(file) as opened:
        kinds = set(opened.dtypes)
        nodata = opened.nodata
        if opened.count != _BANDS or kinds != {"int8"} or nodata not in (None, -128):
            raise ReadError(
                f"{file.name} is no file of AlphaEarth",
                got=f"{opened.count} bands of {', '.join(sorted(kinds))}, nodata {nodata}",
                expected=f"{_BANDS} bands of int8, nodata -128",
            )
        require_blocks(opened, 1)
        crs = known_crs(opened.crs and opened.crs.to_wkt(), file.name)
        corner, step, flipped = north_up(tuple(opened.transform)[:6], opened.shape, file.name)
        height, width = opened.shape
    found = _UTM.fullmatch(crs)
    home = None if found is None else zone_home(int(found[2]), "S" if found[1] == "7" else "N")
    load = partial(_load, file, height if flipped else None)
    return Sheet(file.name, crs, corner, step, (height, width), _BANDS, load, home)


def _load(file: _File, height: int | None, rows: slice, cols: slice) -> Decoded:
    """Rows from the north; a height says that those of the file go north."""
    first = rows.start if height is None else height - rows.stop
    window = Window(cols.start, first, cols.stop - cols.start, rows.stop - rows.start)
    with _opened(file) as opened:
        require_room(opened, range(1, _BANDS + 1), (window.height, window.width))
        codes = opened.read(window=window)
    return ALPHAEARTH(codes if height is None else codes[:, ::-1], None)


@contextmanager
def _opened(file: _File) -> Iterator[DatasetReader]:
    """A file, of this machine or lent by the gateway; what goes wrong is a `ReadError`."""
    remote = is_http(file.href)
    place = file.href
    try:
        if remote:
            place = lend(file.href, file.href, file.hosts)
        with (
            rasterio.Env(**gdal_settings(place)),
            DatasetReader(place, driver=["GTiff"]) as opened,
        ):
            yield opened
        reason = why(place) if remote else None
        if reason is not None:
            raise reason
    except NatmapError:
        raise
    except Exception as error:
        if remote:
            forget(file.href)
        reason = why(place) if remote else None
        raise classify(error, file.href, file.name, reason) from error
