"""Resampling onto the grid: where a pixel lies in a source, and what the source holds there.

A warp that takes its kernel or its approximation from the window gives the same pixel other
values in other tiles. Here both belong to the grid: coordinates are interpolated on nodes that
are anchored to it, and the kernel has one size. So they are shared, too: the coordinates of a
block are worked out once for all bands of an item, which is where warping spends its time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo import crs as odc
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from engine.cube.kernels import between, corners, resample, resample_near

__all__ = [
    "BLOCK",
    "Block",
    "Frame",
    "Placed",
    "blocks_of",
    "crs_text",
    "extent",
    "pieces_of",
    "place",
    "take",
]

BLOCK = 400
"""Side of a block, in pixels."""

_NODE = 20  # pixels between nodes; at 10 m and two UTM zones interpolation errs by 1e-6 px
_TOLERANCE = 1e-4  # of a source pixel; beyond it a block's pixels are projected one by one
_STRIP = 200  # rows of a piece
_FAR = 1e9  # source pixels

_asking = threading.Lock()

Floats = npt.NDArray[np.float64]
Near = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]


def crs_text(crs: Any) -> str:
    """A CRS as text, the same for the same CRS however a library holds it."""
    if isinstance(crs, odc.CRS):  # its text is at hand
        return _crs_text(str(crs))
    return _crs_text(str(crs.to_wkt()) if hasattr(crs, "to_wkt") else str(crs))


@lru_cache(maxsize=256)
def _crs_text(text: str) -> str:
    known = CRS.from_user_input(text)
    code = known.to_authority(min_confidence=100)
    return ":".join(code) if code else str(known.to_wkt())


@dataclass(frozen=True)
class Frame:
    """The pixels of a source.

    Attributes
    ----------
    crs : str
    step : (x, y) of a pixel in units of the CRS; y is negative in a north-up file.
    corner : (x, y) of the first pixel's outer corner.
    shape : (rows, columns)
    projected : bool
        Whether a step is a length, so that it compares with the grid's.
    unit : float
        Metres of such a length of 1: CRSs of the United States have feet.
    turn : (x, y)
        What a row down adds to x, and a column across to y; 0 but in rotated files.
    """

    crs: str
    step: tuple[float, float]
    corner: tuple[float, float]
    shape: tuple[int, int]
    projected: bool
    unit: float = 1.0
    turn: tuple[float, float] = (0.0, 0.0)

    @property
    def sides(self) -> tuple[float, float]:
        """Lengths of a pixel's sides across and down, in units of the CRS."""
        return math.hypot(self.step[0], self.turn[1]), math.hypot(self.turn[0], self.step[1])

    def radius(self, resolution: float) -> tuple[float, float]:
        """Radius of the bilinear kernel in source pixels, by column and row.

        One where the source is as coarse as the grid or coarser, or in degrees; else as wide as
        the grid's pixel, so that no source pixel is passed over.
        """
        if not self.projected:
            return 1.0, 1.0
        across, down = (resolution / (side * self.unit) for side in self.sides)
        return max(across, 1.0), max(down, 1.0)


@dataclass(frozen=True)
class Block:
    """`BLOCK` x `BLOCK` pixels whose corner lies on multiples of `BLOCK` from the grid's anchor."""

    crs: str
    resolution: float
    anchor: tuple[float, float]
    row: int
    col: int


@dataclass(frozen=True)
class Piece:
    """Some rows and columns of a block: what a thread resamples at once."""

    block: Block
    rows: slice
    cols: slice


@dataclass(frozen=True)
class Placed:
    """Where the pixel centres of a piece lie in a source.

    Attributes
    ----------
    x, y : float64 (rows, columns)
        In source pixels from the outer corner of the first; far outside where the projection has
        no answer.
    """

    x: Floats
    y: Floats
    _near: dict[tuple[int, ...], Near] = field(default_factory=dict, compare=False)

    def near(self, corner: tuple[int, int], size: tuple[int, ...]) -> Near:
        """The four pixels of a part of the source about each centre, as `corners` gives them.

        Kept: the bands of an item have the same.
        """
        key = (*corner, *size)
        if key not in self._near:
            shape = self.x.shape
            found = (
                np.empty(shape, np.int64),
                np.empty(shape, np.float32),
                np.empty(shape, np.float32),
            )
            (top, left), (height, width) = corner, size
            corners(self.x, self.y, top, left, height, width, *found)
            self._near[key] = found
        return self._near[key]


def blocks_of(geobox: GeoBox, anchor: tuple[float, float]) -> Iterator[Block]:
    """The blocks that a window meets; its corner lies on the lattice of `anchor`."""
    resolution, crs = geobox.resolution.x, crs_text(geobox.crs)
    row0, col0 = _corner(geobox, anchor)
    height, width = geobox.shape
    for row in range(row0 // BLOCK * BLOCK, row0 + height, BLOCK):
        for col in range(col0 // BLOCK * BLOCK, col0 + width, BLOCK):
            yield Block(crs, resolution, anchor, row, col)


def pieces_of(
    geobox: GeoBox, anchor: tuple[float, float]
) -> Iterator[tuple[Piece, tuple[slice, slice]]]:
    """The pieces that make up a window, each with its pixels there."""
    row0, col0 = _corner(geobox, anchor)
    height, width = geobox.shape
    for block in blocks_of(geobox, anchor):
        left, right = max(block.col, col0), min(block.col + BLOCK, col0 + width)
        for strip in range(block.row, block.row + BLOCK, _STRIP):
            top, bottom = max(strip, row0), min(strip + _STRIP, row0 + height)
            if top < bottom:
                yield (
                    Piece(
                        block,
                        slice(top - block.row, bottom - block.row),
                        slice(left - block.col, right - block.col),
                    ),
                    (slice(top - row0, bottom - row0), slice(left - col0, right - col0)),
                )


def _corner(geobox: GeoBox, anchor: tuple[float, float]) -> tuple[int, int]:
    resolution = geobox.resolution.x
    return (
        round((anchor[1] - geobox.transform.f) / resolution),
        round((geobox.transform.c - anchor[0]) / resolution),
    )


def place(piece: Piece, frame: Frame) -> Placed:
    """Where the pixel centres of a piece lie in a source, exact to 1e-4 source pixels."""
    nodes, error = _nodes(piece.block, frame.crs)
    if _interpolates(error, frame):
        x, y = _in_pixels(nodes[0], nodes[1], frame)
        return Placed(_between(x, piece), _between(y, piece))
    rows = np.arange(piece.rows.start, piece.rows.stop)
    cols = np.arange(piece.cols.start, piece.cols.stop)
    return Placed(*_in_pixels(*_project(piece.block, frame.crs, rows, cols), frame))


def extent(block: Block, frame: Frame) -> tuple[float, float, float, float] | None:
    """Least and greatest x, then y, of a block in source pixels; None where it lies nowhere."""
    nodes, error = _nodes(block, frame.crs)
    if _interpolates(error, frame):
        x, y = _in_pixels(nodes[0], nodes[1], frame)
    else:
        placed = place(Piece(block, slice(0, BLOCK), slice(0, BLOCK)), frame)
        x, y = placed.x, placed.y
        known = (np.abs(x) < _FAR) & (np.abs(y) < _FAR)
        if not known.any():
            return None
        x, y = x[known], y[known]
    return float(x.min()), float(x.max()), float(y.min()), float(y.max())


def _interpolates(error: tuple[float, float], frame: Frame) -> bool:
    """Whether interpolation between nodes is exact enough; not so where any error is nan."""
    sides = frame.sides if frame.turn == (0.0, 0.0) else (min(frame.sides),) * 2
    return error[0] <= _TOLERANCE * sides[0] and error[1] <= _TOLERANCE * sides[1]


def _in_pixels(x: Floats, y: Floats, frame: Frame) -> tuple[Floats, Floats]:
    across, down = x - frame.corner[0], y - frame.corner[1]
    if frame.turn == (0.0, 0.0):
        column, row = across / frame.step[0], down / frame.step[1]
    else:
        area = frame.step[0] * frame.step[1] - frame.turn[0] * frame.turn[1]
        column = (across * frame.step[1] - down * frame.turn[0]) / area
        row = (down * frame.step[0] - across * frame.turn[1]) / area
    lost = ~(np.isfinite(column) & np.isfinite(row))
    if lost.any():
        column, row = np.where(lost, -2 * _FAR, column), np.where(lost, -2 * _FAR, row)
    return column, row


def _nodes(block: Block, crs: str) -> tuple[Floats, tuple[float, float]]:
    """A block's nodes in a source's CRS (2, n, n), and how far interpolation misses between them.

    The miss is measured in the middle of each four nodes, where it is largest. The bands of an item
    are read side by side and ask for the same block at the same moment: the first makes it, the
    others wait. Each would make a transformer of its own, which takes longer than all else here.
    """
    with _asking:
        return _nodes_of(block, crs)


@lru_cache(maxsize=2048)
def _nodes_of(block: Block, crs: str) -> tuple[Floats, tuple[float, float]]:
    at = np.arange(0, BLOCK + 1, _NODE, dtype=np.float64)
    nodes = np.stack(_project(block, crs, at, at))
    middle = at[:-1] + _NODE / 2
    exact = np.stack(_project(block, crs, middle, middle))
    four = nodes[:, :-1, :-1] + nodes[:, 1:, :-1] + nodes[:, :-1, 1:] + nodes[:, 1:, 1:]
    with np.errstate(invalid="ignore"):
        miss = np.abs(four / 4 - exact).max(axis=(1, 2))
    nodes.setflags(write=False)
    return nodes, (float(miss[0]), float(miss[1]))


def _project(
    block: Block, crs: str, rows: npt.NDArray[Any], cols: npt.NDArray[Any]
) -> tuple[Floats, Floats]:
    """Centres of a block's pixels in another CRS, (rows, columns)."""
    x = block.anchor[0] + (block.col + cols + 0.5) * block.resolution
    y = block.anchor[1] - (block.row + rows + 0.5) * block.resolution
    xx, yy = np.meshgrid(x, y)
    if crs == block.crs:
        return xx, yy
    there = _transformer(block.crs, crs).transform(xx.ravel(), yy.ravel())
    return there[0].reshape(xx.shape), there[1].reshape(xx.shape)


@lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def _between(nodes: Floats, piece: Piece) -> Floats:
    """Values at the pixels of a piece from values at its block's nodes."""
    rows, cols = piece.rows, piece.cols
    found = np.empty((rows.stop - rows.start, cols.stop - cols.start))
    between(nodes, _NODE, rows.start, cols.start, found)
    return found


def take(
    values: npt.NDArray[Any],
    corner: tuple[int, int],
    placed: Placed,
    frame: Frame,
    resolution: float,
    *,
    nearest: bool,
    nodata: float | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Take the pixels of a piece out of a source: bilinear, or nearest for classes.

    A pixel is valid where the source pixel that holds its centre is. Invalid pixels beside that
    one have no weight: nodata never bleeds in, and at the edge of a file neither.

    Parameters
    ----------
    values : array (row, column)
        A part of the source that holds all that the piece needs of it.
    corner : (row, column) of its first pixel in the source.
    placed : Placed
        The piece in the source.
    frame : Frame
    resolution : float
        The grid's, in metres.
    nearest : bool
    nodata : float or None

    Returns
    -------
    (values, valid), both (rows, columns); values of the source's type, rounded half to even.
    """
    out = np.empty(placed.x.shape, values.dtype)
    valid = np.zeros(placed.x.shape, bool)
    across, down = (0.0, 0.0) if nearest else frame.radius(resolution)
    whole = np.issubdtype(values.dtype, np.integer)
    if nodata is None or math.isnan(nodata):
        declared = False  # nan is invalid without being declared
    else:
        declared = not whole or _holds(values.dtype, nodata)
    number = values.dtype.type(nodata if declared else 0)
    if down == across == 1:
        values = np.ascontiguousarray(values)
        at, u, v = placed.near(corner, values.shape)
        if resample_near(values, at, u, v, number, declared, whole, out, valid) == 0:
            return out, valid
    resample(values, *corner, placed.x, placed.y, down, across, number, declared, whole, out, valid)
    return out, valid


def _holds(dtype: np.dtype[Any], number: float) -> bool:
    """Whether an integer type has a number at all."""
    limits = np.iinfo(dtype)
    return math.isfinite(number) and number % 1 == 0 and limits.min <= number <= limits.max
