"""Cities that a network of their own maps, in one map with the rest of the area."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import shapely
from pydantic import TypeAdapter, ValidationError
from shapely.geometry.base import BaseGeometry

from engine.errors import CardError, RecipeError
from engine.grid.area import Area
from engine.grid.grid import Grid, Tile
from engine.maps.mask import Boundary, inside
from engine.models.card import ModelCard, find_card, load_card
from engine.models.onnx_checks import examine_weights
from engine.recipes.base import CardOrPath
from engine.recipes.sections import WindowModel

if TYPE_CHECKING:  # workers import this for their kernels and read no vector files
    from engine.catalog.named import Named

__all__ = ["Cities", "Shares", "shares_of"]

Shares = tuple[tuple[ModelCard, tuple[bytes, ...]], ...]
"""Cards and the polygons (WKB) of the city that each maps; ground of two is the first's."""

_ALIKE = ("bands", "ranges", "resolution", "cell", "context", "patch", "overlap", "output")
"""Fields of a card by which images are read, windows lie, and scores are stored."""


@dataclass(frozen=True)
class _City:
    place: Named
    card: ModelCard


class Cities:
    """The cities of a recipe that another card maps than the rest of the area.

    Parameters
    ----------
    choice : section `model` of the recipe.
    rest : card of the rest; the cities' cards must fit it.
    area : the wanted one.
    base : folder of the recipe's relative paths.

    Attributes
    ----------
    notes : what was left out or repaired of the file.

    Raises
    ------
    RecipeError, CardError, WeightsError
        Where polygons or cards do not serve; weights are examined, too.
    """

    def __init__(self, choice: WindowModel, rest: ModelCard, area: Area, base: Path) -> None:
        self._cities: list[_City] = []
        self.notes: tuple[str, ...] = ()
        if choice.cities is None:
            return
        from engine.catalog.named import read_named
        from engine.vectors.read import file_of

        path = base / choice.cities
        found, notes = read_named(
            path, area, rest.resolution, fields=("card",), what="file of model.cities"
        )
        known: dict[Path, ModelCard] = {}
        for place in found:
            where = _card_of(place, file_of(path).parent)
            if where not in known:
                known[where] = _fitting(place, where, rest, choice.precision)
            self._cities.append(_City(place, known[where]))
        self.notes = tuple(notes)

    def __bool__(self) -> bool:
        return bool(self._cities)

    @property
    def cards(self) -> Mapping[str, ModelCard]:
        """By the name of the city."""
        return {city.place.name: city.card for city in self._cities}

    @property
    def outlines(self) -> Mapping[str, BaseGeometry]:
        """Polygons in the grid's CRS by the name of the city."""
        return {c.place.name: shapely.union_all(list(c.place.polygons)) for c in self._cities}

    def bind(self, grid: Grid) -> None:
        """Say on which grid the cities are asked for by tile."""
        self._grid = grid
        self._bounds = [Boundary(city.place.polygons, grid) for city in self._cities]
        every = [(k, p) for k, city in enumerate(self._cities) for p in city.place.polygons]
        self._owner = [k for k, _ in every]
        self._tree = shapely.STRtree([polygon for _, polygon in every])

    def near(self, tile: Tile) -> tuple[Shares, bytes]:
        """Cards and polygons that a tile meets, and what names them; b"" where there are none."""
        found = self._meeting(tile)
        if not found:
            return (), b""
        digest = hashlib.blake2b(digest_size=16)
        shares = []
        for k in found:
            polygons, named = self._bounds[k].near(tile)
            card = self._cities[k].card
            digest.update(bytes.fromhex(card.key) + named)
            shares.append((card, polygons))
        return tuple(shares), digest.digest()

    def count(self, tile: Tile, pixel: float, mapped: npt.NDArray[np.bool_]) -> dict[str, int]:
        """Pixels of a tile that have a value, by the name of the city whose card gave it."""
        free, found = mapped, {}
        for k in self._meeting(tile):
            mine = free & inside(self._bounds[k].near(tile)[0], self._grid, tile, pixel)
            free = free & ~mine
            found[self._cities[k].place.name] = int(mine.sum())
        return found

    def _meeting(self, tile: Tile) -> list[int]:
        if not self._cities:
            return []
        box = shapely.box(*self._grid.tile_bounds(tile))
        hits = self._tree.query(box, predicate="intersects")
        return sorted({self._owner[int(i)] for i in hits})


def shares_of(
    shares: Shares,
    rest: ModelCard,
    wanted: npt.NDArray[np.bool_],
    grid: Grid,
    tile: Tile,
) -> Iterator[tuple[ModelCard, npt.NDArray[np.bool_]]]:
    """Each card that a tile needs, and which of the wanted pixels (y, x) it maps: each one once.

    Parameters
    ----------
    shares : of the tile, from `Cities.near`.
    rest : card of what lies in no city.
    wanted : bool (y, x)
    grid, tile : where.
    """
    free = wanted
    found: dict[str, tuple[ModelCard, npt.NDArray[np.bool_]]] = {}
    for card, polygons in shares:
        mine = free & inside(polygons, grid, tile, rest.resolution)
        free = free & ~mine
        before = found.get(card.key)
        found[card.key] = card, mine if before is None else before[1] | mine
    before = found.get(rest.key)
    found[rest.key] = rest, free if before is None else before[1] | free
    yield from ((card, mine) for card, mine in found.values() if mine.any())


def _card_of(place: Named, folder: Path) -> Path:
    """Where the card lies that a city's field names."""
    value = place.fields["card"]
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(
            f"city {place.name} names no card",
            got=f"card: {value!r}",
            expected="path of a card from the file's folder, or the name of a shipped one",
            remedy="take the city out of the file, and the card of the recipe maps it",
        )
    try:
        text = TypeAdapter(CardOrPath).validate_python(value.strip())
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"card of city {place.name}: {said}", got=value) from error
    if not os.path.isabs(text) and ".." in Path(os.path.normpath(text)).parts:
        raise RecipeError(
            f"the card of city {place.name} lies outside the file's folder",
            got=text,
            expected="a path within that folder, or an absolute one",
        )
    try:
        return find_card(text, folder)
    except CardError as error:
        raise CardError(
            f"there is no card for city {place.name}",
            got=text,
            expected=error.expected,
            remedy=error.remedy,
        ) from error


def _fitting(place: Named, where: Path, rest: ModelCard, precision: str) -> ModelCard:
    """A city's card, with weights that are its own, where it can be used beside the other."""
    try:
        card = load_card(where)
    except CardError as error:
        raise CardError(
            f"the card of city {place.name} cannot be used: {error.what}",
            got=error.got,
            expected=error.expected,
            remedy=error.remedy,
        ) from error
    if not card.segments:
        raise CardError(
            f"the card of city {place.name} is of no segmenter",
            got=f"{card.name}: {card.architecture}",
            expected="a segmenter as the recipe's card",
        )
    mine = {name: getattr(card, name) for name in _ALIKE} | {"classes": _classes_of(card)}
    theirs = {name: getattr(rest, name) for name in _ALIKE} | {"classes": _classes_of(rest)}
    if other := [name for name in mine if mine[name] != theirs[name]]:
        raise CardError(
            f"the card of city {place.name} does not fit the recipe's",
            got=f"{card.name}: " + "; ".join(f"{name} {_told(mine[name])}" for name in other),
            expected=f"{rest.name}: " + "; ".join(f"{n} {_told(theirs[n])}" for n in other),
            remedy="adapt the recipe's own model to the city: natmap adapt",
        )
    card.check_precision(precision)
    examine_weights(card)
    return card


def _classes_of(card: ModelCard) -> tuple[tuple[int, str], ...]:
    return tuple((c.code, c.name) for c in card.legend)


def _told(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(f"{v[0]} {v[1]}" if isinstance(v, tuple) else str(v) for v in value)
