"""Arrays of somebody else's Zarr: looked at before anything of them is read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from engine.errors import NatmapError, ReadError, first_line

__all__ = [
    "Cube",
    "cube_of",
    "dimensions_of",
    "most_of",
    "open_folder",
    "read_axis",
    "reading",
    "years_of",
]

_DOCUMENT = 1 << 24  # bytes of a zarr.json, with those of all groups in it
_CHUNK = 1 << 28  # bytes of a chunk; several are decoded at once
_INDEX = 1 << 20  # chunks of a shard, each with 16 bytes in its index
_YEARS = 1000
_PLACES = 1 << 22  # coordinates that are looked at
_TYPES = ("int8", "int16", "uint8", "uint16", "float16", "float32", "float64")
_CODECS = {
    "blosc",
    "bytes",
    "crc32c",
    "gzip",
    "sharding_indexed",
    "transpose",
    "zstd",
}
"""What Zarr v3 itself has: another may be a program of somebody else's (pickle is one)."""
_AXES = {
    "time": {"time", "year"},
    "channel": {"band", "feature", "channel", "embedding", "dim"},
    "y": {"y", "northing", "lat", "latitude"},
    "x": {"x", "easting", "lon", "longitude"},
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SECONDS = {
    "nanoseconds": 1e-9,
    "microseconds": 1e-6,
    "milliseconds": 1e-3,
    "seconds": 1.0,
    "minutes": 60.0,
    "hours": 3600.0,
    "days": 86_400.0,
}
_SINCE = re.compile(rf"({'|'.join(_SECONDS)}) since (.+)")


class _Folder(LocalStore):
    """A folder of which no file is read that is larger than it may be."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        path = self.root / key
        most = most_of(key)
        if byte_range is None and path.is_file() and path.stat().st_size > most:
            raise ReadError(
                "a file of the Zarr store is too large",
                got=f"{path}: {path.stat().st_size / 2**20:.0f} MiB",
                expected=f"at most {most >> 20} MiB",
                remedy="write it in smaller chunks, or in shards",
            )
        return await super().get(key, prototype, byte_range)


def most_of(key: str) -> int:
    """Bytes that are read of a file of a store at once."""
    return _DOCUMENT if key.rpartition("/")[2] == "zarr.json" else _CHUNK


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever goes wrong with somebody else's file is a `ReadError`."""
    try:
        yield
    except NatmapError:
        raise
    except Exception as error:  # parsers and codecs of others raise all there is
        raise ReadError(
            f"{what} cannot be read", got=f"{type(error).__name__}: {first_line(error)}"
        ) from error


def open_folder(path: Path) -> zarr.Group:
    """The root of a Zarr v3 store in a folder.

    Raises
    ------
    ReadError
        Where there is none, or it is of version 2.
    """
    if not (path / "zarr.json").is_file():
        old = any((path / name).exists() for name in (".zgroup", ".zattrs", ".zmetadata"))
        raise ReadError(
            "this is not a Zarr store of version 3",
            got=f"{path}: version 2" if old else f"{path}: no zarr.json",
            expected="a folder with zarr.json",
            remedy="write it anew with zarr_format=3" if old else None,
        )
    with reading(f"the Zarr store {path}"):
        return zarr.open_group(
            _Folder(path, read_only=True), mode="r", zarr_format=3, use_consolidated=False
        )


@dataclass(frozen=True)
class Cube:
    """An array whose axes are known: time or none, channels, y and x, in any order.

    Attributes
    ----------
    array : that was checked.
    what : names it in errors.
    axes : of the array, by "time", "channel", "y" and "x"; the first two may be missing.
    """

    array: Any
    what: str
    axes: Mapping[str, int]

    def size(self, axis: str) -> int:
        """Length of an axis that is there."""
        return int(self.array.shape[self.axes[axis]])

    def read(self, time: int, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """A window (channel, y, x), or (y, x) of an array without channels."""
        where: list[Any] = [slice(None)] * len(self.axes)
        where[self.axes["y"]], where[self.axes["x"]] = rows, cols
        if "time" in self.axes:
            where[self.axes["time"]] = slice(time, time + 1)
        with reading(self.what):
            found = np.asarray(self.array[tuple(where)])
        order = [self.axes[axis] for axis in ("time", "channel", "y", "x") if axis in self.axes]
        found = found.transpose(order)
        return found[0] if "time" in self.axes else found


def cube_of(group: zarr.Group, name: Any, where: str) -> Cube:
    """An array of a group, checked.

    Parameters
    ----------
    group : open.
    name : as somebody's attributes have it.
    where : names the group in errors.

    Raises
    ------
    ReadError
        Where it leads out of the group or is not there, its numbers or dimensions are others, or
        its chunks or codecs are not to be decoded.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ReadError(
            f"{where} names an array that is not in its group",
            got=repr(name)[:120],
            expected="a plain name, as scales",
        )
    what = f"{name} of {where}"
    with reading(what):
        array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise ReadError(f"{where} has no array {name}")
    if str(array.dtype) not in _TYPES:
        raise ReadError(
            f"{what} is of a type that vectors cannot have",
            got=array.dtype,
            expected=", ".join(_TYPES),
        )
    names = dimensions_of(array)
    axes = {axis: k for axis, known in _AXES.items() for k, dim in enumerate(names) if dim in known}
    if len(axes) != array.ndim or len(names) != array.ndim or not {"y", "x"} <= axes.keys():
        raise ReadError(
            f"{what} has other dimensions",
            got=", ".join(names) or f"{array.ndim} without names",
            expected="y and x (or northing and easting), channels (band or feature), and time or "
            "none",
        )
    _require_decodable(array, what)
    return Cube(array, what, axes)


def dimensions_of(array: Any) -> tuple[str, ...]:
    """Names of an array's dimensions; empty where it has none."""
    return tuple(str(dim) for dim in array.metadata.dimension_names or ())


def _require_decodable(array: Any, what: str) -> None:
    said = array.metadata.to_dict()
    strange = sorted(set(_codec_names(said.get("codecs"))) - _CODECS)
    if strange:
        raise ReadError(
            f"{what} is coded in a way that is not trusted",
            got=", ".join(strange)[:120],
            expected=f"of {', '.join(sorted(_CODECS))}",
        )
    size = math.prod(map(int, array.chunks)) * array.dtype.itemsize
    if size > _CHUNK:
        raise ReadError(
            f"chunks of {what} are too large",
            got=f"{tuple(array.chunks)}, {size / 2**20:.0f} MiB",
            expected=f"at most {_CHUNK >> 20} MiB",
            remedy="write it in chunks of 256 x 256 pixels",
        )
    shards = array.shards or array.chunks
    inner = math.prod(-(-int(a) // int(b)) for a, b in zip(shards, array.chunks, strict=True))
    if inner > _INDEX:
        raise ReadError(
            f"shards of {what} have too many chunks", got=inner, expected=f"at most {_INDEX}"
        )


def _codec_names(codecs: Any) -> Iterator[str]:
    for codec in codecs or ():
        if not isinstance(codec, Mapping):
            yield str(codec)
            continue
        yield str(codec.get("name"))
        inside = codec.get("configuration") or {}
        for key in ("codecs", "index_codecs"):
            yield from _codec_names(inside.get(key))


def years_of(group: zarr.Group, cube: Cube, where: str) -> tuple[int, ...]:
    """Years along the axis of time, in its order; empty where there is no such axis.

    Raises
    ------
    ReadError
        Where nothing says them.
    """
    if "time" not in cube.axes:
        return ()
    name = dimensions_of(cube.array)[cube.axes["time"]]
    with reading(f"{name} of {where}"):
        array: Any = group.get(name)
    fits = isinstance(array, zarr.Array) and array.shape == (cube.size("time"),)
    if not fits or array.shape[0] > _YEARS or array.dtype.kind not in "iuM":
        raise ReadError(
            f"{where} does not say which years it has",
            got=f"{name}: {array.shape} {array.dtype}" if fits else f"no {name} of that length",
            expected=f"whole numbers of at most {_YEARS} years",
        )
    _require_decodable(array, f"{name} of {where}")
    with reading(f"{name} of {where}"):
        values = np.asarray(array[:])
    found = tuple(_year(value, str(array.attrs.get("units", "")), where) for value in values)
    if len(set(found)) < len(found):
        raise ReadError(
            f"{where} has a year twice",
            got=", ".join(map(str, found))[:120],
            expected="one layer of vectors for each year",
            remedy="write those of one date into a store of their own",
        )
    return found


def read_axis(
    group: zarr.Group, name: str, size: int, where: str
) -> npt.NDArray[np.float64] | None:
    """Coordinates along an axis; None where the group has none that are numbers.

    Raises
    ------
    ReadError
        Where they are not as many as pixels, or cannot be decoded.
    """
    with reading(f"{name} of {where}"):
        array: Any = group.get(name)
    if not isinstance(array, zarr.Array) or array.dtype.kind not in "iuf" or size > _PLACES:
        return None
    if array.shape != (size,):
        raise ReadError(
            f"{name} of {where} is of another length than the vectors",
            got=array.shape,
            expected=(size,),
        )
    _require_decodable(array, f"{name} of {where}")
    with reading(f"{name} of {where}"):
        return np.asarray(array[:], np.float64)


def _year(value: Any, units: str, where: str) -> int:
    """The year of a moment of time: a date, a year itself, or so many units since a day (CF)."""
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[Y]").astype(int)) + 1970
    since = _SINCE.match(units)
    if since is None:
        if 1900 <= int(value) < 2200:
            return int(value)
    else:
        with suppress(ValueError, OverflowError):
            start = datetime.fromisoformat(since[2].strip()[:19])
            return (start + timedelta(seconds=int(value) * _SECONDS[since[1]])).year
    raise ReadError(
        f"{where} has a time that gives no year",
        got=f"{value} {units}".strip()[:80],
        expected="a year, or units as 'days since 1970-01-01'",
    )
