"""Pixels of a map counted against a reference, by squares of ground, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from scipy.sparse import csr_array

from engine.errors import MetricError
from engine.labels.rasters import onto as onto_grid
from engine.labels.rasters import read_shown, require_plain, require_upright
from engine.runs.fold import Fold
from engine.runs.layers import RasterLayer, leaves_of
from engine.runs.tables import Block, Column, Table

__all__ = [
    "MapLayer",
    "Positions",
    "Squares",
    "Strata",
    "count_squares",
    "onto",
    "positions_of",
    "require_places",
    "some_values",
]

_BLOCK = 2048  # pixels down and across that are looked at at once
_GROUND = 1000.0  # metres of a block of ground that is drawn as a whole
_SHOWN = 10  # codes that an error lists

Positions = Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]
"""Values of a raster -> positions of classes, -1 where it says nothing."""


class Strata(NamedTuple):
    """A raster on the map's own grid, by which agreement is told apart.

    `of` says to which of `n` strata a value belongs, -1 to none; it is given the open raster.
    """

    path: Path
    n: int
    of: Callable[[rasterio.DatasetReader], Positions]


class Squares(NamedTuple):
    """Counts by square of ground, sparse: a row (n * n) each, of n rows reference, columns map.

    `silent` are pixels of the map of which the reference says nothing, `missed` those that it knows
    and the map does not, `square_km` is one's area. `strata` are pixels that both know, and those
    on which they agree: (strata, 2).
    """

    squares: csr_array
    silent: int
    missed: int
    square_km: float
    strata: dict[str, npt.NDArray[np.int64]]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Of all squares: (n, n)."""
        n = math.isqrt(self.squares.shape[1])
        return np.asarray(self.squares.sum(axis=0), np.int64).reshape(n, n)


def positions_of(
    values: npt.NDArray[Any], codes: Sequence[int], silent: Sequence[float], whose: str
) -> npt.NDArray[np.int64]:
    """Position of each code among the classes, -1 where it says nothing.

    Parameters
    ----------
    values : of any shape.
    codes : of the classes.
    silent : values that say nothing, as NaN does.
    whose : for the message.

    Raises
    ------
    MetricError
        Where there are other codes.
    """
    known = np.isfinite(values) & ~np.isin(values, silent)
    strange = known & ~np.isin(values, codes)
    if strange.any():
        told = ", ".join(f"{code:g}" for code in np.unique(values[strange])[:_SHOWN])
        raise MetricError(
            f"{whose} holds codes that are not classes of the map",
            got=told,
            expected=", ".join(map(str, codes)),
            remedy="say which codes of the reference say nothing: --unknown 0,15",
        )
    order = np.argsort(codes)
    place = np.searchsorted(np.array(codes)[order], np.where(known, values, codes[0]))
    return np.where(known, order[np.minimum(place, len(codes) - 1)], -1).astype(np.int64)


class MapLayer(RasterLayer):
    """A map on its own grid; NaN where its mask hides it."""

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """A window of the band: (y, x)."""
        return read_shown(self.file, ((rows.start, rows.stop), (cols.start, cols.stop)))


def onto(mine: rasterio.DatasetReader, other: rasterio.DatasetReader) -> WarpedVRT:
    """Another raster on the map's grid; NaN outside of it, at its nodata and where it is masked."""
    return onto_grid(other, mine.crs, mine.transform, (mine.height, mine.width))


def require_places(*files: rasterio.DatasetReader, metres: bool) -> None:
    """Refuse rasters that do not say where they lie, and a map, the first of them, in degrees."""
    for file in files:
        if file.crs is None:
            raise MetricError("a raster does not say which CRS it is in", got=file.name)
    if metres and files[0].crs.is_geographic:
        raise MetricError(
            "the map is in degrees", got=files[0].name, expected="a projected CRS, as natmap's are"
        )


def count_squares(
    product: str | Path,
    reference: str | Path,
    within: str | Path | None,
    n: int,
    of_map: Callable[[rasterio.DatasetReader], Positions],
    of_reference: Callable[[rasterio.DatasetReader], Positions],
    *,
    cells: int | None = None,
    strata: Mapping[str, Strata] | None = None,
) -> Squares:
    """Count pixels of a map by what it and a reference say of them.

    Parameters
    ----------
    product : raster of the map.
    reference : raster; on another grid its nearest pixel counts.
    within : raster; only pixels where it is not 0.
    n : classes.
    of_map, of_reference : of the open rasters, what their values mean; may refuse them.
    cells : pixels along a square; by default those of 1 km. Where it is given the map may be in
        degrees, and `Squares.missed` is counted.
    strata : by name.

    Raises
    ------
    MetricError
        Where a raster cannot be read, or map and reference know no pixel together.
    """
    strata = strata or {}
    try:
        with ExitStack() as files:

            def opened(path: str | Path) -> rasterio.DatasetReader:
                return files.enter_context(rasterio.open(path))

            mine, theirs = opened(product), opened(reference)
            others = [] if within is None else [opened(within)]
            for file in (mine, theirs, *others):
                require_plain(file, MetricError)
            meaning = {"map": of_map(mine), "reference": of_reference(theirs)}
            require_places(mine, theirs, *others, metres=cells is None)
            require_upright(mine, MetricError)
            layers: dict[str, RasterLayer] = {"map": MapLayer(mine)}
            for name, file in zip(("reference", "within"), (theirs, *others), strict=False):
                layers[name] = RasterLayer(files.enter_context(onto(mine, file)))
            for name, each in strata.items():
                file = opened(each.path)
                layers[name], meaning[name] = RasterLayer(file), each.of(file)
            sizes = {name: each.n for name, each in strata.items()}
            # maps of feet are judged in metres, too; those in degrees have squares of cells
            unit = mine.crs.linear_units_factor[1] if mine.crs.is_projected else 1.0
            side = max(round(_GROUND / (mine.res[0] * unit)), 1) if cells is None else cells
            found = _count(layers, meaning, n, sizes, side, count_missed=cells is not None)
            square_km = abs(mine.res[0] * mine.res[1]) * unit**2 / 1e6
    except rasterio.errors.RasterioError as error:
        raise MetricError("a raster cannot be read", got=error) from error
    squares, silent, missed, parts = found
    if not squares.shape[0]:
        remedy = "check that both cover one place, and which codes say nothing"
        raise MetricError(
            "map and reference know no pixel together",
            got=f"{silent} pixels of the map, none labelled"
            if not missed
            else f"{missed} labelled pixels, none mapped",
            remedy=f"evaluate --layer classes is not masked; or {remedy}" if missed else remedy,
        )
    return Squares(squares, silent, missed, square_km, parts)


def _count(
    layers: Mapping[str, RasterLayer],
    meaning: Mapping[str, Positions],
    n: int,
    strata: Mapping[str, int],
    side: int,
    *,
    count_missed: bool,
) -> tuple[csr_array, int, int, dict[str, npt.NDArray[np.int64]]]:
    """Counts by square; pixels without reference, without map; counts by stratum."""
    positions, resolution = tuple(range(n)), layers["map"].resolution
    columns = [
        Column("pairs", "int64", (("reference", positions), ("map", positions))),
        Column("silent", "int64"),
        Column("missed", "int64"),
    ]
    for name, size in strata.items():
        columns.append(Column(name, "int64", (("stratum", tuple(range(size))), ("agree", (0, 1)))))
    nothing = {c.name: np.zeros(c.shape, np.int64) for c in columns}

    def part(block: Block) -> Table:
        there = block.inside("map")
        found = np.where(there, meaning["map"](block.read("map")), -1)
        mapped = found >= 0
        if not count_missed and not mapped.any():
            return nothing
        truth = meaning["reference"](block.read("reference"))
        known = there & (truth >= 0)
        if "within" in layers:
            places = block.read("within")
            known &= np.isfinite(places) & (places != 0)
        both = mapped & known
        pairs = np.bincount(truth[both] * n + found[both], minlength=n * n).reshape(n, n)
        table = {
            "pairs": pairs,
            "silent": np.array((mapped & ~known).sum()),
            "missed": np.array((known & ~mapped).sum()),
        }
        for name, size in strata.items():
            stratum = meaning[name](block.read(name))
            here, agree = both & (stratum >= 0), found == truth
            some = [np.bincount(stratum[h], minlength=size) for h in (here, here & agree)]
            table[name] = np.stack(some, axis=-1)
        return table

    fold = Fold("squares", (), tuple(columns), part, leaf=side * resolution)
    silent, missed = 0, 0
    parts = {name: nothing[name].copy() for name in strata}
    places: list[npt.NDArray[np.intp]] = []  # of a square's pairs most are 0: what is not is kept
    counts: list[npt.NDArray[np.int64]] = []
    for _, table in leaves_of(fold, layers):
        silent += int(table["silent"])
        missed += int(table["missed"])
        flat = table["pairs"].ravel()
        if (there := np.flatnonzero(flat)).size:
            places.append(there)
            counts.append(flat[there])
        for name, total in parts.items():
            total += table[name]
    ends = np.cumsum([0, *map(len, places)])
    held = [np.concatenate(arrays or [np.zeros(0, int)]) for arrays in (counts, places)]
    squares = csr_array((*held, ends), shape=(len(places), n * n))
    return squares, silent, missed, parts


def some_values(
    product: str | Path,
    reference: str | Path,
    of_map: Callable[[rasterio.DatasetReader], Positions],
    of_reference: Positions,
) -> list[float]:
    """Values that say something, of the first part of the reference where the map has data."""
    with ExitStack() as files:
        mine, theirs = (files.enter_context(rasterio.open(path)) for path in (product, reference))
        view = files.enter_context(onto(mine, theirs))
        meant = of_map(mine)
        for top in range(0, mine.height, _BLOCK):
            for left in range(0, mine.width, _BLOCK):
                height, width = min(_BLOCK, mine.height - top), min(_BLOCK, mine.width - left)
                window = Window(left, top, width, height)
                values = view.read(1, window=window)
                here = meant(read_shown(mine, window)) >= 0
                here &= of_reference(values) >= 0
                if here.any():
                    return [float(value) for value in np.unique(values[here])]
    return []
