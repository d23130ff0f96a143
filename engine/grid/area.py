"""The wanted area, and where a stage is defined because something downstream needs it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy.ndimage import maximum_filter1d
from shapely.geometry.base import BaseGeometry

from engine.errors import AreaError
from engine.grid.antimeridian import cut_about_poles, fold
from engine.grid.grid import ON_LATTICE, Grid, Tile
from engine.grid.moving import move_of, polygons_of, reproject

__all__ = ["Area", "Support", "parts_of", "polygons_of", "repeat", "reproject"]


@dataclass(frozen=True)
class Area:
    """The wanted part of the Earth, as polygons in the grid's CRS.

    Parameters
    ----------
    geometry : Polygon or MultiPolygon
        In `crs`, valid.
    crs : str
        The grid's CRS.
    """

    geometry: BaseGeometry
    crs: str

    def __post_init__(self) -> None:
        if self.geometry.is_empty or self.geometry.area <= 0:
            raise AreaError("the area is empty", got=self.geometry.geom_type)
        shapely.prepare(self.geometry)

    @classmethod
    def from_geographic(cls, geometry: BaseGeometry, crs: str) -> Area:
        """From longitude and latitude (WGS84); a part west of -180 or east of 180 is legal."""
        return cls(reproject(geometry, "EPSG:4326", crs), crs)

    @classmethod
    def from_bbox(cls, bbox: tuple[float, float, float, float], crs: str) -> Area:
        """From (west, south, east, north) in degrees; west > east crosses the antimeridian."""
        west, south, east, north = bbox
        if not (-90 <= south < north <= 90) or not (-180 <= west <= 180 and -180 <= east <= 180):
            raise AreaError(
                "not a bounding box in degrees",
                got=list(bbox),
                expected="[west, south, east, north], -180..180 and -90..90, south < north",
            )
        if west == east:
            raise AreaError("the bounding box has no width", got=list(bbox))
        if west > east:
            east += 360.0
        return cls.from_geographic(shapely.box(west, south, east, north), crs)

    @cached_property
    def geographic(self) -> BaseGeometry:
        """The area in longitude and latitude; cut at the antimeridian if it crosses it."""
        dense = shapely.segmentize(cut_about_poles(self.geometry, self.crs), 5_000.0)
        move = move_of(self.crs, "EPSG:4326")
        moved = dense if move is None else move.geometry(dense)
        return fold(moved).geometry  # a ring that passes 180 comes back with jumps

    def bounds(self, reach: float = 0.0) -> tuple[float, float, float, float]:
        """West, south, east, north in metres, `reach` metres wider on each side."""
        west, south, east, north = self.geometry.bounds
        return west - reach, south - reach, east + reach, north + reach

    def grown(self, reach: float) -> Area:
        """The area and what lies within `reach` metres of it."""
        return Area(self.geometry.buffer(reach), self.crs)

    def meets(self, grid: Grid, reach: float = 0.0) -> npt.NDArray[np.bool_]:
        """Tiles within `reach` metres (by row or column) of the area: bool (rows, cols)."""
        west, _, _, north = grid.bounds
        left = west + np.arange(grid.n_cols) * grid.tile_size
        top = north - np.arange(grid.n_rows) * grid.tile_size
        boxes = shapely.box(
            left[None, :] - reach,
            top[:, None] - grid.tile_size - reach,
            left[None, :] + grid.tile_size + reach,
            top[:, None] + reach,
        )
        return np.asarray(shapely.intersects(self.geometry, boxes))


def parts_of(cell: float, resolution: float) -> int | None:
    """Pixels along a cell's side, None where they are no whole number."""
    factor = round(cell / resolution)
    return factor if factor >= 1 and abs(factor * resolution - cell) < ON_LATTICE else None


def repeat(cells: npt.NDArray[np.bool_], factor: int) -> npt.NDArray[np.bool_]:
    """A mask (y, x) of cells in finer pixels, `factor` along each side of a cell."""
    return np.kron(cells, np.ones((factor, factor), bool)) if factor > 1 else cells


@dataclass(frozen=True)
class Support:
    """The pixels on which stages are defined, whatever the tiles.

    A cell belongs to the area when its centre does. A stage is also defined on the cells within
    `reach` of one, because a halo downstream reads them. Beyond that its output is nodata by
    definition: otherwise a larger tile would compute more of a neighbour's halo than a smaller
    one, and the map would depend on the layout.

    A stage of other cells has a support of its own (`in_cells`), and says nothing of the others':
    where its cell at the border is wider than what it reads, the rest of that is nodata, unless
    the stage declares a halo of half its cell.

    Parameters
    ----------
    area : Area
    grid : Grid
    cell : float
        The pixel in which the area is measured, in metres.
    """

    area: Area
    grid: Grid
    cell: float

    def in_cells(self, cell: float) -> Support:
        """The same area, measured in other cells (metres).

        Raises
        ------
        GridError
            Where the tile is not a whole number of them.
        """
        self.grid.pixels(cell)
        return self if cell == self.cell else replace(self, cell=cell)

    def mask(self, tile: Tile, resolution: float, reach: float = 0.0) -> npt.NDArray[np.bool_]:
        """Where a stage with downstream `reach` (metres) is defined: bool (y, x) of the tile.

        Pixels that are no whole part of a cell are measured as cells of their own.

        Raises
        ------
        GridError
            Where the tile is not a whole number of pixels of `resolution` metres.
        """
        n = self.grid.pixels(resolution)
        factor = parts_of(self.cell, resolution)
        if factor is None:
            return self.in_cells(resolution).mask(tile, resolution, reach)
        cells = self._cells(tile, reach)
        return np.ones((n, n), bool) if cells is None else repeat(cells, factor)

    def fingerprint(self, tile: Tile, reach: float = 0.0) -> bytes:
        """Eight bytes that tell this tile's mask from another."""
        bits = self.packed(tile, reach)
        return b"whole   " if bits is None else hashlib.blake2b(bits, digest_size=8).digest()

    def margin(self, reach: float) -> float:
        """How many metres around the area tiles are needed for a stage with downstream `reach`.

        Halos count in whole cells, and a cell is in when its centre is: half a cell less.
        """
        return float(np.ceil(reach / self.cell - 1e-9) * self.cell - self.cell / 2)

    def meets(self, reach: float = 0.0) -> npt.NDArray[np.bool_]:
        """Which tiles a stage with downstream `reach` is defined on: bool (rows, cols)."""
        return self.area.meets(self.grid, self.margin(reach))

    def packed(self, tile: Tile, reach: float = 0.0) -> bytes | None:
        """The mask in cells as packed bits, row by row; None where the whole tile is inside."""
        cells = self._cells(tile, reach)
        return None if cells is None else np.packbits(cells).tobytes()

    def _cells(self, tile: Tile, reach: float) -> npt.NDArray[np.bool_] | None:
        """The mask in cells, or None where the whole tile lies inside the area."""
        west, south, east, north = self.grid.tile_bounds(tile)
        if shapely.contains_properly(self.area.geometry, shapely.box(west, south, east, north)):
            return None
        pad = int(np.ceil(reach / self.cell - 1e-9))
        n = self.grid.pixels(self.cell)
        # Centres are counted from the anchor, not from the tile, so that two layouts test the
        # very same coordinates.
        ax, ay = self.grid.anchor
        col = round((west - ax) / self.cell) - pad + np.arange(n + 2 * pad)
        row = round((ay - north) / self.cell) - pad + np.arange(n + 2 * pad)
        x, y = ax + (col + 0.5) * self.cell, ay - (row + 0.5) * self.cell
        inside: npt.NDArray[Any] = shapely.intersects_xy(
            self.area.geometry, x[None, :], y[:, None]
        ).astype(np.uint8)
        if pad:
            for axis in (0, 1):
                inside = maximum_filter1d(inside, 2 * pad + 1, axis=axis, mode="constant")
            inside = inside[pad:-pad, pad:-pad]
        return inside.astype(bool)
