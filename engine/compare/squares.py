"""Pixels of a map counted against a reference, by squares of ground, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from engine.errors import MetricError
from engine.runs.fold import Fold
from engine.runs.layers import RasterLayer, leaves_of
from engine.runs.tables import Block, Column, Table

__all__ = ["Squares", "count_squares", "onto", "require_places", "some_values"]

_BLOCK = 2048  # pixels down and across that are looked at at once
_GROUND = 1000.0  # metres of a block of ground that is drawn as a whole

Positions = Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]
"""Values of a raster -> positions of classes, -1 where it says nothing."""


class Squares(NamedTuple):
    """Counts (n, n), rows reference, columns map, by square of ground; mapped pixels without
    reference."""

    squares: dict[str, npt.NDArray[np.int64]]
    silent: int


def onto(mine: rasterio.DatasetReader, other: rasterio.DatasetReader) -> WarpedVRT:
    """Another raster on the map's grid; NaN outside of it, at its nodata and where it is masked."""
    return WarpedVRT(
        other,
        crs=mine.crs,
        transform=mine.transform,
        height=mine.height,
        width=mine.width,
        resampling=Resampling.nearest,
        dtype="float64",
        nodata=np.nan,
    )


def require_places(*files: rasterio.DatasetReader) -> None:
    """Refuse rasters that do not say where they lie, and a map, the first of them, in degrees.

    Raises
    ------
    MetricError
    """
    for file in files:
        if file.crs is None:
            raise MetricError("a raster does not say which CRS it is in", got=file.name)
    if files[0].crs.is_geographic:
        raise MetricError(
            "the map is in degrees", got=files[0].name, expected="a projected CRS, as natmap's are"
        )


def count_squares(
    mine: rasterio.DatasetReader,
    views: Sequence[WarpedVRT],
    n: int,
    of_map: Positions,
    of_reference: Positions,
) -> Squares:
    """Count pixels by what map and reference say of them.

    Parameters
    ----------
    mine : the map.
    views : the reference on the map's grid, then rasters that are not 0 where pixels count.
    n : classes.
    of_map, of_reference : what their values mean.
    """
    layers = {f"said-{k}": RasterLayer(view) for k, view in enumerate(views)}
    others = list(layers)

    def part(block: Block) -> Table:
        found = np.where(block.inside("map"), of_map(block.read("map")), -1)
        mapped = found >= 0
        if not mapped.any():
            return {"pairs": np.zeros((n, n), np.int64), "silent": np.array(0)}
        truth = of_reference(block.read(others[0]))
        known = truth >= 0
        for name in others[1:]:
            places = block.read(name)
            known &= np.isfinite(places) & (places != 0)
        both = mapped & known
        pairs = np.bincount(truth[both] * n + found[both], minlength=n * n).reshape(n, n)
        return {"pairs": pairs, "silent": np.array((mapped & ~known).sum())}

    side = max(round(_GROUND / mine.res[0]), 1) * mine.res[0]
    positions = tuple(range(n))
    pairs = Column("pairs", "int64", (("reference", positions), ("map", positions)))
    fold = Fold("squares", (), (pairs, Column("silent", "int64")), part, leaf=side)
    squares, silent = {}, 0
    for place, table in leaves_of(fold, {"map": RasterLayer(mine), **layers}):
        silent += int(table["silent"])
        if table["pairs"].any():
            squares[str(place)] = table["pairs"]
    return Squares(squares, silent)


def some_values(
    mine: rasterio.DatasetReader, view: WarpedVRT, of_map: Positions, of_reference: Positions
) -> list[float]:
    """Values that say something, of the first part of the reference where the map has data."""
    for top in range(0, mine.height, _BLOCK):
        for left in range(0, mine.width, _BLOCK):
            height, width = min(_BLOCK, mine.height - top), min(_BLOCK, mine.width - left)
            window = Window(left, top, width, height)
            values = view.read(1, window=window)
            here = (of_map(mine.read(1, window=window)) >= 0) & (of_reference(values) >= 0)
            if here.any():
                return [float(value) for value in np.unique(values[here])]
    return []
