"""From a recipe to all that a run needs; every check that can be made before work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from engine.catalog.snapshot import read_snapshot, write_snapshot
from engine.environment import require_numbers
from engine.errors import CatalogError
from engine.grid.grid import Grid, Tile
from engine.items import cube_band
from engine.products.product import SNAPSHOT, Context, Product, Resolved
from engine.products.registry import find_product
from engine.recipes.run import Recipe
from engine.runs.schedule import Schedule
from engine.runs.stage import Stage
from engine.store.arrays import ArraySpec
from engine.store.ledger import Ledger
from engine.store.location import Folder, Location, location_of
from engine.store.reading import Reader
from engine.store.repository import Store

__all__ = ["Prepared", "freeze", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A recipe, its product, and what this resolved it to; and the store that belongs to it."""

    recipe: Recipe
    product: Product[Any]
    resolved: Resolved
    place: Location

    @property
    def grid(self) -> Grid:
        """Of the run."""
        return self.resolved.grid

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the run."""
        return self.resolved.stages

    @property
    def specs(self) -> list[ArraySpec]:
        """Forms of all arrays."""
        return [spec for stage in self.stages for spec in stage.outputs]

    @property
    def band_names(self) -> list[str]:
        """B-names of the bands: part of the store's identity, so that `blue` equals `B02`."""
        return [cube_band(band) for band in self.resolved.bands]

    def open_store(self) -> Store:
        """The store, made if it is new.

        Raises
        ------
        IdentityError
            Where it was made for something else.
        """
        store = self.check_store()
        if store is None:
            names = self.band_names
            return Store.create(self.place, self.grid, self.specs, band_names=names)
        store.add_arrays(self.grid, self.specs)
        return store

    def check_store(self) -> Store | None:
        """The store if it exists and fits; writes nothing."""
        if not Store.exists(self.place):
            if isinstance(self.place, Folder):
                self.place.require_free()
            return None
        store = Store.open(self.place)
        store.require_current()
        store.require_identity(self.grid, self.specs, band_names=self.band_names)
        return store

    def blank_ledger(self) -> Ledger:
        """A ledger of these stages without a record."""
        return Ledger(self.grid.shape, {stage.name: stage.daily for stage in self.stages})

    def schedule(
        self,
        store: Store | None,
        *,
        until: str | None = None,
        tiles: Iterable[Tile] | None = None,
        reader: Reader | None = None,
    ) -> Schedule:
        """What is stale, by the store's ledger, or that of one state of it, `reader`; by an empty
        one without a store."""
        ledger = self.blank_ledger()
        if store is not None:
            reader = reader or store.reader()
            root = zarr.open_group(reader.store, mode="r")
            if "ledger" in root:
                ledger.load(reader, root)
        return Schedule(self.stages, self.resolved.support, ledger, only=tiles, until=until)


def prepare(
    recipe: Recipe,
    base: Path | None = None,
    *,
    tell: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Resolve a recipe; writes nothing.

    Parameters
    ----------
    recipe : Recipe
    base : folder from which the recipe's relative paths are taken; by default the current one.
    tell : gets a line of text for each step that may take a while.

    Raises
    ------
    NatmapError
        Before any work, with the remedy.
    """
    require_numbers()
    base = base or Path()
    product = find_product(recipe.product)
    place = location_of(recipe.store, base)
    resolved = product.resolve(recipe, Context(base, _judged(place), tell))
    return Prepared(recipe, product, resolved, place)


def freeze(prepared: Prepared) -> None:
    """Write the items of this run next to the store."""
    names = prepared.product.snapshots(prepared.recipe)
    for section, found in prepared.resolved.found.items():
        with prepared.place.replace(names[section]) as path:
            write_snapshot(found.items, path)


def _judged(place: Location) -> dict[str, bool]:
    """Radiometry decided by an earlier run, by content stamp."""
    path = place.beside(SNAPSHOT)
    try:
        items = () if path is None else read_snapshot(path)
    except CatalogError:
        return {}  # damaged: the scenes are looked at again, and the items written anew
    return {item.stamp: item.suspect for item in items if item.suspect is not None}
