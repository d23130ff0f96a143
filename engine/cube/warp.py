"""Resampling onto the grid: where a pixel lies in a source, and what the source holds there.

A warp that takes its kernel or its approximation from the window gives the same pixel other
values in other tiles. Here both belong to the grid: coordinates are interpolated on nodes that
are anchored to it, and the kernel has one size. So they are shared, too: the coordinates of a
block are worked out once for all bands of an item, which is where warping spends its time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

__all__ = [
    "BLOCK",
    "Block",
    "Frame",
    "Sampler",
    "blocks_of",
    "crs_text",
    "extent",
    "find_nodata",
    "place",
]

BLOCK = 400
"""Side of a block, in pixels."""

_NODE = 20  # pixels between nodes; at 10 m and two UTM zones interpolation errs by 1e-6 px
_TOLERANCE = 1e-4  # of a source pixel; beyond it a block's pixels are projected one by one
_STRIP = 100  # rows of a piece
_FAR = 1e9  # source pixels
_EDGE = 1e-6  # of a source pixel: a centre this near to a pixel's edge lies on it

Floats = npt.NDArray[np.float64]


def crs_text(crs: Any) -> str:
    """A CRS as text, the same for the same CRS however a library holds it."""
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
        Whether a step is metres, so that it compares with the grid's.
    """

    crs: str
    step: tuple[float, float]
    corner: tuple[float, float]
    shape: tuple[int, int]
    projected: bool

    def radius(self, resolution: float) -> tuple[float, float]:
        """Radius of the bilinear kernel in source pixels, by column and row.

        One where the source is as coarse as the grid or coarser, or in degrees; else as wide as
        the grid's pixel, so that no source pixel is passed over.
        """
        if not self.projected:
            return 1.0, 1.0
        return max(resolution / abs(self.step[0]), 1.0), max(resolution / abs(self.step[1]), 1.0)


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
    """Some rows and columns of a block: what is resampled at once, small enough for the cache."""

    block: Block
    rows: slice
    cols: slice


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


def place(piece: Piece, frame: Frame) -> tuple[Floats, Floats]:
    """Where the pixel centres of a piece lie in a source, exact to 1e-4 source pixels.

    Returns
    -------
    (x, y), float64 (rows, columns)
        In source pixels from the outer corner of the first; far outside where the projection has
        no answer.
    """
    nodes, error = _nodes(piece.block, frame.crs)
    rows = np.arange(piece.rows.start, piece.rows.stop)
    if _interpolates(error, frame):
        x, y = _in_pixels(nodes[0], nodes[1], frame)
        return _between(x, rows, piece.cols), _between(y, rows, piece.cols)
    cols = np.arange(piece.cols.start, piece.cols.stop)
    return _in_pixels(*_project(piece.block, frame.crs, rows, cols), frame)


def extent(block: Block, frame: Frame) -> tuple[float, float, float, float] | None:
    """Least and greatest x, then y, of a block in source pixels; None where it lies nowhere."""
    nodes, error = _nodes(block, frame.crs)
    if _interpolates(error, frame):
        x, y = _in_pixels(nodes[0], nodes[1], frame)
    else:
        x, y = place(Piece(block, slice(0, BLOCK), slice(0, BLOCK)), frame)
        known = (np.abs(x) < _FAR) & (np.abs(y) < _FAR)
        if not known.any():
            return None
        x, y = x[known], y[known]
    return float(x.min()), float(x.max()), float(y.min()), float(y.max())


def _interpolates(error: tuple[float, float], frame: Frame) -> bool:
    """Whether interpolation between nodes is exact enough; not so where any error is nan."""
    return error[0] <= _TOLERANCE * abs(frame.step[0]) and error[1] <= _TOLERANCE * abs(
        frame.step[1]
    )


def _in_pixels(x: Floats, y: Floats, frame: Frame) -> tuple[Floats, Floats]:
    column = (x - frame.corner[0]) / frame.step[0]
    row = (y - frame.corner[1]) / frame.step[1]
    lost = ~(np.isfinite(column) & np.isfinite(row))
    if lost.any():
        column, row = np.where(lost, -2 * _FAR, column), np.where(lost, -2 * _FAR, row)
    return column, row


@lru_cache(maxsize=2048)
def _nodes(block: Block, crs: str) -> tuple[Floats, tuple[float, float]]:
    """A block's nodes in a source's CRS (2, n, n), and how far interpolation misses between them.

    The miss is measured in the middle of each four nodes, where it is largest.
    """
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


def _between(nodes: Floats, rows: npt.NDArray[np.int_], cols: slice) -> Floats:
    """Values at pixels from values at the nodes, linear along columns, then rows."""
    t = np.arange(_NODE) / _NODE
    along = nodes[:, :-1, None] * (1 - t) + nodes[:, 1:, None] * t
    along = along.reshape(len(nodes), BLOCK)[:, cols]
    cell, down = rows // _NODE, (rows % _NODE / _NODE)[:, None]
    found: Floats = along[cell]
    found *= 1 - down
    found += along[cell + 1] * down
    return found


class Sampler:
    """Takes the pixels of a piece out of sources of one frame: bilinear, or nearest for classes.

    A pixel is valid where the source pixel that holds its centre is. Invalid pixels beside that
    one have no weight: nodata never bleeds in, and at the edge of a file neither.

    Parameters
    ----------
    placed : (x, y) of the piece in the frame, as `place` gives them.
    frame : Frame
    resolution : float
        The grid's, in metres.
    nearest : bool
    dtype : float32 or float64
        What is computed in; float32 is exact enough for digital numbers of 16 bits.
    """

    def __init__(
        self,
        placed: tuple[Floats, Floats],
        frame: Frame,
        resolution: float,
        *,
        nearest: bool,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        across, down = (0.0, 0.0) if nearest else frame.radius(resolution)
        self._row = _Axis(placed[1], down, frame.shape[0], dtype)
        self._col = _Axis(placed[0], across, frame.shape[1], dtype)
        self._dtype = np.dtype(dtype)

    @property
    def meets(self) -> bool:
        """Whether the piece meets the file at all."""
        return self._row.start < self._row.stop and self._col.start < self._col.stop

    @cached_property
    def _first(self) -> npt.NDArray[np.intp]:
        """Position of the first tap in the part of the source that the piece needs."""
        row, col = self._row, self._col
        at: npt.NDArray[np.intp] = row.first - row.start
        at *= col.stop - col.start
        at += col.first
        at -= col.start
        return at

    @cached_property
    def _weights(self) -> list[tuple[int, int, npt.NDArray[Any] | None]]:
        """Taps by row and column from the first, with their weights; None is one."""
        if len(self._row.weights) == len(self._col.weights) == 1:
            return [(0, 0, None)]
        return [
            (j, i, down * across)
            for j, down in enumerate(self._row.weights)
            for i, across in enumerate(self._col.weights)
        ]

    @cached_property
    def _cut(self) -> npt.NDArray[np.bool_] | None:
        """Where a tap lies outside the file; None: nowhere."""
        if self._row.whole and self._col.whole:
            return None
        return self._row.cut | self._col.cut

    def take(
        self, values: npt.NDArray[Any], corner: tuple[int, int], nodata: float | None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Resample one source.

        Parameters
        ----------
        values : array (row, column)
            A part of the source that holds all that the piece needs of it.
        corner : (row, column) of its first pixel in the source.
        nodata : float or None

        Returns
        -------
        (values, valid), both (rows, columns); values of the source's type.
        """
        row, col = self._row, self._col
        part = values[
            row.start - corner[0] : row.stop - corner[0],
            col.start - corner[1] : col.stop - corner[1],
        ]
        bad = find_nodata(part, nodata)
        source = np.ascontiguousarray(part, self._dtype)
        flat = source.ravel()
        mixed: npt.NDArray[Any] | None = None
        for j, i, weight in self._weights:
            # clip: taps outside the file are put right below
            shift = min(j * source.shape[1] + i, flat.size - 1)
            tap = flat[shift:].take(self._first, mode="clip")
            if weight is not None:
                tap *= weight
            mixed = tap if mixed is None else np.add(mixed, tap, out=mixed)
        assert mixed is not None
        partial = self._cut
        if bad is not None:
            near = _spread_back(bad, len(row.weights), len(col.weights)).ravel()
            spoilt = near.take(self._first, mode="clip")
            partial = spoilt if partial is None else partial | spoilt
        if partial is None:
            valid = np.ones(mixed.shape, bool)
        else:
            valid = ~partial
            if len(at := np.flatnonzero(partial)):
                self._weigh(at, source, bad, mixed.ravel(), valid.ravel())
        if np.issubdtype(values.dtype, np.integer):
            np.rint(mixed, out=mixed)
        return mixed.astype(values.dtype), valid

    def _weigh(
        self,
        at: npt.NDArray[np.intp],
        source: npt.NDArray[Any],
        bad: npt.NDArray[np.bool_] | None,
        mixed: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
    ) -> None:
        """Pixels with an invalid tap, from their valid ones; writes `mixed` and `valid`."""
        row, col = self._row, self._col
        usable = np.ones(source.shape, bool) if bad is None else ~bad

        def look(r: Any, c: Any) -> tuple[Any, Any, Any]:
            r, c = r - row.start, c - col.start
            here = (r >= 0) & (r < source.shape[0]) & (c >= 0) & (c < source.shape[1])
            r, c = np.where(here, r, 0), np.where(here, c, 0)
            return here & usable[r, c], r, c

        total, weight = np.zeros(len(at)), np.zeros(len(at))
        for j, down in enumerate(row.weights):
            for i, across in enumerate(col.weights):
                here, r, c = look(row.first.ravel()[at] + j, col.first.ravel()[at] + i)
                share = np.where(here, down.ravel()[at].astype(float) * across.ravel()[at], 0.0)
                total += share * np.where(here, source[r, c], 0)
                weight += share
        held = look(row.held.ravel()[at], col.held.ravel()[at])[0] & (weight > 0)
        mixed[at] = np.where(held, total / np.where(held, weight, 1), 0)
        valid[at] = held


class _Axis:
    """One axis of a kernel: the first tap of each pixel, and the weights of all taps."""

    def __init__(self, at: Floats, radius: float, size: int, dtype: npt.DTypeLike) -> None:
        self._at, self._size = at, size
        if radius == 0:
            self.first = self.held
            self.weights = [np.ones(at.shape, dtype)]
        else:
            low = np.floor(at - 0.5)
            beyond = (at - 0.5) - low
            reach = math.ceil(radius)
            if radius == 1:
                after = beyond.astype(dtype)
                self.weights = [1 - after, after]
            else:
                taps = range(1 - reach, reach + 1)
                raw = [np.maximum(1 - np.abs(k - beyond) / radius, 0) for k in taps]
                total = sum(raw)
                self.weights = [(w / total).astype(dtype) for w in raw]
            self.first = low.astype(np.intp)
            self.first -= reach - 1
        least, most = int(self.first.min()), int(self.first.max()) + len(self.weights)
        self.start, self.stop = max(least, 0), min(most, size)
        self.whole = least >= 0 and most <= size

    @property
    def held(self) -> npt.NDArray[np.intp]:
        """The source pixel that holds each centre."""
        found: npt.NDArray[np.intp] = np.floor(self._at + _EDGE).astype(np.intp)
        return found

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        """Where a tap lies outside the file."""
        return (self.first < 0) | (self.first + len(self.weights) > self._size)


def find_nodata(values: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_] | None:
    """Where values are nodata or nan; None where none is."""
    real = np.issubdtype(values.dtype, np.floating)
    if nodata is None and not real:
        return None
    bad = np.isnan(values) if real else np.zeros(values.shape, bool)
    if nodata is not None and not math.isnan(nodata):
        # a float would have every integer compared as float64
        bad |= values == (int(nodata) if not real and nodata == int(nodata) else nodata)
    return bad if bad.any() else None


def _spread_back(bad: npt.NDArray[np.bool_], rows: int, cols: int) -> npt.NDArray[np.bool_]:
    """Whether any of the rows x cols pixels that begin here is bad."""
    near = bad.copy()
    for i in range(1, cols):
        near[:, :-i] |= bad[:, i:]
    along = near.copy()
    for j in range(1, rows):
        near[:-j] |= along[j:]
    return near
