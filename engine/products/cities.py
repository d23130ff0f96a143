"""Cities that a network of their own maps, in one map with the rest of the area."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from engine.errors import RecipeError
from engine.grid.area import Area
from engine.grid.grid import Grid, Tile
from engine.maps.mask import Boundary, inside
from engine.models.card import ModelCard
from engine.products.alike import find_within, load_alike
from engine.recipes.sections import WindowModel

if TYPE_CHECKING:  # workers import this for their kernels and read no vector files
    from engine.catalog.named import Named

__all__ = ["Cities", "Shares", "shares_of"]

Shares = tuple[tuple[ModelCard, tuple[bytes, ...]], ...]
"""Cards and the polygons (WKB) of the city that each maps; ground of two is the first's."""


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
                known[where] = load_alike(
                    where,
                    rest,
                    choice.precision,
                    whose=f"city {place.name}",
                    remedy="adapt the recipe's own model to the city: natmap adapt",
                )
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
    return find_within(value, folder, f"city {place.name}")
