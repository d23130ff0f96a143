"""Embeddings in Zarr: the convention ``geoemb:``, TESSERA's zones, AlphaEarth's mosaic.

The convention: https://github.com/geo-embeddings/embeddings-zarr-convention (v1). TESSERA's
layouts: one group ``utm30`` for a zone, northings south of the equator negative, or one ``30N``
for each half of it, reaching some rows beyond the equator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import zarr

from engine.cube.published.arrays import Cube, cube_of, dimensions_of, reading, years_of
from engine.cube.published.reader import Piece, Published
from engine.cube.published.rules import (
    ALPHAEARTH,
    PER_PIXEL,
    TESSERA,
    Decoded,
    Linear,
    PerPixel,
    Rule,
)
from engine.cube.published.sheet import Box, Sheet, known_crs, north_up, zone_home
from engine.cube.published.stated import (
    entries_of,
    fill_of,
    require_names,
    require_places,
    require_said,
    scalar_of,
    whole_years,
)
from engine.errors import ReadError

__all__ = ["published_zarr"]

_GEOEMB = "61c12cc5-0e28-4056-999a-480cf3fb7e4c"
_ZONE = re.compile(r"(?:utm(\d\d)|(\d\d)([NS]))")
_MODEL = 2000  # letters of a model's name or address
_UTM = re.compile(r"EPSG:32([67])(\d\d)")
_BESIDE = 1.0  # degrees that tiles of a zone reach into its neighbours, at most


def published_zarr(root: zarr.Group, title: str, *, mosaic: bool = False) -> Published:
    """Embeddings of an open Zarr store.

    Parameters
    ----------
    root : of the store.
    title : names it.
    mosaic : it is AlphaEarth's, whatever its attributes say: some copies have none.

    Raises
    ------
    ReadError
        Where it is not what it says, or says too little.
    """
    listed = root.store.supports_listing or root.metadata.consolidated_metadata is not None
    with reading(title):
        said = dict(root.attrs)
        zones = sorted(
            name for name in (root.group_keys() if listed else ()) if _zone_of(name) is not None
        )  # a listing: the convention has no other way to say which zones there are
    itself = None if zones or _zone_of(title) is None else title
    if not listed and not mosaic and itself is None and "embeddings" not in root:
        raise ReadError(
            f"{title} does not say which groups it has, and its server lists none",
            expected="consolidated metadata, or an array embeddings at its root",
            remedy="name the group of one zone, as .../utm33",
        )
    if not mosaic and not zones and itself is None and "geoemb:dimensions" not in said:
        known = any(_is_geoemb(entry) for entry in entries_of(said.get("zarr_conventions")))
        raise ReadError(
            f"{title} does not follow the convention geoemb:",
            got="it is named, and says nothing" if known else "no attribute geoemb:dimensions",
            expected="geoemb:dimensions, geoemb:type and the like at its root",
        )
    if not zones:
        return _published(title, [_group(root, {}, title, itself, mosaic)])
    with reading(title):
        groups = {name: root[name] for name in zones}
    return _published(
        title,
        [
            _group(group, said, f"{name} of {title}", name, mosaic)
            for name, group in groups.items()
            if isinstance(group, zarr.Group)
        ],
    )


@dataclass(frozen=True)
class _Group:
    """A group with vectors, checked."""

    piece: Piece
    channels: tuple[str, ...]
    model: str


def _published(title: str, groups: Sequence[_Group]) -> Published:
    channels = groups[0].channels
    for group in groups[1:]:
        if group.channels != channels:
            raise ReadError(
                f"zones of {title} differ in their channels",
                got=f"{group.piece.name}: {len(group.channels)}",
                expected=f"{len(channels)} as {groups[0].piece.name}",
            )
    model = groups[0].model
    for group in groups[1:]:
        if group.model != model:
            raise ReadError(
                f"zones of {title} are of different models",
                got=f"{group.piece.name}: {group.model or 'not said'}",
                expected=f"{model or 'not said'}, as {groups[0].piece.name}",
                remedy="name the group of one zone",
            )
    return Published(title, channels, [group.piece for group in groups], model)


def _group(
    group: zarr.Group, above: Mapping[str, Any], where: str, zone: str | None, mosaic: bool
) -> _Group:
    with reading(where):
        said = {**above, **dict(group.attrs)}
    cube = cube_of(group, "embeddings", where)
    if "channel" not in cube.axes:
        raise ReadError(
            f"{cube.what} has no axis of channels",
            got=", ".join(dimensions_of(cube.array)),
            expected="band or feature",
        )
    count = cube.size("channel")
    told = 64 if mosaic else said.get("geoemb:dimensions", count)  # zones may not say it
    require_said(said, cube, where, told)
    shape = cube.size("y"), cube.size("x")
    crs = known_crs(
        said.get("proj:code") or said.get("proj:wkt2") or said.get("proj:projjson"), where
    )
    transform = said.get("spatial:transform", ())
    corner, step, flipped = north_up(transform, shape, where)
    require_places(group, cube, transform, where)
    home = _home(zone, crs, where)
    rule, scales = _rule(group, said, cube, where, zone, mosaic)
    years = years_of(group, cube, where)

    def open_year(year: int) -> Sheet:
        load = partial(_load, cube, scales, rule, years.index(year) if years else 0, flipped)
        return Sheet(where, crs, corner, step, shape, count, load, home)

    bounds = None if home is None else _widened(home)
    channels = _channels(group, said, cube, rule, where)
    kept = whole_years(said, years, where)
    model = said.get("geoemb:model")
    told = model[:_MODEL] if isinstance(model, str) else ""
    return _Group(Piece(where, kept if years else None, bounds, open_year), channels, told)


def _load(
    cube: Cube, scales: Cube | None, rule: Rule, time: int, flipped: bool, rows: slice, cols: slice
) -> Decoded:
    if flipped:
        height = cube.size("y")
        rows = slice(height - rows.stop, height - rows.start)
    codes = cube.read(time, rows, cols)
    found, state = rule(codes, None if scales is None else scales.read(time, rows, cols))
    return (found[:, ::-1], state[::-1]) if flipped else (found, state)


def _rule(
    group: zarr.Group,
    said: Mapping[str, Any],
    cube: Cube,
    where: str,
    zone: str | None,
    mosaic: bool,
) -> tuple[Rule, Cube | None]:
    """How codes are decoded, and the array of scales where there is one."""
    told = said.get("geoemb:quantization")
    told = told if isinstance(told, Mapping) else {}
    method, scale = told.get("method"), told.get("scale")
    if zone is not None and not told and "scales" in group:
        scale = {"type": "array", "array_name": "scales"}
    scale = scale if isinstance(scale, Mapping) else {}
    whole = cube.array.dtype.kind in "iu"
    if mosaic or method == "signed_square":
        if str(cube.array.dtype) != "int8":
            raise ReadError(
                f"{cube.what} is not as AlphaEarth's", got=cube.array.dtype, expected="int8"
            )
        return ALPHAEARTH, None
    if scale.get("type") == "array":
        scales = cube_of(group, scale.get("array_name"), where)
        _require_beside(cube, scales)
        return _per_pixel(scale, zone, where, scales), scales
    if scale.get("type") == "scalar" or (not whole and method in (None, "none", "linear")):
        factor, offset = scalar_of(scale, cube, where)
        return Linear(factor, offset, fill_of(cube)), None
    raise ReadError(
        f"{where} does not say in a known way what its codes mean",
        got=f"{cube.array.dtype}, method {method!r}, scale {scale.get('type')!r}"[:200],
        expected="geoemb:quantization with a scale of type scalar or array, or method "
        "signed_square; floats need none",
    )


def _per_pixel(scale: Mapping[str, Any], zone: str | None, where: str, scales: Cube) -> PerPixel:
    """TESSERA's rule in zones; what NaN is there follows from what else says no data."""
    nodata = scale.get("nodata")
    if nodata is None and zone is None:
        nodata = fill_of(scales)
    try:
        number = math.nan if nodata is None else float(nodata)
    except (TypeError, ValueError) as error:
        raise ReadError(
            f"{where} declares a nodata scale that is not a number",
            got=repr(nodata)[:80],
            expected="a number, NaN or +inf",
        ) from error
    if zone is not None:
        # in the store of halves of zones NaN is what was never computed
        water = (nodata is None and zone.startswith("utm")) or math.isinf(number)
        return TESSERA if water else PerPixel(most=TESSERA.most)
    return PerPixel(nodata=number) if math.isfinite(number) else PER_PIXEL


def _require_beside(cube: Cube, scales: Cube) -> None:
    """Refuse scales of other places or times than the vectors'."""
    axes = [axis for axis in ("time", "y", "x") if axis in cube.axes]
    got = {axis: scales.size(axis) for axis in axes if axis in scales.axes}
    expected = {axis: cube.size(axis) for axis in axes}
    if got != expected or "channel" in scales.axes or scales.array.dtype.kind != "f":
        raise ReadError(
            f"{scales.what} are not those of {cube.what}",
            got=f"{got} of {scales.array.dtype}",
            expected=f"{expected} of floats",
        )


def _channels(
    group: zarr.Group, said: Mapping[str, Any], cube: Cube, rule: Rule, where: str
) -> tuple[str, ...]:
    """Names of the channels: the store's own, else A00 and T000 as everybody has them."""
    count = cube.size("channel")
    axis = group.get(dimensions_of(cube.array)[cube.axes["channel"]])
    names = entries_of(axis.attrs.get("names")) if isinstance(axis, zarr.Array) else []
    if len(set(map(str, names))) == count and all(isinstance(name, str) for name in names):
        return require_names(names, where)
    if rule is ALPHAEARTH:
        return tuple(f"A{k:02d}" for k in range(count))
    letter = "T" if "tessera" in str(said.get("geoemb:model", "")).lower() else "E"
    return tuple(f"{letter}{k:03d}" for k in range(count))


def _zone_of(name: str) -> tuple[int, str] | None:
    found = _ZONE.fullmatch(name)
    if found is None or not 1 <= int(found[1] or found[2]) <= 60:
        return None
    return int(found[1] or found[2]), found[3] or ""


def _home(zone: str | None, crs: str, where: str) -> Box | None:
    """Where a zone's group goes before its neighbours'.

    Raises
    ------
    ReadError
        Where its CRS is that of another zone.
    """
    known = None if zone is None else _zone_of(zone)
    if known is None:
        return None
    number, half = known
    found = _UTM.fullmatch(crs)
    south = half == "S"
    if found is None or int(found[2]) != number or (found[1] == "7") != south:
        raise ReadError(
            f"{where} has the CRS of another place",
            got=crs,
            expected=f"EPSG:32{7 if south else 6}{number:02d}",
        )
    return zone_home(number, half)


def _widened(home: Box) -> Box:
    """A zone and what its tiles may reach of the others; past 180 west is beyond east."""
    west, east = ((lon + 180.0) % 360.0 - 180.0 for lon in (home[0] - _BESIDE, home[2] + _BESIDE))
    return west, home[1] - _BESIDE, east, home[3] + _BESIDE


def _is_geoemb(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("uuid") == _GEOEMB
