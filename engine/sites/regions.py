"""Regions of a landscape: polygons in the map's CRS, and which pixel lies in which."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from engine.errors import AreaError
from engine.sites.edges import NOWHERE

__all__ = ["Region", "RegionMap", "clipped_grid"]

_SQUARE = 1024  # pixels of a square that is rasterised at once, counted from the raster's corner
_KEPT = 64  # squares in memory
_OVERLAP = 1e-6  # of the smaller region's area, by which two may overlap: rounding


@dataclass(frozen=True)
class Region:
    """A region.

    Attributes
    ----------
    name : shown to people; of all regions another one.
    geometry : polygons in the map's CRS.
    merged : how many slivers were merged into it.
    """

    name: str
    geometry: BaseGeometry
    merged: int = 0


class RegionMap:
    """Which region each pixel's centre lies in.

    Squares of the raster's own are rasterised whole, so that no window decides on which side of
    a border a centre lies.

    Parameters
    ----------
    regions : of one CRS, that of the map.
    transform : of the map.
    shape : height and width of the map.

    Raises
    ------
    AreaError
        Where regions overlap, share a name, or none meets the map.
    """

    def __init__(
        self, regions: Sequence[Region], transform: Affine, shape: tuple[int, int]
    ) -> None:
        self.regions = tuple(regions)
        self._transform = transform
        self._shapes = [region.geometry for region in regions]
        _require_apart(self.regions)
        self._tree = shapely.STRtree(self._shapes)
        corners = [transform * (x, y) for x in (0, shape[1]) for y in (0, shape[0])]
        whole = shapely.box(*np.min(corners, axis=0), *np.max(corners, axis=0))
        if not len(self._tree.query(whole, predicate="intersects")):
            raise AreaError(
                "no region meets the map",
                got=", ".join(region.name for region in self.regions[:5]),
                expected="regions that overlap the map",
                remedy="look at the CRS of the regions' file",
            )
        self._squares: dict[tuple[int, int], npt.NDArray[np.int32] | int] = {}
        self._lock = threading.Lock()

    @property
    def stamp(self) -> str:
        """Another one where regions or the map's grid are others."""
        told = hashlib.sha256(repr((tuple(self._transform), len(self.regions))).encode())
        for region in self.regions:
            told.update(region.name.encode() + b"\0" + shapely.to_wkb(region.geometry))
        return told.hexdigest()

    def read(self, rows: slice, cols: slice) -> npt.NDArray[np.int32]:
        """Places of regions, `NOWHERE` outside of all: int32 (y, x)."""
        found = np.empty((rows.stop - rows.start, cols.stop - cols.start), np.int32)
        for down in range(rows.start // _SQUARE, -(-rows.stop // _SQUARE)):
            for over in range(cols.start // _SQUARE, -(-cols.stop // _SQUARE)):
                square = self._square(down, over)
                y, x = down * _SQUARE, over * _SQUARE
                top, bottom = max(y, rows.start), min(y + _SQUARE, rows.stop)
                left, right = max(x, cols.start), min(x + _SQUARE, cols.stop)
                here = (
                    slice(top - rows.start, bottom - rows.start),
                    slice(left - cols.start, right - cols.start),
                )
                if isinstance(square, int):
                    found[here] = square
                else:
                    found[here] = square[top - y : bottom - y, left - x : right - x]
        return found

    def _square(self, down: int, over: int) -> npt.NDArray[np.int32] | int:
        with self._lock:
            if (down, over) in self._squares:
                return self._squares[down, over]
        made = self._rasterised(down, over)
        with self._lock:
            if len(self._squares) >= _KEPT:
                self._squares.pop(next(iter(self._squares)))
            self._squares[down, over] = made
        return made

    def _rasterised(self, down: int, over: int) -> npt.NDArray[np.int32] | int:
        at = self._transform * Affine.translation(over * _SQUARE, down * _SQUARE)
        corners = [at * (x, y) for x in (0, _SQUARE) for y in (0, _SQUARE)]
        box = shapely.box(*np.min(corners, axis=0), *np.max(corners, axis=0))
        near = sorted(self._tree.query(box, predicate="intersects").tolist())
        if not near:
            return NOWHERE
        if len(near) == 1 and self._shapes[near[0]].contains(box):
            return int(near[0])
        made: npt.NDArray[np.int32] = rasterize(
            [(self._shapes[k], k) for k in near],
            (_SQUARE, _SQUARE),
            fill=NOWHERE,
            transform=at,
            dtype="int32",
        )
        return made


def _require_apart(regions: Sequence[Region]) -> None:
    names = [region.name for region in regions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise AreaError("regions share a name", got=", ".join(twice[:5]))
    shapes = [region.geometry for region in regions]
    for one, other in zip(*shapely.STRtree(shapes).query(shapes, "intersects"), strict=True):
        if one < other:
            common = shapely.intersection(shapes[one], shapes[other]).area
            if common > _OVERLAP * min(shapes[one].area, shapes[other].area):
                raise AreaError(
                    "regions overlap",
                    got=f"{names[one]} and {names[other]}",
                    expected="each pixel in one region at most",
                )


def clipped_grid(
    wanted: BaseGeometry, side: float, *, least: float = 0.25
) -> tuple[list[Region], list[str]]:
    """Squares of a grid, clipped to an area; slivers are merged into a neighbour.

    A piece of less than `least` of a whole square goes to the neighbour with which it shares the
    longest border, or, of an island, to the nearest one; the smallest piece goes first, and what
    it went to counts with it from then on. So a border never runs through what is left.

    Parameters
    ----------
    wanted : polygons in the map's CRS.
    side : of a square, in units of the CRS; squares are counted from its origin.
    least : share of a square, from 0 (nothing is merged) to 1.

    Returns
    -------
    (regions from north-west to south-east, notes)

    Raises
    ------
    AreaError
        Where there would be none, or too many to mean anything.
    """
    if not 0 < side < np.inf or not 0 <= least <= 1:
        raise AreaError("the grid of regions makes no sense", got=f"side {side:g}, least {least:g}")
    west, south, east, north = wanted.bounds
    cols = range(int(np.floor(west / side)), int(np.ceil(east / side)))
    rows = range(int(np.floor(south / side)), int(np.ceil(north / side)))
    if len(cols) * len(rows) > 1_000_000:
        raise AreaError("the grid has too many squares", got=f"{len(cols)} x {len(rows)}")
    shapely.prepare(wanted)
    pieces: dict[tuple[int, int], BaseGeometry] = {}
    for row in reversed(rows):
        for col in cols:
            square = shapely.box(col * side, row * side, (col + 1) * side, (row + 1) * side)
            piece = shapely.intersection(square, wanted) if wanted.intersects(square) else None
            if piece is not None and piece.area > 0:
                pieces[row, col] = piece
    merged = dict.fromkeys(pieces, 0)
    while len(pieces) > 1:
        smallest = min(pieces, key=lambda key: (pieces[key].area, key))
        if pieces[smallest].area >= least * side**2:
            break
        sliver = pieces.pop(smallest)
        others = list(pieces)
        shapes = [pieces[key] for key in others]
        borders = shapely.length(shapely.intersection(sliver, shapes))
        if borders.max() > 0:
            into = others[int(np.argmax(borders))]
        else:
            into = others[int(np.argmin(shapely.distance(sliver, shapes)))]
        pieces[into] = shapely.union(pieces[into], sliver)
        merged[into] += merged.pop(smallest) + 1
    found = [
        Region(f"r{rows.stop - 1 - row}c{col - cols.start}", piece, merged[row, col])
        for (row, col), piece in pieces.items()
    ]
    slivers = sum(merged.values())
    notes = (
        [f"{slivers} pieces of less than {least:.0%} of a square were merged"] if slivers else []
    )
    return found, notes
