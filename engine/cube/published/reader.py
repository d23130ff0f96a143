"""The one reader of published embeddings: sheets laid side by side, seams filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from engine.cube.published.rules import NODATA, Decoded
from engine.cube.published.sheet import DEGREES, Box, Method, Points, Sheet
from engine.errors import ReadError, RecipeError

__all__ = ["EmbeddingSource", "Piece", "Published"]

_MOST = 1 << 31  # bytes of vectors that are read at once
_LOOKED = 32  # points along an area by which it is told whether there is ground of it


class EmbeddingSource(Protocol):
    """Vectors of places, whoever made them."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of a vector's components."""

    @property
    def years(self) -> tuple[int, ...]:
        """Years that there are; empty where the source does not tell any apart."""

    def read(self, box: GeoBox, year: int, method: Method = "nearest") -> Decoded:
        """Vectors and states of a window."""


@dataclass(frozen=True)
class Piece:
    """A sheet that may not have been opened yet.

    Attributes
    ----------
    name : pieces go by it where neither is at home.
    years : that it has; None: all, it tells none apart.
    bounds : in degrees, west beyond east where it crosses 180; None: not known.
    open : the sheet of a year.
    """

    name: str
    years: frozenset[int] | None
    bounds: Box | None
    open: Callable[[int], Sheet]


@dataclass(frozen=True)
class Published:
    """An `EmbeddingSource` of pieces.

    Attributes
    ----------
    title : for people.
    channels : names of a vector's components.
    pieces : in any order.
    model : that made the vectors, as the source says (`geoemb:model`); "" where it does not.
    """

    title: str
    channels: tuple[str, ...]
    pieces: Sequence[Piece]
    model: str = ""
    _sheets: dict[tuple[str, int], Sheet] = field(default_factory=dict, repr=False, compare=False)

    @property
    def years(self) -> tuple[int, ...]:
        """Years that some piece has, in order; empty where none are told apart."""
        return tuple(sorted({year for piece in self.pieces for year in piece.years or ()}))

    def read(self, box: GeoBox, year: int, method: Method = "nearest") -> Decoded:
        """Vectors and states of a window.

        Each pixel is taken from the piece that is at home there. What that has no data for, the
        others are asked for in the order of their names: seams between tiles and zones are filled
        where these overlap. Water is an answer.

        Parameters
        ----------
        box : GeoBox
            The window, north up.
        year : of the embeddings.
        method : {"nearest", "bilinear"}
            Nearest: the vector of the pixel that holds the centre. Bilinear: a mean of decoded
            vectors, by the state of that same pixel.

        Returns
        -------
        Vectors, float32 (channel, y, x), NaN where there is none, and states, uint8 (y, x):
        0 valid, 1 water, 2 no data.

        Raises
        ------
        RecipeError
            Where there is no such year.
        ReadError
            Where files are not what they should be, or the window is too large.
        """
        self.require_year(year)
        _require_room(box, len(self.channels))
        points = Points(box)
        vectors = np.full((len(self.channels), points.count), np.nan, np.float32)
        states = np.full(points.count, NODATA, np.uint8)
        sheets = [self._open(piece, year) for piece in self._near(points, year)]
        if len(sheets) > 1:
            for sheet in sheets:
                if sheet.home is not None:
                    mine = (states == NODATA) & points.inside(sheet.home)
                    sheet.take(points, mine, method, vectors, states)
        for sheet in sheets:
            wanted = states == NODATA
            if len(sheets) > 1 and sheet.home is not None:
                wanted &= ~points.inside(sheet.home)  # asked already
            if wanted.any():
                sheet.take(points, wanted, method, vectors, states)
        return vectors.reshape(-1, *box.shape), states.reshape(box.shape)

    def require_year(self, year: int) -> None:
        """Refuse a year that there is not.

        Raises
        ------
        RecipeError
        """
        told = all(piece.years is not None for piece in self.pieces)
        if (self.years or told) and year not in self.years:
            raise RecipeError(
                f"{self.title} has no such year",
                got=year,
                expected=", ".join(map(str, self.years)) or "none of its years is whole",
                remedy="set embeddings.year to one of these"
                if self.years
                else "name a source whose years are whole",
            )

    def require_ground(
        self, bounds: tuple[float, float, float, float], crs: str, year: int
    ) -> None:
        """Refuse an area of which no piece has any ground in a year.

        It looks at rectangles: what it lets pass may still have no vector anywhere.

        Parameters
        ----------
        bounds : of the area, west, south, east, north.
        crs : of the bounds.
        year : of the embeddings.

        Raises
        ------
        RecipeError
        """
        self.require_year(year)
        west, south, east, north = bounds
        sides = (east - west) / _LOOKED, (north - south) / _LOOKED
        corner = Affine(sides[0], 0, west, 0, -sides[1], north)
        points = Points(GeoBox((_LOOKED, _LOOKED), corner, crs))
        if not any(self._reaches(piece, points, year) for piece in self._near(points, year)):
            lon, lat = points.among(DEGREES).T
            raise RecipeError(
                f"{self.title} has no vectors of this area in {year}",
                got=f"an area about {np.nanmean(lon):.3f}, {np.nanmean(lat):.3f} degrees",
                expected="ground that the source covers",
                remedy="name the source of this area in embeddings.source, or look at area",
            )

    def _reaches(self, piece: Piece, points: Points, year: int) -> bool:
        """Whether a piece may have ground of a window; one that cannot be opened may, and the run
        will say which tiles that costs."""
        try:
            return self._open(piece, year).reaches(points)
        except ReadError:
            return True

    def _open(self, piece: Piece, year: int) -> Sheet:
        key = piece.name, year
        if key not in self._sheets:
            sheet = piece.open(year)
            if sheet.channels != len(self.channels):
                raise ReadError(
                    f"{sheet.name} has vectors of another length",
                    got=sheet.channels,
                    expected=f"{len(self.channels)}, as {self.title} has",
                )
            self._sheets[key] = sheet
        return self._sheets[key]

    def _near(self, points: Points, year: int) -> list[Piece]:
        """Pieces of a year that may reach the window, by name."""
        pieces = [p for p in self.pieces if p.years is None or year in p.years]
        pieces.sort(key=lambda piece: piece.name)
        if len(pieces) < 2:
            return pieces
        lon, lat = points.among(DEGREES).T
        with np.errstate(invalid="ignore"):
            known = np.isfinite(lon) & np.isfinite(lat)
        if not known.any():
            return pieces
        west, east = lon[known].min(), lon[known].max()
        south, north = lat[known].min(), lat[known].max()
        crosses = east - west > 180.0

        def reaches(bounds: Box | None) -> bool:
            if bounds is None:
                return True
            beside = bounds[0] <= east and bounds[2] >= west
            level = bounds[1] <= north and bounds[3] >= south
            return level and (beside or crosses or bounds[0] > bounds[2])

        return [piece for piece in pieces if reaches(piece.bounds)]


def _require_room(box: GeoBox, channels: int) -> None:
    height, width = box.shape
    size = height * width * channels * 4
    if size > _MOST:
        raise ReadError(
            "the window is too large to be read at once",
            got=f"{height} x {width} pixels of {channels} channels, {size / 2**30:.3g} GiB",
            expected=f"at most {_MOST >> 30} GiB",
            remedy="read it in strips",
        )
