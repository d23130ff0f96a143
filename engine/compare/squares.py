"""Pixels of a map counted against a reference, by squares of ground, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
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

__all__ = ["Positions", "Squares", "count_squares", "some_values"]

_BLOCK = 2048  # pixels down and across that are looked at at once
_GROUND = 1000.0  # metres of a block of ground that is drawn as a whole

Positions = Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]
"""Values of a raster -> positions of classes, -1 where it says nothing."""


class Squares(NamedTuple):
    """Counts (n, n), rows reference, columns map, by square of ground.

    `silent` are pixels of the map of which the reference says nothing, `square_km` is one's area.
    """

    squares: dict[str, npt.NDArray[np.int64]]
    silent: int
    square_km: float

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Of all squares."""
        found: npt.NDArray[np.int64] = np.sum(list(self.squares.values()), axis=0)
        return found


def _onto(mine: rasterio.DatasetReader, other: rasterio.DatasetReader) -> WarpedVRT:
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


def _require_places(*files: rasterio.DatasetReader) -> None:
    """Refuse rasters that do not say where they lie, and a map, the first of them, in degrees."""
    for file in files:
        if file.crs is None:
            raise MetricError("a raster does not say which CRS it is in", got=file.name)
    if files[0].crs.is_geographic:
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
) -> Squares:
    """Count pixels of a map by what it and a reference say of them.

    Parameters
    ----------
    product : raster of the map.
    reference : raster; on another grid its nearest pixel counts.
    within : raster; only pixels where it is not 0.
    n : classes.
    of_map, of_reference : of the open rasters, what their values mean; may refuse them.

    Raises
    ------
    MetricError
        Where a raster cannot be read, or map and reference know no pixel together.
    """
    try:
        with ExitStack() as files:
            mine, theirs, *others = (
                files.enter_context(rasterio.open(path))
                for path in (product, reference, within)
                if path is not None
            )
            meaning = of_map(mine), of_reference(theirs)
            _require_places(mine, theirs)
            views = [files.enter_context(_onto(mine, other)) for other in (theirs, *others)]
            squares, silent = _count(mine, views, n, *meaning)
            square_km = abs(mine.res[0] * mine.res[1]) / 1e6
    except rasterio.errors.RasterioError as error:
        raise MetricError("a raster cannot be read", got=error) from error
    if not squares:
        raise MetricError(
            "map and reference know no pixel together",
            got=f"{silent} pixels of the map, none labelled",
            remedy="check that both cover one place, and which codes say nothing",
        )
    return Squares(squares, silent, square_km)


def _count(
    mine: rasterio.DatasetReader,
    views: Sequence[WarpedVRT],
    n: int,
    of_map: Positions,
    of_reference: Positions,
) -> tuple[dict[str, npt.NDArray[np.int64]], int]:
    """Counts by square, and pixels of the map without reference; `views` are on the map's grid."""
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
    return squares, silent


def some_values(
    product: str | Path, reference: str | Path, of_map: Positions, of_reference: Positions
) -> list[float]:
    """Values that say something, of the first part of the reference where the map has data."""
    with ExitStack() as files:
        mine, theirs = (files.enter_context(rasterio.open(path)) for path in (product, reference))
        view = files.enter_context(_onto(mine, theirs))
        for top in range(0, mine.height, _BLOCK):
            for left in range(0, mine.width, _BLOCK):
                height, width = min(_BLOCK, mine.height - top), min(_BLOCK, mine.width - left)
                window = Window(left, top, width, height)
                values = view.read(1, window=window)
                here = of_map(mine.read(1, window=window)) >= 0
                here &= of_reference(values) >= 0
                if here.any():
                    return [float(value) for value in np.unique(values[here])]
    return []
