"""Grid, tile and window: where every pixel of a national map lies.

A grid has one projected CRS, one anchor and one tile size in metres. All resolutions share the
anchor as a pixel corner, so 1 m, 10 m, 100 m and 320 m pixels nest; tiles lie on multiples of the
tile size from the anchor. Rows count from the north, columns from the west.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import CRSError

from engine.errors import GridError

__all__ = [
    "ON_LATTICE",
    "Grid",
    "Tile",
    "Window",
    "curve_order",
    "grid_mapping",
    "projected_crs",
    "quad_order",
]

ON_LATTICE = 1e-6  # metres; a float's leeway when a coordinate is asked to lie on the lattice


class Tile(NamedTuple):
    """One unit of work: row from the north and column from the west, both from 0."""

    row: int
    col: int

    def __str__(self) -> str:
        return f"r{self.row:04d}c{self.col:04d}"

    @classmethod
    def parse(cls, text: str) -> Tile:
        """Read the form that ``str`` writes, as in ``r0003c0012``."""
        row, sep, col = text.removeprefix("r").partition("c")
        if not (text.startswith("r") and sep and row.isdigit() and col.isdigit()):
            raise GridError("not a tile's name", got=text, expected="rROWcCOL, as in r0003c0012")
        return cls(int(row), int(col))


class Window(NamedTuple):
    """A tile's pixels with a halo, cut at the grid's edge.

    ``rows`` and ``cols`` slice the grid's array; ``pad`` says how many pixels of the asked halo
    lie beyond the grid at (north, south, west, east).
    """

    rows: slice
    cols: slice
    pad: tuple[int, int, int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels, the padding included."""
        north, south, west, east = self.pad
        return (
            self.rows.stop - self.rows.start + north + south,
            self.cols.stop - self.cols.start + west + east,
        )


def projected_crs(text: str) -> CRS:
    """Parse a CRS and make sure that it is projected, in metres.

    Raises
    ------
    GridError
        Where `text` is no CRS, or is geographic, or has another unit.
    """
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise GridError(
            "unknown CRS", got=text, expected="an EPSG code or WKT, as in EPSG:5179"
        ) from error
    units = {axis.unit_name for axis in crs.axis_info}
    if not crs.is_projected or units != {"metre"}:
        raise GridError(
            "the grid needs a projected CRS in metres",
            got=f"{crs.name} in {', '.join(sorted(units)) or 'no unit'}",
            expected="a CRS whose axes are in metres",
            remedy="use the country's own projected CRS, or EPSG:3035 (Europe), "
            "or the UTM zone of a small area",
        )
    return crs


def grid_mapping(text: str, transform: Affine) -> dict[str, Any]:
    """Attributes of a ``spatial_ref``, as in CF, by which xarray's readers find CRS and place.

    Parameters
    ----------
    text : a projected CRS.
    transform : of the corner of the first pixel.
    """
    crs = projected_crs(text)
    return {
        **crs.to_cf(),
        "crs_wkt": crs.to_wkt(),
        "GeoTransform": " ".join(repr(float(v)) for v in transform.to_gdal()),
    }


@dataclass(frozen=True)
class Grid:
    """A lattice of square tiles over an extent.

    Parameters
    ----------
    crs : str
        Projected, in metres.
    tile_size : float
        Side of a tile, in metres.
    first_col, first_row : int
        The westernmost and the northernmost tile, in tiles from the anchor (rows grow southward:
        row r spans y from ``anchor_y - r * tile_size`` down).
    n_cols, n_rows : int
        Tiles across and down.
    anchor : (float, float)
        A point where corners of all resolutions meet, in metres.
    """

    crs: str
    tile_size: float
    first_col: int
    first_row: int
    n_cols: int
    n_rows: int
    anchor: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        projected_crs(self.crs)
        if self.tile_size <= 0 or self.n_cols < 1 or self.n_rows < 1:
            raise GridError(
                "an empty grid",
                got=f"{self.n_rows} x {self.n_cols} tiles of {self.tile_size} m",
                expected="at least one tile of a positive size",
            )

    @classmethod
    def fit(
        cls,
        bounds: tuple[float, float, float, float],
        *,
        crs: str,
        tile_size: float,
        anchor: tuple[float, float] = (0.0, 0.0),
    ) -> Grid:
        """Cover `bounds` (west, south, east, north, in `crs`), snapped outward to whole tiles."""
        west, south, east, north = bounds
        if not all(math.isfinite(b) for b in bounds) or west >= east or south >= north:
            raise GridError(
                "bounds do not span an area",
                got=bounds,
                expected="finite west < east and south < north",
                remedy="the area may lie outside the domain of the CRS",
            )
        slack = ON_LATTICE / tile_size
        ax, ay = anchor
        first_col = math.floor((west - ax) / tile_size + slack)
        last_col = math.ceil((east - ax) / tile_size - slack)
        first_row = math.floor((ay - north) / tile_size + slack)
        last_row = math.ceil((ay - south) / tile_size - slack)
        return cls(
            crs=crs,
            tile_size=tile_size,
            first_col=first_col,
            first_row=first_row,
            n_cols=last_col - first_col,
            n_rows=last_row - first_row,
            anchor=anchor,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles down and across."""
        return self.n_rows, self.n_cols

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north, in metres."""
        ax, ay = self.anchor
        west = ax + self.first_col * self.tile_size
        north = ay - self.first_row * self.tile_size
        return (
            west,
            north - self.n_rows * self.tile_size,
            west + self.n_cols * self.tile_size,
            north,
        )

    @cached_property
    def _pixels(self) -> dict[float, int]:
        return {}

    def pixels(self, resolution: float) -> int:
        """Side of a tile in pixels of `resolution` metres; refused unless it is whole."""
        if resolution not in self._pixels:
            n = round(self.tile_size / resolution)
            if n < 1 or abs(n * resolution - self.tile_size) > ON_LATTICE:
                raise GridError(
                    "the tile is not a whole number of pixels",
                    got=f"a tile of {self.tile_size:g} m at {resolution:g} m",
                    expected=f"a multiple of {resolution:g} m",
                )
            self._pixels[resolution] = n
        return self._pixels[resolution]

    def array_shape(self, resolution: float) -> tuple[int, int]:
        """Height and width of the whole grid in pixels of `resolution` metres."""
        n = self.pixels(resolution)
        return self.n_rows * n, self.n_cols * n

    def geobox(self, resolution: float) -> GeoBox:
        """The whole grid at `resolution` metres."""
        return self._geobox(self.bounds, resolution)

    def tile_bounds(self, tile: Tile) -> tuple[float, float, float, float]:
        """West, south, east, north of a tile, in metres."""
        west, _, _, north = self.bounds
        left, top = west + tile.col * self.tile_size, north - tile.row * self.tile_size
        return left, top - self.tile_size, left + self.tile_size, top

    def tile_geobox(self, tile: Tile, resolution: float, halo: int = 0) -> GeoBox:
        """A tile at `resolution` metres with `halo` pixels each side (not cut at the edge)."""
        box = self._geobox(self.tile_bounds(tile), resolution)
        return box.pad(halo) if halo else box

    def _geobox(self, bounds: tuple[float, float, float, float], resolution: float) -> GeoBox:
        self.pixels(resolution)
        return GeoBox.from_bbox(bounds, self.crs, resolution=resolution, tight=True)

    def window(self, tile: Tile, resolution: float, halo: int = 0) -> Window:
        """Where a tile's pixels lie in the grid's array, with `halo` pixels each side."""
        n = self.pixels(resolution)
        height, width = self.array_shape(resolution)
        top, left = tile.row * n - halo, tile.col * n - halo
        bottom, right = (tile.row + 1) * n + halo, (tile.col + 1) * n + halo
        return Window(
            slice(max(top, 0), min(bottom, height)),
            slice(max(left, 0), min(right, width)),
            (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)),
        )

    def tiles(self) -> list[Tile]:
        """All tiles, row by row."""
        return [Tile(r, c) for r in range(self.n_rows) for c in range(self.n_cols)]

    def neighbours(self, tile: Tile) -> list[Tile]:
        """The up to eight tiles around `tile` that lie in the grid."""
        return [
            Tile(r, c)
            for r in range(max(tile.row - 1, 0), min(tile.row + 2, self.n_rows))
            for c in range(max(tile.col - 1, 0), min(tile.col + 2, self.n_cols))
            if (r, c) != tile
        ]

    def __contains__(self, tile: object) -> bool:
        return (
            isinstance(tile, Tile) and 0 <= tile.row < self.n_rows and 0 <= tile.col < self.n_cols
        )


def curve_order(
    rows: npt.NDArray[np.integer], cols: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Position of each tile along a Hilbert curve, so that neighbours in order are neighbours.

    Parameters
    ----------
    rows, cols : integer arrays of one shape, 0 <= value < 2**20.

    Returns
    -------
    int64 array of that shape; equal only for equal tiles.
    """
    x, y = cols.astype(np.int64), rows.astype(np.int64)
    order = np.zeros_like(x)
    side = np.int64(1) << 19
    while side:
        rx, ry = (x & side) > 0, (y & side) > 0
        order += side * side * ((3 * rx) ^ ry)
        flip = ~ry & rx
        x, y = (
            np.where(flip, side - 1 - (x & (side - 1)), x),
            np.where(flip, side - 1 - (y & (side - 1)), y),
        )
        x, y = np.where(~ry, y, x), np.where(~ry, x, y)
        side >>= 1
    return order


def quad_order(
    rows: npt.NDArray[np.integer], cols: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Position of squares along a Morton curve: all of a square of 2**k lie together, for any k.

    Parameters
    ----------
    rows, cols : integer arrays that broadcast to one shape, -2**30 <= value < 2**30.
        Counted from the grid's anchor: which squares belong together does not depend on where a
        grid begins.

    Returns
    -------
    int64 array of that shape; equal only for equal squares.
    """
    order = np.zeros(np.broadcast_shapes(np.shape(rows), np.shape(cols)), np.int64)
    for values, shift in ((rows, 1), (cols, 0)):
        spread = np.asarray(values, np.int64) + (1 << 30)
        for step, mask in (
            (16, 0x0000FFFF0000FFFF),
            (8, 0x00FF00FF00FF00FF),
            (4, 0x0F0F0F0F0F0F0F0F),
            (2, 0x3333333333333333),
            (1, 0x5555555555555555),
        ):
            spread = (spread | (spread << step)) & mask
        order |= spread << shift
    return order
