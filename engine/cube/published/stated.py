"""What somebody's Zarr says of its vectors, held against its arrays before any of them is read."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr

from engine.cube.published.arrays import Cube, dimensions_of, read_axis
from engine.errors import ReadError

__all__ = [
    "entries_of",
    "fill_of",
    "require_names",
    "require_places",
    "require_said",
    "scalar_of",
    "whole_years",
]

_MOST = 4096  # channels
_LONGEST = 100  # letters of a channel's name
_OFF = 0.51  # of a pixel, by which a coordinate may be off the centre: some name corners
_ABSURD = 1e30  # a vector has no such number, and float32 ends soon after


def require_said(said: Mapping[str, Any], cube: Cube, where: str, dimensions: Any) -> None:
    """Refuse arrays that are not as the attributes say.

    Raises
    ------
    ReadError
    """
    count = cube.size("channel")
    told = said.get("geoemb:data_type", str(cube.array.dtype))
    shape = said.get("spatial:shape")
    found = [cube.size("y"), cube.size("x")]
    for what, got, expected in (
        ("dimensions", count, dimensions),
        ("data type", str(cube.array.dtype), told),
        ("shape", found, found if shape is None else list(entries_of(shape))),
        ("registration", said.get("spatial:registration", "pixel"), "pixel"),
    ):
        if got != expected:
            raise ReadError(
                f"{where} is of another {what} than it says"
                if what != "registration"
                else f"{where} is registered to the centres of pixels",
                got=got,
                expected=expected,
            )
    if said.get("geoemb:type", "pixel") not in ("pixel", "chip"):
        raise ReadError(
            f"{where} is of a type that is not known",
            got=said["geoemb:type"],
            expected="pixel or chip",
        )
    layout = said.get("geoemb:chip_layout")
    if isinstance(layout, Mapping) and layout.get("layout_type") != "regular_grid":
        raise ReadError(
            f"chips of {where} lie on no grid",
            got=layout.get("layout_type"),
            expected="regular_grid",
        )
    if not 1 <= count <= _MOST:
        raise ReadError(f"{where} has too many channels", got=count, expected=f"at most {_MOST}")


def require_places(group: zarr.Group, cube: Cube, transform: Sequence[Any], where: str) -> None:
    """Refuse coordinates along y and x that are not those of the transform.

    Where both are there and differ, nobody knows which is right: rows may run the other way, or
    be unevenly spaced.

    Raises
    ------
    ReadError
    """
    step = {"x": float(transform[0]), "y": float(transform[4])}
    first = {"x": float(transform[2]), "y": float(transform[5])}
    for axis in ("x", "y"):
        name = dimensions_of(cube.array)[cube.axes[axis]]
        values = read_axis(group, name, cube.size(axis), where)
        if values is None:
            continue
        centres = first[axis] + (np.arange(len(values)) + 0.5) * step[axis]
        off = np.abs(values - centres) / abs(step[axis])
        wrong = np.flatnonzero(~(off <= _OFF))  # NaN as well
        if len(wrong):
            k = int(wrong[0])
            raise ReadError(
                f"coordinates {name} of {where} are not those of its transform",
                got=f"{values[k]:.12g} of pixel {k}, {len(wrong)} of {len(values)} differ",
                expected=f"{centres[k]:.12g}",
                remedy="correct spatial:transform, or the coordinates: rows may run the other "
                "way, or be unevenly spaced",
            )


def scalar_of(scale: Mapping[str, Any], cube: Cube, where: str) -> tuple[float, float]:
    """Scale and offset of all codes.

    Raises
    ------
    ReadError
        Where whole numbers have none, or the numbers are not finite, 0, or absurd.
    """
    whole = cube.array.dtype.kind in "iu"
    if whole and "scale" not in scale:
        raise ReadError(
            f"{where} does not say by what its codes are scaled",
            got=dict(scale),
            expected="geoemb:quantization with scale: {type: scalar, scale: NUMBER}",
        )
    numbers = [scale.get("scale", 1.0), scale.get("offset", 0.0)]
    plain = [isinstance(n, int | float) and not isinstance(n, bool) for n in numbers]
    if not all(plain) or not all(map(math.isfinite, numbers)):
        raise ReadError(
            f"{where} has a scale that is not a finite number",
            got=numbers,
            expected="finite numbers",
        )
    factor, offset = (float(n) for n in numbers)
    limits = np.iinfo(cube.array.dtype) if whole else None
    most = 1.0 if limits is None else float(max(-int(limits.min), int(limits.max)))
    if not 1 / _ABSURD <= abs(factor) * most <= _ABSURD or abs(offset) > _ABSURD:
        raise ReadError(
            f"{where} has an absurd scale",
            got=f"scale {factor:g}, offset {offset:g}",
            expected=f"vectors of numbers within {_ABSURD:g}, and not all of them 0",
        )
    _require_no_other(cube, (factor, offset))
    return factor, offset


def _require_no_other(cube: Cube, used: tuple[float, float]) -> None:
    """Refuse the scale of another convention (CF) beside, or in place of, the one that is used."""
    attrs = cube.array.attrs
    other = attrs.get("scale_factor", 1.0), attrs.get("add_offset", 0.0)
    if other not in ((1.0, 0.0), used):
        raise ReadError(
            f"{cube.what} has a scale of another convention",
            got=f"scale_factor {other[0]}, add_offset {other[1]}",
            expected=f"none, or scale {used[0]:g} and offset {used[1]:g}",
            remedy="state it in geoemb:quantization, as scale: {type: scalar, scale: …}",
        )


def fill_of(cube: Cube) -> float | None:
    """The number that an array declares for no data; None where it declares none.

    A number, a word for one that JSON lacks, or as xarray writes floats: base64 of eight bytes.

    Raises
    ------
    ReadError
        Where it is something else.
    """
    attrs = cube.array.attrs
    told = attrs.get("_FillValue", attrs.get("missing_value"))
    if isinstance(told, list) and len(told) == 1:
        told = told[0]
    if told is None:
        return None
    if isinstance(told, int | float) and not isinstance(told, bool):
        return float(told)
    if isinstance(told, str):
        try:
            return float(told.replace("Infinity", "inf"))
        except ValueError:
            found = _decoded(told)
            if found is not None:
                return found
    raise ReadError(
        f"{cube.what} declares a fill value that is not a number",
        got=repr(told)[:80],
        expected="a number, NaN, or base64 of a float64",
    )


def _decoded(text: str) -> float | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return float(struct.unpack("<d", raw)[0]) if len(raw) == 8 else None


def require_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Refuse names of channels that no model card can have.

    Raises
    ------
    ReadError
    """
    odd = [
        name
        for name in names
        if not name.strip() or len(name) > _LONGEST or "@" in name or not name.isprintable()
    ]
    if odd:
        raise ReadError(
            f"{where} has channels with names that cannot be used",
            got=", ".join(repr(name)[:40] for name in odd[:5]),
            expected=f"names that can be shown, without @, of {_LONGEST} signs or fewer",
        )
    return tuple(names)


def whole_years(said: Mapping[str, Any], years: tuple[int, ...], where: str) -> frozenset[int]:
    """Years that a zone has in whole; a store under way lists them in ``years_complete``.

    Raises
    ------
    ReadError
        Where that is no list of years.
    """
    told = said.get("years_complete")
    if told is None:
        return frozenset(years)
    entries = entries_of(told)
    if not isinstance(told, list | tuple) or not all(map(_is_year, entries)):
        raise ReadError(
            f"{where} does not say which of its years are whole",
            got=f"years_complete: {told!r}"[:120],
            expected="a list of years, as [2022, 2023]",
        )
    return frozenset(years) & {int(year) for year in entries}


def _is_year(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.isdigit()
    return isinstance(value, int) and not isinstance(value, bool)


def entries_of(value: Any) -> list[Any]:
    """A list of JSON; empty where the value is none."""
    return list(value) if isinstance(value, list | tuple) else []
