"""Product: all that the engine must be told of what it maps, as data and one function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from shapely.geometry.base import BaseGeometry

from engine.errors import GridError
from engine.grid.area import Area, Support
from engine.grid.grid import Grid, Tile
from engine.items import Item
from engine.maps.mask import Boundary
from engine.models.card import ModelCard
from engine.products.cities import Cities
from engine.products.scenes import SceneCards
from engine.publishing.forms import Form
from engine.recipes.run import Recipe
from engine.recipes.sections import GridChoice
from engine.recipes.training import TrainingRecipe
from engine.runs.stage import Part, Stage, link

__all__ = [
    "SNAPSHOT",
    "Context",
    "Mask",
    "Polygons",
    "Product",
    "Resolved",
    "find_area",
    "fit_grid",
]

if TYPE_CHECKING:  # workers import this for their kernels and search nothing: 100 MB each
    from engine.catalog.search import SearchResult

R = TypeVar("R", bound=Recipe)

SNAPSHOT = "items.parquet"
"""What the frozen catalogue of the main source is called, after the store's name."""

_MOST_TILES = 4_000_000


@dataclass(frozen=True)
class Context:
    """What resolving a recipe takes from outside of it.

    Attributes
    ----------
    base : folder of the recipe's relative paths.
    judged : whether an item's radiometry is suspect, by content stamp, as earlier runs found.
    tell : gets a line of text for each step that may take a while.
    """

    base: Path
    judged: Mapping[str, bool] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Resolved:
    """A recipe, resolved: what a run of any product needs.

    Attributes
    ----------
    area : the wanted one.
    grid : Grid
    support : where stages are defined.
    bands : as named in the store.
    found : answers of the searches by the recipe's section, the first that of the main source.
    stages : in the order of the data's flow.
    form : how the map is published and drawn.
    notes : what was repaired or decided, for people and the report.
    card : of the model that the report names; None where there is none.
    cities : that models of their own map beside it; None where the product knows no such.
    scenes : likewise.
    """

    area: Area
    grid: Grid
    support: Support
    bands: tuple[str, ...]
    found: Mapping[str, SearchResult]
    stages: tuple[Stage, ...]
    form: Form
    notes: tuple[str, ...]
    card: ModelCard | None = None
    cities: Cities | None = None
    scenes: SceneCards | None = None

    @property
    def items(self) -> tuple[Item, ...]:
        """Items of the main source."""
        return next(iter(self.found.values())).items

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """(id, reason) of items of the main source that cannot be used."""
        return next(iter(self.found.values())).left_out


@dataclass(frozen=True)
class Product(Generic[R]):
    """One kind of map.

    Attributes
    ----------
    name : as recipes have it.
    schema : its recipe.
    resolve : makes searches and stages of a recipe; writes nothing.
    sources : sections of the recipe that name a catalogue, the main one first.
    template : a commented recipe to start from, YAML.
    reference : what a map is compared with: LCZ codes of cells, green space of pixels, codes of
        classes of pixels, or None: nothing.
    form : how it is published and drawn, where that is the same for all its models: folders of
        before releases told it are read by it.
    item : what an item of its main source is called.
    before : arrays that stores of version 1 have by other names.
    training : the recipe by which its models are trained; None: natmap trains none.
    """

    name: str
    schema: type[R]
    resolve: Callable[[R, Context], Resolved]
    sources: tuple[str, ...]
    template: str
    form: Form | None = None
    reference: Literal["cells", "pixels", "classes"] | None = None
    item: str = "scene"
    before: Mapping[str, str] = field(default_factory=dict)
    training: type[TrainingRecipe] | None = None

    def main(self, recipe: R) -> str:
        """The section of a recipe that names its main source."""
        return next(name for name in self.sources if getattr(recipe, name) is not None)

    def snapshots(self, recipe: R) -> dict[str, str]:
        """What frozen catalogues are called after the store's name, by the recipe's section."""
        there = [name for name in self.sources if getattr(recipe, name) is not None]
        return {name: f"{name}.parquet" if k else SNAPSHOT for k, name in enumerate(there)}


class Polygons:
    """Polygons that can be asked for those near a tile, once the grid is known."""

    def __init__(self) -> None:
        self._boundary: Boundary | None = None

    def bind(self, polygons: Iterable[BaseGeometry], grid: Grid) -> None:
        """Say which they are, in the grid's CRS."""
        self._boundary = Boundary(polygons, grid)

    def near(self, tile: Tile, reach: float = 0.0) -> tuple[tuple[bytes, ...] | None, bytes]:
        """Those within `reach` metres of a tile (WKB), None where all is wanted; their digest."""
        return (None, b"") if self._boundary is None else self._boundary.near(tile, reach)


class Mask(Polygons):
    """The product mask of a recipe.

    Parameters
    ----------
    recipe : Recipe
    base : folder of its relative paths.
    """

    def __init__(self, recipe: Recipe, base: Path) -> None:
        super().__init__()
        self._choice, self._base = recipe.mask, base

    def __bool__(self) -> bool:
        return self._choice is not None

    @property
    def parameter(self) -> str | None:
        """For fingerprints: what lies outside of it."""
        return None if self._choice is None else self._choice.outside

    def find(self, grid: Grid, area: Area) -> Sequence[str]:
        """Read the boundaries; gives what was repaired of them."""
        if self._choice is None:
            return ()
        from engine.catalog.boundaries import read_mask

        polygons, notes = read_mask(self._choice.boundaries, area, self._base)
        self.bind(polygons, grid)
        return notes

    def parts(self, tile: Tile) -> list[Part]:
        """The polygons as the one part of a stage."""
        payload, digest = self.near(tile)
        return [Part()] if payload is None else [Part(0, digest, payload)]


def find_area(recipe: Recipe, base: Path) -> tuple[Area, list[str]]:
    """The wanted area of a recipe in its grid's CRS, and what was repaired of it.

    Raises
    ------
    AreaError, CatalogError
        Where there is none.
    """
    from engine.catalog.boundaries import resolve_area

    area, notes = resolve_area(recipe.area, recipe.grid.crs, base)
    return area, list(notes)


def fit_grid(
    area: Area, choice: GridChoice, stages: Sequence[Stage], cell: float, unit: float
) -> tuple[Grid, float]:
    """The grid that holds an area and all that its stages read around it.

    Parameters
    ----------
    area : Area
    choice : section `grid` of the recipe.
    stages : whose halos say how far, as `link` sums them.
    cell : in which the run's area is measured, in metres.
    unit : metres to a whole number of which the reach is rounded up.

    Returns
    -------
    The grid, and the reach in metres.

    Raises
    ------
    GridError
        Where it has too many tiles, or a tile is not a whole number of a stage's cells.
    RunError
        Where a halo is wider than a tile.
    """

    def fit(reach: float) -> Grid:
        bounds = area.bounds(reach)
        grid = Grid.fit(bounds, crs=choice.crs, tile_size=choice.tile_metres, anchor=choice.origin)
        if grid.n_rows * grid.n_cols > _MOST_TILES:
            raise GridError(
                "the area needs too many tiles",
                got=f"{grid.n_rows} x {grid.n_cols}",
                remedy="choose a larger grid.tile, or look at the area's CRS",
            )
        return grid

    reach = max(link(stages, fit(0.0), cell).reach.values())
    return fit(math.ceil(reach / unit) * unit), reach
