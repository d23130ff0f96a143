"""Where a product's pixels come from: searched once, checked, and found again by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.accounting import Pool, spent
from engine.addresses import public_address
from engine.cube.access import Access, count_unverifiable, require_folder
from engine.cube.radiometry import find_suspect
from engine.cube.read import sample_item
from engine.errors import CatalogError, ReadError, RecipeError
from engine.grid.area import Area
from engine.grid.grid import Grid
from engine.items import SCL, Item, band_name
from engine.products.index import ItemIndex
from engine.recipes.periods import CubePeriod
from engine.recipes.sections import Imagery, Images

if TYPE_CHECKING:  # workers import this for their kernels and search nothing: 100 MB each
    from engine.catalog.search import SearchResult

__all__ = ["RGB", "ImageSource", "SceneSource", "doubts_of"]

RGB = ("B04", "B03", "B02")
"""Bands of an image, as they are named everywhere: red, green, blue."""

_GUARD = ("B02", "B11", "B12", SCL)
_COARSE = 2.0  # metres, of pixels that are to be read at 1 m


class _Source:
    """A catalogue, opened; its items are searched once the grid is known.

    Stages are built before the search, since the ground to be searched follows from their halos.
    They hold the source and ask its index when they are asked for a tile's parts.

    Attributes
    ----------
    access : how files are opened.
    """

    def __init__(
        self, wanted: Imagery, base: Path, periods: Mapping[str, CubePeriod] | None = None
    ) -> None:
        from engine.catalog.search import find_source, open_hosts
        from engine.catalog.signing import make_signer

        self._wanted, self._base, self._periods = wanted, base, periods or {}
        self._card, self._where = find_source(wanted, base)
        self._index: ItemIndex | None = None
        hosts = open_hosts(self._where, wanted)
        self.access = Access(make_signer(self._card), verify=wanted.verify, hosts=hosts)

    @property
    def index(self) -> ItemIndex:
        """The items by tile."""
        assert self._index is not None, "the source has not been searched"
        return self._index

    def _search(
        self, area: Area, bands: Sequence[str], tell: Callable[[str], None]
    ) -> SearchResult:
        from engine.catalog.search import search

        tell(f"searching {self._card.name}: {public_address(self._where)}")
        with spent("search"):
            return search(
                self._card, self._where, area, self._wanted, bands, self._base, self._periods
            )

    def _unverifiable(self, items: Iterable[Item], names: Sequence[str]) -> list[str]:
        if not self.access.verify:
            return []
        require_folder()
        of, unverifiable = count_unverifiable(items, names)
        if not unverifiable:
            return []
        return [f"verify: {unverifiable} of {of} files have no file:checksum and go unchecked"]


class SceneSource(_Source):
    """Scenes of Sentinel-2.

    Parameters
    ----------
    wanted : section `imagery` of a recipe.
    base : folder of the recipe's relative paths.
    periods : of the recipe's cube, by label; no scene of other days is looked at.
    """

    @property
    def year(self) -> int:
        """Of the middle of the period that is searched."""
        period = self._wanted.period
        return (period.first + (period.last - period.first) / 2).year

    def find(
        self,
        area: Area,
        bands: Sequence[str],
        grid: Grid,
        *,
        known: Mapping[str, bool],
        tell: Callable[[str], None],
    ) -> tuple[SearchResult, list[str]]:
        """Search, and judge the radiometry of what no earlier run has judged.

        Parameters
        ----------
        area : the wanted one.
        bands : as in the store.
        grid : Grid
        known : whether an item is suspect, by content stamp, as earlier runs found.
        tell : gets a line of text.

        Returns
        -------
        The result with decided items, and notes for people.

        Raises
        ------
        CatalogError
            Where nothing is found, or nothing that can be used.
        """
        names = [band_name(band) for band in bands]
        found = self._search(area, names, tell)
        items = _decide(found.items, self.access, known)
        notes = []
        suspects = [item.id for item in items if item.suspect]
        if suspects:
            notes.append(f"radiometry suspect, left out: {', '.join(suspects)}")
        believed = [note for item in items for note in item.notes if "believed" in note]
        if believed:
            more = f", and {len(believed) - 1} more like it" if believed[1:] else ""
            notes.append(f"{believed[0]}{more}")
        undecided = [item.id for item in items if item.suspect is None]
        if undecided:
            notes.append(f"radiometry not judged yet, unreadable today: {', '.join(undecided)}")
        for label, mine in self._of_periods(items).items():
            if all(item.suspect for item in mine):
                of = "" if label is None else f" of period {label}"
                raise CatalogError(
                    f"all items found{of} have a suspect radiometry",
                    got=", ".join(item.id for item in mine[:5]) or "none of its own days",
                )
        notes += self._unverifiable(items, [*names, SCL])
        self._index = ItemIndex(items, names, grid)
        return replace(found, items=items), notes

    def _of_periods(self, items: Sequence[Item]) -> Mapping[str | None, Sequence[Item]]:
        """Items by the period that they are of; all of them where there are no periods."""
        if not self._periods:
            return {None: items}
        return {
            label: [item for item in items if period.holds(item.solar_day)]
            for label, period in self._periods.items()
        }


class ImageSource(_Source):
    """Frames of 1 m images.

    Parameters
    ----------
    images : section `images` of a recipe.
    base : folder of the recipe's relative paths.
    """

    def __init__(self, images: Images, base: Path) -> None:
        super().__init__(images.wanted, base)
        self.images = images

    def find(
        self,
        area: Area,
        bands: Sequence[str],
        grid: Grid,
        *,
        tell: Callable[[str], None] = lambda text: None,
    ) -> tuple[SearchResult, list[str]]:
        """Search the frames of an area; parameters and results as of `SceneSource.find`.

        Raises
        ------
        CatalogError
            Where nothing is found.
        RecipeError
            Where the recipe's order names frames that are not there.
        """
        found = self._search(area, bands, tell)
        order = self.images.order
        if unknown := set(order if isinstance(order, tuple) else ()) - {i.id for i in found.items}:
            raise RecipeError(
                "images.order names frames that are not there",
                got=", ".join(sorted(unknown)[:5]),
                expected=f"ids of the {len(found.items)} frames found",
            )
        self._index = ItemIndex(found.items, bands, grid)
        notes = doubts_of(self.images, self._index)
        return found, [*notes, *self._unverifiable(found.items, bands)]


def doubts_of(images: Images, index: ItemIndex) -> list[str]:
    """What people should know of the frames found: an order without effect, coarse pixels."""
    notes = []
    if images.order == "nadir" and all(item.off_nadir is None for item in index.items):
        notes.append("images.order: no frame says view:off_nadir, so that nadir is newest")
    coarse = [side for side in index.sides if side is not None and side > _COARSE]
    if coarse:
        notes.append(
            f"{len(coarse)} of {len(index.items)} frames have pixels of more than {_COARSE:g} m, "
            f"up to {max(coarse):.1f} m: enlarged to 1 m they show no more than they did"
        )
    return notes


def _decide(items: tuple[Item, ...], access: Access, known: Mapping[str, bool]) -> tuple[Item, ...]:
    """Run the radiometry guard on items that no earlier run decided.

    What it suspects is read once more, past caches and checked where files are to be: few items
    are, and a bit that flipped on the way must not cost a scene. All others are sampled unchecked,
    which would fetch every file of a country to the driver.
    """
    plain = Access(access.sign, hosts=access.hosts)

    def decide(item: Item) -> Item:
        if item.suspect is not None:
            return item  # of a snapshot
        if item.stamp in known:
            return replace(item, suspect=known[item.stamp])
        told: dict[str, None] = {}  # in the order heard, each once
        try:
            sampled = sample_item(item, _GUARD, access=plain, tell=told.setdefault)
            why = find_suspect(sampled, item.assets)
            if why:
                sampled = sample_item(item, _GUARD, access=access, again=True)
                why = find_suspect(sampled, item.assets)
        except ReadError:
            return item  # undecided, and said so: the next run judges it
        notes = (*item.notes, *told, *([f"radiometry suspect: {why}"] if why else []))
        return replace(item, suspect=why is not None, notes=notes)

    with Pool(max_workers=8) as pool:
        return tuple(pool.map(decide, items))
