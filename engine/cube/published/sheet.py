"""One regular grid of vectors, and its pixels under those of a window of another grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import CRSError

from engine.cube.published.rules import VALID, Decoded
from engine.cube.warp import crs_text
from engine.errors import ReadError
from engine.grid.moving import move_of

__all__ = ["DEGREES", "Box", "Method", "Points", "Sheet", "known_crs", "north_up", "zone_home"]

DEGREES = "EPSG:4326"

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees; the east and north edges are not part of it."""

Method = Literal["nearest", "bilinear"]

_AT_ONCE = 1 << 28  # bytes of decoded vectors

Floats = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.intp]


class Points:
    """The centres of a window's pixels, row by row, in any CRS.

    Parameters
    ----------
    box : GeoBox
    """

    def __init__(self, box: GeoBox) -> None:
        height, width = box.shape
        rows, cols = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
        at = box.transform
        x, y = at.a * cols + at.b * rows + at.c, at.d * cols + at.e * rows + at.f
        self._crs = crs_text(box.crs)
        self._known = {self._crs: np.column_stack([x.ravel(), y.ravel()])}
        self.count = height * width

    def among(self, crs: str) -> Floats:
        """Coordinates (n, 2) in a CRS, not finite where it has none for a point."""
        if crs not in self._known:
            move = move_of(self._crs, crs)
            mine = self._known[self._crs]
            self._known[crs] = mine if move is None else move.points(mine)
        return self._known[crs]

    def inside(self, box: Box) -> npt.NDArray[np.bool_]:
        """Which of them lie in a box of degrees."""
        lon, lat = self.among(DEGREES).T
        west, south, east, north = box
        # a point on 180 has either sign
        found: npt.NDArray[np.bool_] = (
            (lat >= south) & (lat < north) & ((lon - west) % 360.0 < east - west)
        )
        return found


@dataclass(frozen=True)
class Sheet:
    """A regular grid of vectors, north up.

    Attributes
    ----------
    name : for people.
    crs : text as `crs_text` has it.
    corner : (x, y) of the north-west pixel's outer corner.
    step : (x, y) of a pixel, both positive.
    shape : (rows, columns)
    channels : of a vector.
    load : rows and columns, counted from the north-west, to vectors and states.
    home : where it goes before others; None: nowhere.
    """

    name: str
    crs: str
    corner: tuple[float, float]
    step: tuple[float, float]
    shape: tuple[int, int]
    channels: int
    load: Callable[[slice, slice], Decoded]
    home: Box | None = None

    def reaches(self, points: Points) -> bool:
        """Whether the sheet may hold ground among a window's points; never no where it does."""
        xy = points.among(self.crs)
        xy = xy[np.isfinite(xy).all(axis=1)]
        if not len(xy):
            return False
        low, high = xy.min(axis=0), xy.max(axis=0)
        # a window bends in another CRS: its edge may reach beyond the points by a part of it
        margin = (high - low) / 8 + np.array(self.step)
        east, south = (
            self.corner[0] + self.step[0] * self.shape[1],
            self.corner[1] - self.step[1] * self.shape[0],
        )
        across = low[0] - margin[0] <= east and high[0] + margin[0] >= self.corner[0]
        along = low[1] - margin[1] <= self.corner[1] and high[1] + margin[1] >= south
        return bool(across and along)

    def take(
        self,
        points: Points,
        wanted: npt.NDArray[np.bool_],
        method: Method,
        vectors: npt.NDArray[np.float32],
        states: npt.NDArray[np.uint8],
    ) -> None:
        """Fill in what the sheet has at some of a window's pixels.

        A pixel is of the state of the source pixel that holds its centre. Bilinear is the mean of
        the vectors of the four pixels about the centre, weighted by nearness; those without a
        vector have no weight.

        Parameters
        ----------
        points : of the window.
        wanted : bool (n), the pixels to be filled in.
        method : "nearest" or "bilinear".
        vectors, states : (channel, n) and (n), written to.
        """
        chosen = np.flatnonzero(wanted)
        xy = points.among(self.crs)[chosen]
        col = (xy[:, 0] - self.corner[0]) / self.step[0]
        row = (self.corner[1] - xy[:, 1]) / self.step[1]
        with np.errstate(invalid="ignore"):
            inside = (col >= 0) & (col < self.shape[1]) & (row >= 0) & (row < self.shape[0])
        chosen, col, row = chosen[inside], col[inside], row[inside]
        margin = 0 if method == "nearest" else 1
        for part in self._parts(row, col, margin):
            self._take(chosen[part], row[part], col[part], method, vectors, states)

    def _parts(self, row: Floats, col: Floats, margin: int) -> Iterator[Chosen]:
        """Points in groups whose pixels of the source fit into memory."""
        waiting = [np.arange(len(row))] if len(row) else []
        while waiting:
            part = waiting.pop()
            axes = [np.floor(along[part]) for along in (row, col)]
            sides = [along.max() - along.min() + 1 + 2 * margin for along in axes]
            if sides[0] * sides[1] * self.channels * 4 <= _AT_ONCE or max(sides) <= 1 + 2 * margin:
                yield part
                continue
            longer = axes[int(sides[1] > sides[0])]
            first = longer < (longer.min() + longer.max() + 1) // 2
            waiting += [part[~first], part[first]]

    def _take(
        self,
        chosen: Chosen,
        row: Floats,
        col: Floats,
        method: Method,
        vectors: npt.NDArray[np.float32],
        states: npt.NDArray[np.uint8],
    ) -> None:
        near = np.floor(row).astype(np.int64), np.floor(col).astype(np.int64)
        margin = 0 if method == "nearest" else 1
        spans = [
            slice(max(int(at.min()) - margin, 0), min(int(at.max()) + 1 + margin, size))
            for at, size in zip(near, self.shape, strict=True)
        ]
        found, state = self.load(*spans)
        here = near[0] - spans[0].start, near[1] - spans[1].start
        states[chosen] = state[here]
        if method == "nearest":
            vectors[:, chosen] = found[:, *here]
            return
        valid = state[here] == VALID
        chosen = chosen[valid]
        at = row[valid] - 0.5 - spans[0].start, col[valid] - 0.5 - spans[1].start
        vectors[:, chosen] = _bilinear(found, state == VALID, *at)


def _bilinear(
    values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], row: Floats, col: Floats
) -> npt.NDArray[np.float32]:
    """Means of four pixels at places in pixels from the first centre; invalid ones do not count."""
    top, left = np.floor(row).astype(np.int64), np.floor(col).astype(np.int64)
    down, across = row - top, col - left
    height, width = valid.shape
    corners: list[tuple[Any, Any, Floats]] = []
    for i, weight_y in ((top, 1 - down), (top + 1, down)):
        for j, weight_x in ((left, 1 - across), (left + 1, across)):
            there = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            i_, j_ = np.where(there, i, 0), np.where(there, j, 0)
            corners.append((i_, j_, np.where(there & valid[i_, j_], weight_y * weight_x, 0.0)))
    total = np.sum([weight for _, _, weight in corners], axis=0)
    out = np.zeros((len(values), len(row)), np.float32)
    for i_, j_, weight in corners:
        counts = weight > 0
        share = (weight[counts] / total[counts]).astype(np.float32)
        out[:, counts] += share * values[:, i_[counts], j_[counts]]
    return out


def north_up(
    transform: Sequence[Any], shape: tuple[int, int], what: str
) -> tuple[tuple[float, float], tuple[float, float], bool]:
    """Corner and step of a grid as a `Sheet` has them, and whether its rows go north.

    Parameters
    ----------
    transform : a, b, c, d, e, f of the first pixel's outer corner.
    shape : (rows, columns)
    what : names the grid in errors.

    Raises
    ------
    ReadError
        Where it is rotated, mirrored, or no transform.
    """
    try:
        a, b, c, d, e, f = (float(number) for number in transform)
    except (TypeError, ValueError) as error:
        raise ReadError(
            f"{what} has no transform", got=transform, expected="six numbers a, b, c, d, e, f"
        ) from error
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or b or d or a <= 0 or e == 0:
        raise ReadError(
            f"{what} is rotated, mirrored or has no size of a pixel",
            got=(a, b, c, d, e, f),
            expected="b and d of 0, a above 0, e of either sign",
            remedy="rectify it (gdalwarp)",
        )
    if e > 0:
        return (c, f + e * shape[0]), (a, e), True
    return (c, f), (a, -e), False


def known_crs(value: Any, what: str) -> str:
    """A CRS as text.

    Raises
    ------
    ReadError
        Where there is none, or nobody knows it.
    """
    expected = "a code (EPSG:32633), WKT2 or PROJJSON"
    if not value:
        raise ReadError(f"{what} has no CRS", expected=expected)
    try:
        return crs_text(CRS.from_user_input(value))
    except CRSError as error:
        raise ReadError(
            f"the CRS of {what} is not known", got=str(value)[:80], expected=expected
        ) from error


def zone_home(zone: int, half: str = "") -> Box:
    """The six degrees of a UTM zone, of a half of the globe ("N", "S") where one is named."""
    west = 6.0 * zone - 186.0
    return west, 0.0 if half == "N" else -90.0, west + 6.0, 0.0 if half == "S" else 90.0
