"""From a recipe to all that a run needs; every check that can be made before work starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import zarr

from engine.catalog.boundaries import read_mask, resolve_area
from engine.catalog.search import SearchResult, find_source, search
from engine.catalog.signing import make_signer
from engine.catalog.snapshot import read_snapshot, write_snapshot
from engine.cube.access import Access, count_unverifiable, require_folder
from engine.cube.clouds import widest_dilation
from engine.cube.radiometry import find_suspect
from engine.cube.read import sample_item
from engine.errors import CardError, CatalogError, GridError, ReadError, RecipeError
from engine.grid.area import Area, Support
from engine.grid.grid import Grid, Tile
from engine.items import SCL, Item, band_name
from engine.maps.filter import widest_halo
from engine.maps.mask import Boundary
from engine.models.card import ModelCard, find_card, load_card, verify_weights
from engine.products.cells import cube_stages, map_stages
from engine.products.instances import (
    BLOCK,
    CELL,
    RGB,
    RIM,
    doubts_of,
    find_images,
    fusion_stages,
    instance_stage,
    load_graph_card,
)
from engine.products.sources import ItemIndex
from engine.products.windows import CELL as GREEN_CELL
from engine.products.windows import green_stages, require_segmenter
from engine.recipes.run import GridChoice, Recipe
from engine.runs.schedule import Schedule
from engine.runs.stage import Stage, link
from engine.store.arrays import ArraySpec
from engine.store.ledger import Ledger
from engine.store.location import Place, place_of
from engine.store.repository import Store

__all__ = ["IMAGES", "SNAPSHOT", "Prepared", "freeze", "prepare"]

SNAPSHOT = "items.parquet"
"""What the frozen catalogue is called, after the store's name."""
IMAGES = "images.parquet"
"""That of the 1 m images."""

_GUARD = ("B02", "B11", "B12", SCL)


@dataclass(frozen=True)
class Prepared:
    """A recipe, resolved.

    Attributes
    ----------
    bands : as named in the store.
    found : the search's answer, radiometry decided where `sign` could read.
    images : the answer for 1 m images, if the recipe has such.
    notes : what was repaired or decided, for people and the report.
    """

    recipe: Recipe
    area: Area
    grid: Grid
    support: Support
    bands: tuple[str, ...]
    found: SearchResult
    stages: tuple[Stage, ...]
    place: Place
    notes: tuple[str, ...]
    images: SearchResult | None = None

    def __post_init__(self) -> None:
        link(self.stages, self.grid, self.support.cell)  # refused before a store is made

    @property
    def specs(self) -> list[ArraySpec]:
        """Forms of all arrays."""
        return [spec for stage in self.stages for spec in stage.outputs]

    @property
    def band_names(self) -> list[str]:
        """B-names of the bands: part of the store's identity, so that `blue` equals `B02`."""
        return [band_name(band) for band in self.bands]

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
            return None
        store = Store.open(self.place)
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
        tag: str | None = None,
    ) -> Schedule:
        """What is stale, by the store's ledger, or a release's (an empty one without a store)."""
        ledger = self.blank_ledger()
        if store is not None:
            reader = store.reader(tag)
            root = zarr.open_group(reader.store, mode="r")
            if "ledger" in root:
                ledger.load(reader, root)
        return Schedule(self.stages, self.support, ledger, only=tiles, until=until)


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
    base = base or Path()
    make = _prepare_green if recipe.product == "ugs" else _prepare_zones
    return make(recipe, base, place_of(recipe.store, base), tell)


def _prepare_zones(
    recipe: Recipe, base: Path, place: Place, tell: Callable[[str], None]
) -> Prepared:
    """Local climate zones: scenes, and images beside them where a model fuses both."""
    choice = recipe.grid
    model = load_card(find_card(recipe.model.card, base)) if recipe.model else None
    bands = recipe.scenes.bands or (model.bands if model else None)
    if bands is None:
        raise RecipeError(
            "the recipe names no bands and no model that would",
            expected="imagery.bands, or a model card",
        )
    if model is not None:
        if model.segments:
            raise CardError(
                "product lcz needs a classifier of patches",
                got=f"{model.name}: {model.architecture}",
                remedy="product: ugs is made with segmenters",
            )
        verify_weights(model)
        model.check_cube(bands, choice.resolution)
        _require_cells(choice, model)
    area, notes = resolve_area(recipe.area, choice.crs, base)
    # The halos of all stages, summed, as `link` will sum them: how far beyond the area to go.
    reach = widest_dilation(recipe.cube.cloud_dilation, choice.resolution) * choice.resolution
    cell = CELL if recipe.images else choice.resolution
    if model is not None:
        rules, cell = recipe.filter, model.cell
        reach += model.halo * model.resolution
        reach += cell * widest_halo(cell, rules.majority_radius)
    grid = _fit(area.bounds(math.ceil(reach / cell) * cell), choice)
    support = Support(area, grid, cell)
    boundary, more = _boundary(recipe, grid, area, base)
    notes = [*notes, *more]
    card, where = find_source(recipe.scenes, base)
    tell(f"searching {card.name}: {where}")
    names = [band_name(band) for band in bands]
    found = search(card, where, area, recipe.scenes, names)
    sign = make_signer(card)
    items = _decide(found.items, Access(sign, verify=recipe.scenes.verify), _known(place))
    suspects = [item.id for item in items if item.suspect]
    if suspects:
        notes = [*notes, f"radiometry suspect, left out: {', '.join(suspects)}"]
    undecided = [item.id for item in items if item.suspect is None]
    if undecided:
        notes = [*notes, f"radiometry not judged yet, unreadable today: {', '.join(undecided)}"]
    if len(suspects) == len(items):
        raise CatalogError("all items found have a suspect radiometry", got=", ".join(suspects[:5]))
    found = replace(found, items=items)
    if recipe.scenes.verify:
        notes = [*notes, *_verifiable(items, [*names, SCL])]
    index = ItemIndex(items, names, grid)
    stages = tuple(cube_stages(recipe, bands, index, sign))
    images = None
    # without a model for them, instances are made for a training to cut graphs from
    if recipe.images and (recipe.model is None or recipe.model.instances):
        around = area.grown(reach + BLOCK + RIM)  # of the blocks of all cells wanted
        images, frames, access = find_images(recipe.images, base, around, RGB, grid, tell)
        notes = [*notes, *doubts_of(recipe.images, frames)]
        stages += (instance_stage(recipe, base, frames, access),)
    if model is not None and recipe.model is not None:
        fused = []
        if recipe.model.instances:
            graph = load_graph_card(recipe.model.instances, base, recipe.instances, model)
            fused = fusion_stages(recipe, graph)
            share = recipe.model.sentinel_weight
            notes = [*notes, f"scores fused with {graph.name}, which counts {1 - share:.0%}"]
        stages += tuple(map_stages(recipe, recipe.model, model, bands, boundary, fused))
    return Prepared(recipe, area, grid, support, bands, found, stages, place, tuple(notes), images)


def _prepare_green(
    recipe: Recipe, base: Path, place: Place, tell: Callable[[str], None]
) -> Prepared:
    """Urban green space: images alone."""
    assert recipe.model is not None
    assert recipe.images is not None
    choice = recipe.grid
    model = load_card(find_card(recipe.model.card, base))
    require_segmenter(model, choice)
    verify_weights(model)
    area, notes = resolve_area(recipe.area, choice.crs, base)
    wide = model.patch * model.resolution  # a pixel's windows reach up to their own side beyond it
    grid = _fit(area.bounds(wide if recipe.images.keep else 0.0), choice)
    boundary, more = _boundary(recipe, grid, area, base)
    images, index, access = find_images(
        recipe.images, base, area.grown(wide), model.bands, grid, tell
    )
    notes = [*notes, *more, *doubts_of(recipe.images, index)]
    if recipe.images.verify:
        notes = [*notes, *_verifiable(images.items, model.bands)]
    own = Boundary([area.geometry], grid)
    stages = green_stages(recipe, model, index, access, own, boundary)
    # in cells of the green fraction; the kernel cuts its pixels by the area itself
    support = Support(area.grown(0.75 * GREEN_CELL), grid, float(GREEN_CELL))
    return Prepared(
        recipe, area, grid, support, model.bands, images, tuple(stages), place, tuple(notes)
    )


def _fit(bounds: tuple[float, float, float, float], choice: GridChoice) -> Grid:
    grid = Grid.fit(bounds, crs=choice.crs, tile_size=choice.tile_metres, anchor=choice.origin)
    if grid.n_rows * grid.n_cols > 4_000_000:
        raise GridError(
            "the area needs too many tiles",
            got=f"{grid.n_rows} x {grid.n_cols}",
            remedy="choose a larger grid.tile, or look at the area's CRS",
        )
    return grid


def _boundary(
    recipe: Recipe, grid: Grid, area: Area, base: Path
) -> tuple[Boundary | None, Sequence[str]]:
    """The product mask, and what was repaired of it."""
    if recipe.mask is None:
        return None, ()
    polygons, notes = read_mask(recipe.mask.boundaries, area, base)
    return Boundary(polygons, grid), notes


def _verifiable(items: Iterable[Item], names: Sequence[str]) -> list[str]:
    require_folder()
    of, unverifiable = count_unverifiable(items, names)
    if not unverifiable:
        return []
    return [f"verify: {unverifiable} of {of} files have no file:checksum and go unchecked"]


def _require_cells(choice: GridChoice, model: ModelCard) -> None:
    """A tile is a whole number of inference blocks, so that no batch is cut by a tile's edge."""
    unit = model.block * model.step
    if choice.tile % unit:
        raise RecipeError(
            "grid.tile does not fit the model's cells",
            got=f"{choice.tile} px",
            expected=f"a multiple of {unit} px ({unit * choice.resolution:g} m)",
            remedy=f"set grid.tile to {max(round(choice.tile / unit), 1) * unit}",
        )


def freeze(prepared: Prepared) -> None:
    """Write the items of this run next to the store."""
    with prepared.place.replace(SNAPSHOT) as path:
        write_snapshot(prepared.found.items, path)
    if prepared.images is not None:
        with prepared.place.replace(IMAGES) as path:
            write_snapshot(prepared.images.items, path)


def _known(place: Place) -> dict[str, bool]:
    """Radiometry decided by an earlier run, by content stamp."""
    path = place.beside(SNAPSHOT)
    if path is None:
        return {}
    return {item.stamp: item.suspect for item in read_snapshot(path) if item.suspect is not None}


def _decide(items: tuple[Item, ...], access: Access, known: dict[str, bool]) -> tuple[Item, ...]:
    """Run the radiometry guard on items that no earlier run decided.

    What it suspects is read once more, past caches and checked where files are to be: few items
    are, and a bit that flipped on the way must not cost a scene. All others are sampled unchecked,
    which would fetch every file of a country to the driver.
    """
    plain = Access(access.sign)

    def decide(item: Item) -> Item:
        if item.suspect is not None:
            return item  # of a snapshot
        if item.stamp in known:
            return replace(item, suspect=known[item.stamp])
        try:
            why = find_suspect(sample_item(item, _GUARD, access=plain), item.assets)
            if why:
                sampled = sample_item(item, _GUARD, access=access, again=True)
                why = find_suspect(sampled, item.assets)
        except ReadError:
            return item  # undecided, and said so: the next run judges it
        notes = (*item.notes, f"radiometry suspect: {why}") if why else item.notes
        return replace(item, suspect=why is not None, notes=notes)

    with ThreadPoolExecutor(max_workers=8) as pool:
        return tuple(pool.map(decide, items))
