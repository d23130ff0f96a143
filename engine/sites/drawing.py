"""Pixels of units that become sites, some distance apart if that is wanted.

Many draws are made in one pass: a unit is read once, for all draws in which it has sites.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from engine.errors import AreaError
from engine.sites.allocation import Frame
from engine.sites.regions import RegionMap
from engine.sites.source import ClassMap

__all__ = ["HIT", "SITE", "TRIES", "Drawing", "Ground", "hits_of"]

SITE = np.dtype([("draw", "i4"), ("unit", "i8"), ("row", "i8"), ("col", "i8")])
"""A site: which draw it is of, its unit's row in the frame, and its pixel."""

HIT = np.dtype([("draw", "i4"), ("unit", "i8"), ("sites", "i8")])
"""How many sites a unit gets in a draw."""

TRIES = 50
"""Pixels of a unit that are tried before it is given up, where sites keep a distance."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Sites = npt.NDArray[np.void]
_Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ground:
    """Where a frame lies.

    Attributes
    ----------
    source : the map.
    regions : RegionMap
    side : of a unit, in pixels.
    frame : Frame
    """

    source: ClassMap
    regions: RegionMap
    side: int
    frame: Frame

    def windows(self, row: int, col: int) -> tuple[slice, slice]:
        """Rows and columns of a unit's pixels."""
        rows, cols = (
            slice(k * self.side, min((k + 1) * self.side, length))
            for k, length in zip((row, col), self.source.shape, strict=True)
        )
        return rows, cols


def hits_of(draw: int, counts: Ints) -> npt.NDArray[np.void]:
    """Sites of each row of the frame as a HIT array of those that get any."""
    there = np.flatnonzero(counts)
    found = np.empty(len(there), HIT)
    found["draw"], found["unit"], found["sites"] = draw, there, counts[there]
    return found


class Drawing:
    """Draws of sites, each with what it drew before.

    Parameters
    ----------
    ground : Ground
    rngs : of each draw.
    """

    def __init__(self, ground: Ground, rngs: Sequence[np.random.Generator]) -> None:
        self.ground, self._rngs = ground, rngs
        self._taken: dict[tuple[int, int], set[int]] = {}
        self._near: list[dict[tuple[int, int, int], list[_Point]]] = [{} for _ in rngs]
        self._cell = 0.0
        self._kept_corners: dict[tuple[int, int], Floats] = {}
        self._moves: tuple[Transformer, Transformer] | None = None

    def keep(self, sites: Sites, spacing: float) -> None:
        """Take sites as drawn before."""
        self._measure(spacing)
        width = self.ground.source.shape[1]
        for site in sites:
            draw, unit = int(site["draw"]), int(site["unit"])
            place = int(site["row"]) * width + int(site["col"])
            self._taken.setdefault((draw, unit), set()).add(place)
            if spacing:
                points = self._points(unit, np.array([site["row"]]), np.array([site["col"]]))
                self._remember(draw, points[0])

    def draw(self, hits: npt.NDArray[np.void], spacing: float = 0.0) -> Sites:
        """Draw pixels at random, without replacement, from the class's pixels of each unit.

        Parameters
        ----------
        hits : HIT array
        spacing : metres between any two sites of a draw, those that it drew before among them.

        Returns
        -------
        SITE array
            By unit, from north to south as the map has them. A site for which `TRIES` pixels are
            too near to others is not there.
        """
        self._measure(spacing)
        units, width = self.ground.frame.units, self.ground.source.shape[1]
        unit = hits["unit"]
        order = np.lexsort([hits["draw"], unit, units.col[unit], units.row[unit]])
        found: list[tuple[int, int, int, int]] = []
        at: tuple[int, int] | None = None
        last = -1
        for draw, u, n in hits[order].tolist():
            if at != (here := (int(units.row[u]), int(units.col[u]))):
                at, last = here, -1
                rows, cols = self.ground.windows(*at)
                codes = self.ground.source.read(rows, cols)
                where = self.ground.regions.read(rows, cols)
            if u != last:
                last = u
                y, x = np.nonzero((codes == units.code[u]) & (where == units.region[u]))
                pixels = (y + rows.start) * width + x + cols.start
            chosen = self._pixels(draw, u, pixels, n, spacing)
            found += [(draw, u, *divmod(pixel, width)) for pixel in chosen]
        return np.array(found, SITE)

    def _pixels(self, draw: int, unit: int, pixels: Ints, n: int, spacing: float) -> list[int]:
        rng = self._rngs[draw]
        taken = self._taken.setdefault((draw, unit), set())
        if not spacing:
            free = pixels[~np.isin(pixels, list(taken))] if taken else pixels
            chosen: list[int] = rng.choice(free, n, replace=False).tolist()
            taken.update(chosen)
            return chosen
        chosen = []
        width = self.ground.source.shape[1]
        for _ in range(n):
            left = TRIES
            while left:
                few = min(left, 2 if left == TRIES else 16)  # the first mostly do
                left -= few
                tried = pixels[rng.integers(0, len(pixels), few)]
                points = self._points(unit, *np.divmod(tried, width))
                for pixel, point in zip(tried.tolist(), points, strict=True):
                    if pixel not in taken and self._is_apart(draw, point, spacing):
                        taken.add(pixel)
                        self._remember(draw, point)
                        chosen.append(pixel)
                        left = 0
                        break
        return chosen

    def _measure(self, spacing: float) -> None:
        """Sort what was drawn by cells of this distance."""
        if spacing and spacing != self._cell:
            points = [[p for here in near.values() for p in here] for near in self._near]
            self._cell = spacing
            self._near = [{} for _ in self._near]
            for draw, each in enumerate(points):
                for point in each:
                    self._remember(draw, point)

    def _remember(self, draw: int, point: _Point) -> None:
        key = tuple(math.floor(value / self._cell) for value in point)
        self._near[draw].setdefault(key, []).append(point)  # type: ignore[arg-type]  # of three

    def _is_apart(self, draw: int, point: _Point, spacing: float) -> bool:
        near = self._near[draw]
        i, j, k = (math.floor(value / self._cell) for value in point)
        for a in (i - 1, i, i + 1):
            for b in (j - 1, j, j + 1):
                for c in (k - 1, k, k + 1):
                    for other in near.get((a, b, c), ()):
                        if math.dist(point, other) < spacing:
                            return False
        return True

    def _points(self, unit: int, rows: Ints, cols: Ints) -> list[_Point]:
        """Centres of pixels in space, in metres: between the corners of their unit."""
        units = self.ground.frame.units
        at = int(units.row[unit]), int(units.col[unit])
        here, across = self.ground.windows(*at)
        if at not in self._kept_corners:
            t = self.ground.source.transform
            down = np.array([here.start, here.start, here.stop, here.stop])
            over = np.array([across.start, across.stop, across.start, across.stop])
            self._kept_corners[at] = self._in_space(t.a * over + t.c, t.e * down + t.f)
        north_west, north_east, south_west, south_east = self._kept_corners[at]
        down = ((rows + 0.5 - here.start) / (here.stop - here.start))[:, None]
        over = ((cols + 0.5 - across.start) / (across.stop - across.start))[:, None]
        north = north_west + (north_east - north_west) * over
        south = south_west + (south_east - south_west) * over
        return [tuple(point) for point in (north + (south - north) * down).tolist()]

    def _in_space(self, x: Floats, y: Floats) -> Floats:
        """Places on the ellipsoid, from the centre of the earth: float (place, 3), metres."""
        if self._moves is None:  # to make them takes longer than to use them a thousand times
            crs = self.ground.source.crs
            self._moves = (
                Transformer.from_crs(crs, "EPSG:4326", always_xy=True),
                Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True),
            )
        lon, lat = self._moves[0].transform(x, y)
        found = np.stack(self._moves[1].transform(lon, lat, np.zeros(len(x))), axis=1)
        if not np.isfinite(found).all():
            raise AreaError(
                "units of the map lie nowhere on the earth", got=self.ground.source.crs.name
            )
        return found
