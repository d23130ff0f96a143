"""How much of each pixel polygons cover: exactly, not by samples, and the same in every window.

The area of a polygon within a pixel is a sum over its edges: each adds the area between itself and
the right side of its row (as scan converters of fonts do it). So the cost is that of the outline.
A block of pixels that is anchored to the grid is computed as a whole, whatever part of it a window
wants; shares are rounded to a millionth, so that no window sees another rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from engine.errors import GridError
from engine.grid.grid import ON_LATTICE
from engine.grid.moving import polygons_of
from engine.jit import compiled

__all__ = ["Layers", "coverage", "in_blocks"]

Floats = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]

_BLOCK = 1600.0  # metres along a block, at least one pixel
_STEPS = float(1 << 20)  # to which shares are rounded; float32 holds them exactly
_LARGE = 2_000  # points of a polygon that is cut into smaller ones


class Layers:
    """Polygons of several classes, found by place.

    Parameters
    ----------
    shapes : of each class, polygons in metres; those of one class may overlap.
    """

    def __init__(self, shapes: Sequence[Sequence[BaseGeometry]]) -> None:
        self._parts = [np.array([p for s in of for p in _small(s)], object) for of in shapes]
        self._trees = [shapely.STRtree(parts) for parts in self._parts]

    def within(self, box: Box) -> list[BaseGeometry]:
        """What each class covers of a box: one geometry without overlaps."""
        found = []
        rectangle = shapely.box(*box)
        for parts, tree in zip(self._parts, self._trees, strict=True):
            near = np.sort(tree.query(rectangle, predicate="intersects"))
            clipped = shapely.clip_by_rect(parts[near], *box)
            found.append(shapely.union_all(clipped))
        return found


def coverage(shape: BaseGeometry, box: Box, pixels: int) -> npt.NDArray[np.float64]:
    """Share of each pixel of a square box that a geometry without overlaps covers.

    Parameters
    ----------
    shape : valid, within the box; lines and points in it have no area.
    box : left, bottom, right, top.
    pixels : along a side.

    Returns
    -------
    float64 (y, x), north up, whole 2**-20.
    """
    sums = np.zeros((pixels, pixels + 2))
    left, bottom, right, top = box
    for polygon in polygons_of(shapely.normalize(shape)):
        for k, ring in enumerate([polygon.exterior, *polygon.interiors]):
            xy = shapely.get_coordinates(ring)
            if shapely.is_ccw(ring) == (k == 0):
                xy = xy[::-1]
            x = np.clip((xy[:, 0] - left) * (pixels / (right - left)), 0, pixels)
            y = np.clip((top - xy[:, 1]) * (pixels / (top - bottom)), 0, pixels)
            _add_edges(x, y, sums)
    shares = np.cumsum(sums[:, :pixels], axis=1)
    return np.clip(np.rint(np.abs(shares) * _STEPS) / _STEPS, 0.0, 1.0)


def in_blocks(
    box: GeoBox,
    anchor: tuple[float, float],
    compute: Callable[[Box, int], npt.NDArray[Any]],
) -> npt.NDArray[Any]:
    """A window, put together from blocks that are anchored to the grid.

    Parameters
    ----------
    box : north up, its corner on the lattice of `anchor`.
    compute : array (channel, y, x) of a block, from its bounds and the pixels along its side.

    Raises
    ------
    GridError
        Where the window is not on the lattice.
    """
    side = float(box.resolution.x)
    at = box.transform
    col, row = (at.c - anchor[0]) / side, (anchor[1] - at.f) / side
    first = round(col), round(row)
    leeway = ON_LATTICE / side + 1e-9 * max(abs(col), abs(row), 1.0)
    if max(abs(col - first[0]), abs(row - first[1])) > leeway or at.b or at.d or at.e != -side:
        raise GridError(
            "a window does not lie on the grid's lattice",
            got=f"corner {at.c:.6f}, {at.f:.6f}, pixels of {side:g} m",
            expected=f"whole pixels from {anchor}, north up",
        )
    height, width = box.shape
    pixels = max(int(_BLOCK // side), 1)
    found: npt.NDArray[Any] | None = None
    for down in _blocks(first[1], height, pixels):
        for across in _blocks(first[0], width, pixels):
            left = anchor[0] + across * pixels * side
            top = anchor[1] - down * pixels * side
            block = compute((left, top - pixels * side, left + pixels * side, top), pixels)
            if found is None:
                found = np.zeros((len(block), height, width), block.dtype)
            rows, inner_rows = _shared(down * pixels - first[1], pixels, height)
            cols, inner_cols = _shared(across * pixels - first[0], pixels, width)
            found[:, rows, cols] = block[:, inner_rows, inner_cols]
    assert found is not None, "a window has pixels"
    return found


def _blocks(first: int, count: int, pixels: int) -> Iterator[int]:
    yield from range(first // pixels, (first + count - 1) // pixels + 1)


def _shared(offset: int, pixels: int, count: int) -> tuple[slice, slice]:
    """What a block at an offset and a window of `count` pixels share, in either's own numbers."""
    start, stop = max(offset, 0), min(offset + pixels, count)
    return slice(start, stop), slice(start - offset, stop - offset)


def _small(shape: BaseGeometry) -> Iterator[BaseGeometry]:
    """A geometry in pieces of few points, cut along the middle of its extent again and again."""
    for polygon in polygons_of(shape):
        waiting = [polygon]
        while waiting:
            part = waiting.pop()
            if shapely.get_num_coordinates(part) <= _LARGE:
                yield part
                continue
            west, south, east, north = part.bounds
            if east - west > north - south:
                middle = (west + east) / 2
                halves = (west, south, middle, north), (middle, south, east, north)
            else:
                middle = (south + north) / 2
                halves = (west, south, east, middle), (west, middle, east, north)
            for half in halves:
                waiting += polygons_of(shapely.clip_by_rect(part, *half))


@compiled
def _add_edges(x: Floats, y: Floats, sums: Floats) -> None:
    """Add the edges of a ring: after a running sum along rows, the signed share of each pixel.

    What of an edge's height lies within a pixel covers the part of it that is right of the edge,
    and all pixels beyond it.
    """
    last_row = sums.shape[0] - 1
    last_col = sums.shape[1] - 2
    for k in range(len(x) - 1):
        x0, y0, x1, y1 = x[k], y[k], x[k + 1], y[k + 1]
        if y0 == y1:
            continue
        sign = 1.0
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
            sign = -1.0
        slope = (x1 - x0) / (y1 - y0)
        for row in range(int(y0), min(int(np.ceil(y1)), last_row + 1)):
            top, bottom = max(y0, float(row)), min(y1, row + 1.0)
            if bottom <= top:
                continue
            a = x0 + (top - y0) * slope
            b = x0 + (bottom - y0) * slope
            if a > b:
                a, b = b, a
            a, b = max(a, 0.0), min(b, float(last_col))
            height = sign * (bottom - top)
            first = min(int(a), last_col)
            if b <= first + 1:  # within one pixel
                middle = (a + b) / 2 - first
                sums[row, first] += height * (1 - middle)
                sums[row, first + 1] += height * middle
                continue
            rate = height / (b - a)
            for col in range(first, min(int(np.ceil(b)), last_col + 1)):
                start, stop = max(a, float(col)), min(b, col + 1.0)
                middle = (start + stop) / 2 - col
                sums[row, col] += rate * (stop - start) * (1 - middle)
                sums[row, col + 1] += rate * (stop - start) * middle
