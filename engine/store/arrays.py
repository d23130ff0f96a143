"""What a store holds: the form of each array, and the time axis that all stores share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np

from engine.errors import GridError, RecipeError

__all__ = ["DAYS", "FIRST_DAY", "ArraySpec", "day_index", "index_day", "nodata_of"]

FIRST_DAY = date(2015, 1, 1)
"""Index 0 of every time axis; Sentinel-2A was launched in June 2015."""

DAYS = 30 * 365 + 8
"""Length of every time axis, 2015 to 2044. Unwritten days cost nothing; growing would (an
Icechunk session cannot be rebased over another's resize)."""


def day_index(day: date) -> int:
    """Position of a solar day on the time axis.

    Raises
    ------
    RecipeError
        Where the day is not on the axis.
    """
    index = (day - FIRST_DAY).days
    if not 0 <= index < DAYS:
        raise RecipeError(
            "the day is not on the store's time axis",
            got=day,
            expected=f"{FIRST_DAY} to {index_day(DAYS - 1)}",
        )
    return index


def index_day(index: int) -> date:
    """The solar day at a position of the time axis."""
    return FIRST_DAY + timedelta(days=index)


def nodata_of(dtype: str, fill: float, attrs: Mapping[str, Any]) -> float | None:
    """The value of an array that means no data; None where every value means something.

    It is what the array declares (``_FillValue``). One that declares none was made before all did:
    then it is what unwritten pixels read as, of classes where they do not list it as a flag, of
    percent where it lies above 100, of scores where it is NaN. Counts have none: 0 is a count.

    Parameters
    ----------
    dtype : as numpy writes it.
    fill : what unwritten pixels read as.
    attrs : of the array.
    """
    if "_FillValue" in attrs:
        return float(attrs["_FillValue"])
    if np.issubdtype(np.dtype(dtype), np.floating):
        return math.nan if math.isnan(fill) else None
    if "flag_values" in attrs:
        return None if fill in attrs["flag_values"] else fill
    return fill if attrs.get("units") == "percent" and fill > 100 else None


@dataclass(frozen=True)
class ArraySpec:
    """The form of one array of the store; its last two dims are y and x, but of an area's.

    Parameters
    ----------
    path : str
        ``group/name``, as in ``composite/bands``.
    dtype : str
        As numpy writes it.
    resolution : float
        Of y and x, in metres.
    chunk : int
        Side of a chunk in pixels; must divide the tile.
    fill : number
        What unwritten pixels read as.
    daily : bool
        True where the first dim is ``time``, one index per day of the fixed axis, one per chunk.
    leading : tuple of (dim, labels), optional
        Dims between time and y with the labels of their coordinate, as in
        ``(("band", ("B02", "B03")),)``; whole in a chunk.
    outside : number, optional
        What pixels of a computed tile read as where the stage is not defined; by default `fill`.
    attrs : mapping, optional
        Attributes of the array (units, flags, CF packing). ``_FillValue`` is added to them where
        `fill` means no data, as `nodata_of` decides.
    codec : {"zstd", "lz4"}
        lz4 takes a third of zstd's time both ways, for 4 to 6 % more space on real scenes.
    extent : {"pixels", "blocks", "area"}
        What its values are of. Blocks: of squares of ground of `resolution` metres each, which may
        be as large as a tile and are not cut at the area's border. Area: of all of it, so that
        there is no y and x, and the array is one chunk.
    """

    path: str
    dtype: str
    resolution: float
    chunk: int
    fill: float
    daily: bool = False
    leading: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    outside: float | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    codec: Literal["zstd", "lz4"] = "zstd"
    extent: Literal["pixels", "blocks", "area"] = "pixels"

    def __post_init__(self) -> None:
        if self.path.count("/") != 1:
            raise GridError("an array's path is group/name", got=self.path)
        np.dtype(self.dtype)

    @property
    def group(self) -> str:
        """The group the array lies in."""
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        """The array's name in its group."""
        return self.path.partition("/")[2]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dims, outermost first."""
        places = () if self.extent == "area" else ("y", "x")
        return (("time",) if self.daily else ()) + tuple(d for d, _ in self.leading) + places

    @property
    def lead_shape(self) -> tuple[int, ...]:
        """Lengths of the dims between time and y."""
        return tuple(len(labels) for _, labels in self.leading)

    def chunk_side(self, tile_pixels: int) -> int:
        """The chunk's side, made sure to divide the tile: two tiles never write one chunk.

        Raises
        ------
        GridError
            Where it does not.
        """
        if self.chunk < 1 or tile_pixels % self.chunk:
            raise GridError(
                f"chunks of {self.path} do not divide the tile",
                got=f"{self.chunk} px in a tile of {tile_pixels} px",
                expected="a divisor of the tile",
                remedy="set grid.chunk to a divisor of grid.tile",
            )
        return self.chunk
