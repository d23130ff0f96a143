"""The product mask: cells whose centre lies in one of many polygons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from engine.grid.grid import Grid, Tile

__all__ = ["Boundary", "inside"]

_SQUARE = 64  # cells down and across that are decided together where a polygon's edge is elsewhere


class Boundary:
    """Polygons that can be asked for those near a tile.

    Parameters
    ----------
    polygons : in the grid's CRS.
    grid : Grid
    """

    def __init__(self, polygons: Iterable[BaseGeometry], grid: Grid) -> None:
        self._polygons = list(polygons)
        self._tree = shapely.STRtree(self._polygons)
        self._grid = grid

    def near(self, tile: Tile, reach: float = 0.0) -> tuple[tuple[bytes, ...], bytes]:
        """The polygons within `reach` metres of a tile (WKB), and eight bytes that name them.

        They are whole: cut at the tile, an edge's slope would change in its last bits, and with
        it the side on which a centre falls. One that holds the whole tile is given as the tile's
        own square: its edge elsewhere decides nothing here.
        """
        west, south, east, north = self._grid.tile_bounds(tile)
        box = shapely.box(west - reach, south - reach, east + reach, north + reach)
        near = [self._polygons[int(i)] for i in self._tree.query(box, predicate="intersects")]
        if any(shapely.contains_properly(polygon, box) for polygon in near):
            near = [box]
        found = sorted(shapely.to_wkb(polygon) for polygon in near)
        return tuple(found), hashlib.blake2b(b"".join(found), digest_size=8).digest()


def inside(polygons: Sequence[bytes], grid: Grid, tile: Tile, cell: float) -> npt.NDArray[np.bool_]:
    """Cells of a tile whose centre lies in a polygon: bool (y, x).

    Parameters
    ----------
    polygons : WKB, from `Boundary.near`.
    grid, tile : where.
    cell : metres.
    """
    n = grid.pixels(cell)
    west, _, _, north = grid.tile_bounds(tile)
    ax, ay = grid.anchor
    # counted from the anchor, so that every layout tests the very same coordinates
    x = ax + (round((west - ax) / cell) + np.arange(n) + 0.5) * cell
    y = ay - (round((ay - north) / cell) + np.arange(n) + 0.5) * cell
    found = np.zeros((n, n), bool)
    for raw in polygons:
        polygon = shapely.from_wkb(raw)
        shapely.prepare(polygon)
        _fill(found, polygon, x, y, cell / 2)
    return found


def _fill(
    found: npt.NDArray[np.bool_],
    polygon: BaseGeometry,
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    half: float,
) -> None:
    """Mark the centres in a polygon; of squares that it holds or misses none is looked at."""
    tops, lefts = (np.arange(0, len(v), _SQUARE) for v in (y, x))
    bottoms, rights = (np.minimum(v + _SQUARE, n) - 1 for v, n in ((tops, len(y)), (lefts, len(x))))
    squares = shapely.box(
        x[lefts][None] - half,
        y[bottoms][:, None] - half,
        x[rights][None] + half,
        y[tops][:, None] + half,
    )
    meets = shapely.intersects(polygon, squares)
    holds = meets & shapely.contains_properly(polygon, squares)
    for i, j in np.argwhere(meets).tolist():
        rows, cols = slice(tops[i], bottoms[i] + 1), slice(lefts[j], rights[j] + 1)
        if holds[i, j]:
            found[rows, cols] = True
        else:
            found[rows, cols] |= shapely.intersects_xy(polygon, x[None, cols], y[rows, None])
