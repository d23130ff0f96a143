"""Features of the ground in products: opened with the recipe, a part of tiles, told as items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import mapping

from engine.features.opening import open_features
from engine.features.source import KNOWN, FeatureReader, FeatureSource, Origin, band_names
from engine.grid.area import Area
from engine.grid.grid import Grid, Tile
from engine.items import Asset, Item
from engine.models.card import ModelCard
from engine.models.coding import encode_ground
from engine.recipes.features import Features
from engine.recipes.sections import GridChoice
from engine.runs.stage import Input, Output, Part, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

if TYPE_CHECKING:  # as in `sources`
    from engine.catalog.search import SearchResult

__all__ = ["NO_FEATURES", "STORED", "CellFeatures", "GroundSource", "Stack"]

STORED = "features/bands"
"""Array of the store: features on the cube's pixels (`engine.models.coding`)."""


@dataclass(frozen=True)
class CellFeatures:
    """Features as components of vectors: all values of each, then the share that is known.

    Attributes
    ----------
    readers : of the features, in the recipe's order.
    names : theirs.
    """

    readers: tuple[FeatureReader, ...] = ()
    names: tuple[str, ...] = ()

    def beside(
        self, task: TileTask, vectors: npt.NDArray[np.float32], cell: float
    ) -> tuple[npt.NDArray[np.float32], str | None]:
        """Vectors (component, y, x) with the features of their cells, and what is to be noted.

        What is not known is 0, and its mask says so.
        """
        parts, empty = [vectors], []
        box = task.grid.tile_geobox(task.tile, cell)
        for name, reader in zip(self.names, self.readers, strict=True):
            values, known = reader.read(box, task.grid.anchor)
            parts += [np.where(np.isnan(values), np.float32(0.0), values), known[None]]
            if not known.any():
                empty.append(name)
        return np.concatenate(parts).astype(np.float32), _note(empty)


@dataclass(frozen=True)
class KeepFeatures:
    """Features -> features/bands, on the pixels of the cube.

    Attributes
    ----------
    readers : of the features.
    names : theirs.
    ranges : of each band, the mask of each feature last.
    resolution : metres of a pixel.
    """

    readers: tuple[FeatureReader, ...]
    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    resolution: float

    def __call__(self, task: TileTask) -> Iterator[Output]:
        box = task.grid.tile_geobox(task.tile, self.resolution)
        found = np.empty((len(self.ranges), *box.shape), np.uint16)
        number, empty = 0, []
        for name, reader in zip(self.names, self.readers, strict=True):
            values, known = reader.read(box, task.grid.anchor)
            if not known.any():
                empty.append(name)
            for plane in (*values, known):
                found[number] = encode_ground(plane, *self.ranges[number])
                number += 1
        yield Output({STORED: found}, note=_note(empty))


def _note(empty: list[str]) -> str | None:
    return f"nothing is known of feature {', '.join(empty)}" if empty else None


@dataclass(frozen=True)
class Stack:
    """What of a cube a network looks at: bands of the composite, then those of features.

    Attributes
    ----------
    order : positions among the composite's bands.
    ground : positions among the features' bands.
    """

    order: tuple[int, ...]
    ground: tuple[int, ...] = ()

    def read(self, task: TileTask, halo: int, rows: slice | None = None) -> npt.NDArray[np.uint16]:
        """Stored numbers (band, y, x) about a tile."""
        found = task.read("composite/bands", halo, rows=rows)[list(self.order)]
        if not self.ground:
            return found
        beside = task.read(STORED, halo, rows=rows)[list(self.ground)]
        return np.concatenate([found, beside])

    def inputs(self, halo: float) -> tuple[Input, ...]:
        """The stages that are read, and how far about a tile, in metres."""
        read = (Input("composite", halo),)
        return (*read, Input("features", halo)) if self.ground else read


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
        return CellFeatures(*self._readers)

    @property
    def _readers(self) -> tuple[tuple[FeatureReader, ...], tuple[str, ...]]:
        readers = tuple(source.reader for source in self.sources)
        return readers, tuple(source.name for source in self.sources)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of each band, what the numbers of a cube stand for."""
        return {
            f"{source.name}.{channel}": source.ranges.get(channel, (0.0, 1.0))
            for source in self.sources
            for channel in (*source.reader.channels, KNOWN)
        }

    def stages(self, choice: GridChoice) -> list[Stage]:
        """The stage that brings them onto the cube's pixels; none where there are no features."""
        if not self.sources:
            return []
        ranges = self.ranges
        spec = ArraySpec(
            STORED,
            "uint16",
            choice.resolution,
            choice.chunk_pixels,
            0,
            leading=(("band", self.names),),
            attrs={
                "long_name": "features of the ground: 1 is the low end of a band's range, 65535 "
                "the high one, 0 unknown",
                "ranges": {name: list(span) for name, span in ranges.items()},
            },
        )
        kernel = KeepFeatures(*self._readers, tuple(ranges.values()), choice.resolution)
        return [
            Stage(
                "features",
                kernel,
                (spec,),
                parameters={**self.parameters, "ranges": {k: list(v) for k, v in ranges.items()}},
                parts=lambda tile: [Part(0, self.stamp(tile))],
                outside="feature",
                gigabytes=2.0 + 8 * len(self.names) * choice.tile**2 / 1e9,
            )
        ]

    def places(self, card: ModelCard) -> tuple[int, ...]:
        """Positions of a card's features among those of the cube."""
        return tuple(self.names.index(band) for band in card.bands[len(card.imagery) :])

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
        """What people should know: files and their years, and what they lack."""
        return [
            note
            for source in self.sources
            for note in (*(_words(source.name, o) for o in source.origins), *source.notes)
        ]

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


def _words(name: str, origin: Origin) -> str:
    """A feature's files in a line: no folder of the machine, and a CRS without a code by name."""
    crs = origin.crs if len(origin.crs) < 40 else "a CRS of its own"
    files = f"{origin.files} files of " if origin.files > 1 else ""
    year = "" if origin.year is None else f", of {origin.year}"
    return (
        f"{name}: {files}{Path(origin.place).name}, {origin.size} bytes, {crs}{year}, "
        f"stamp {origin.stamp[:16]}"
    )


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
        notes=(_words(name, origin),),
        licence=origin.licence,
        attribution=origin.attribution,
        citation=origin.citation,
    )
