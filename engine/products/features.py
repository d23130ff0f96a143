"""Features of the ground in products: opened with the recipe, a part of tiles, told as items."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import mapping

from engine.features.opening import open_features
from engine.features.source import FeatureReader, FeatureSource, Origin, band_names
from engine.grid.area import Area
from engine.grid.grid import Grid, Tile
from engine.items import Asset, Item
from engine.recipes.features import Features
from engine.recipes.sections import GridChoice
from engine.runs.task import TileTask

if TYPE_CHECKING:  # as in `sources`
    from engine.catalog.search import SearchResult

__all__ = ["NO_FEATURES", "CellFeatures", "GroundSource"]


@dataclass(frozen=True)
class CellFeatures:
    """Features as components of vectors: all values of each, then the share that is known.

    Attributes
    ----------
    readers : of the features, in the recipe's order.
    """

    readers: tuple[FeatureReader, ...] = ()

    def beside(
        self, task: TileTask, vectors: npt.NDArray[np.float32], cell: float
    ) -> tuple[npt.NDArray[np.float32], str | None]:
        """Vectors (component, y, x) with the features of their cells, and what is to be noted.

        What is not known is 0, and its mask says so.
        """
        parts, empty = [vectors], []
        box = task.grid.tile_geobox(task.tile, cell)
        for number, reader in enumerate(self.readers):
            values, known = reader.read(box, task.grid.anchor)
            parts += [np.where(np.isnan(values), np.float32(0.0), values), known[None]]
            if not known.any():
                empty.append(str(number + 1))
        note = f"nothing is known of feature {', '.join(empty)}" if empty else None
        return np.concatenate(parts).astype(np.float32), note


NO_FEATURES = CellFeatures()
"""Of a recipe without such a section."""


class GroundSource:
    """The section `features` of a recipe, opened and checked.

    Parameters
    ----------
    wanted : the section; None: there are no features.
    base : folder of the recipe's relative paths.
    area : the wanted one.
    year : of what is mapped.
    choice : section `grid`.

    Attributes
    ----------
    sources : one for each feature.
    names : of all bands: ``height.mean``, the mask of each feature last.
    """

    def __init__(
        self, wanted: Features | None, base: Path, area: Area, year: int, choice: GridChoice
    ) -> None:
        self.sources: tuple[FeatureSource, ...] = open_features(
            wanted or (), base, area, year, anchor=choice.origin, resolution=choice.resolution
        )
        self.names = tuple(
            name
            for source in self.sources
            for name in band_names(source.name, source.reader.channels)
        )
        self._area = area
        self._grid: Grid | None = None

    def __bool__(self) -> bool:
        return bool(self.sources)

    def bind(self, grid: Grid) -> None:
        """Say which grid it is, before the first part is asked for."""
        self._grid = grid

    @property
    def cells(self) -> CellFeatures:
        """What a kernel makes vectors longer with."""
        return CellFeatures(tuple(source.reader for source in self.sources))

    @property
    def parameters(self) -> dict[str, Any]:
        """For the fingerprint of a stage; nothing where there are no features."""
        told = {source.name: dict(source.parameters) for source in self.sources}
        return {"features": told} if told else {}

    def stamp(self, tile: Tile) -> bytes:
        """Of the files that a tile's features are made of."""
        if not self.sources:
            return b""
        assert self._grid is not None, "features are bound to a grid first"
        bounds = self._grid.tile_bounds(tile)
        stamps = b"".join(source.stamp(bounds) for source in self.sources)
        return hashlib.blake2b(stamps, digest_size=16).digest()

    @property
    def notes(self) -> list[str]:
        """What people should know."""
        return [note for source in self.sources for note in source.notes]

    def find(self) -> dict[str, SearchResult]:
        """The files as items, by the recipe's section: what a product is derived from."""
        from engine.catalog.search import SearchResult

        if not self.sources:
            return {}
        items = [
            _item(source.name, origin, self._area)
            for source in self.sources
            for origin in source.origins
        ]
        return {"features": SearchResult(tuple(items), (), 0)}


def _item(name: str, origin: Origin, area: Area) -> Item:
    ground = area.geographic
    west, south, east, north = ground.bounds
    year = origin.year or datetime.now(UTC).year
    return Item(
        id=f"{name}-{Path(origin.place).name}-{year}",
        collection="features",
        source="features",
        datetime=datetime(year, 1, 1, 12, tzinfo=UTC),
        end=datetime(year, 12, 31, 12, tzinfo=UTC),
        bbox=(west, south, east, north),
        geometry=mapping(shapely.normalize(ground)),
        centroid_lon=(west + east) / 2,
        stamp=origin.stamp,
        assets={name: Asset(origin.place, stated=False, crs=None)},
        suspect=False,
        notes=(
            f"{name}: {origin.files} file{'s' if origin.files > 1 else ''}, {origin.size} bytes, "
            f"{origin.crs}, of {year}",
        ),
        licence=origin.licence,
        attribution=origin.attribution,
        citation=origin.citation,
    )
