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

    def near(self, tile: Tile) -> tuple[tuple[bytes, ...], bytes]:
        """The polygons that meet a tile (WKB), and eight bytes that tell them apart.

        They are whole: cut at the tile, an edge's slope would change in its last bits, and with
        it the side on which a centre falls.
        """
        box = shapely.box(*self._grid.tile_bounds(tile))
        found = sorted(
            shapely.to_wkb(self._polygons[int(i)])
            for i in self._tree.query(box, predicate="intersects")
        )
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
        found |= shapely.intersects_xy(polygon, x[None, :], y[:, None])
    return found
