"""Published embeddings as the source of a product: opened once, told as one item, read by tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from shapely.geometry import box, mapping

from engine.addresses import is_http
from engine.cube.published.opening import name_of, open_published, stamp_of
from engine.cube.published.reader import Published
from engine.cube.published.rules import NODATA, VALID, WATER
from engine.cube.published.sheet import Method
from engine.cube.warp import crs_text
from engine.grid.area import Area
from engine.infer.aggregate import aggregate_cells
from engine.infer.vectors import vector_outputs
from engine.items import Asset, Item
from engine.legend import Reason
from engine.maps.cells import cell_reason
from engine.products.features import NO_FEATURES, CellFeatures
from engine.products.vectors import VECTORS
from engine.recipes.embeddings import Embeddings, Kind
from engine.runs.stage import Output
from engine.runs.task import TileTask

if TYPE_CHECKING:  # as in `sources`
    from engine.catalog.search import SearchResult

__all__ = ["SHARE_OF_WATER", "STRIP", "AggregatePublished", "PublishedSource", "opened"]

SHARE_OF_WATER = "embedding/water"
"""Array of the store: share of a cell's pixels that the source calls water, 0 to 1."""

STRIP = 1 << 28
"""Bytes of vectors of pixels that are read at once."""

_ALPHAEARTH = (
    "CC-BY-4.0",
    "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google "
    "DeepMind.",
)


class PublishedSource:
    """The section `embeddings` of a recipe, opened and checked.

    Parameters
    ----------
    wanted : the section.
    base : folder of the recipe's relative paths.

    Attributes
    ----------
    place : an absolute path, or an address.
    channels : of its vectors.
    stamp : of its files.
    model : that made its vectors, "" where it does not say.
    """

    def __init__(self, wanted: Embeddings, base: Path) -> None:
        self.wanted = wanted
        remote = is_http(wanted.source)
        self.place = wanted.source if remote else str((base / wanted.source).absolute())
        found = open_published(self.place, wanted.form)
        found.require_year(wanted.year)
        self.channels, self.model = found.channels, found.model
        self.stamp = stamp_of(self.place)
        self._found = found

    @property
    def notes(self) -> list[str]:
        """What people should know of it."""
        if self._found.years:
            return []
        return [
            f"embeddings: {self._found.title} does not say of which year it is; it is taken to be "
            f"of {self.wanted.year}"
        ]

    def require_ground(self, area: Area) -> None:
        """Refuse an area of which the source has no ground.

        Raises
        ------
        RecipeError
        """
        self._found.require_ground(area.bounds(), crs_text(area.crs), self.wanted.year)

    def find(self, area: Area) -> SearchResult:
        """The source as an item: what a product is derived from, and under which terms.

        Raises
        ------
        RecipeError
            Where it has no ground of the area.
        """
        from engine.catalog.search import SearchResult

        self.require_ground(area)
        wanted, place = self.wanted, self.place
        west, south, east, north = area.geographic.bounds
        licence, attribution = wanted.licence, wanted.attribution
        if self.channels[0] == "A00":  # its terms ask for this sentence
            licence, attribution = licence or _ALPHAEARTH[0], attribution or _ALPHAEARTH[1]
        item = Item(
            id=f"{name_of(place)}-{wanted.year}",
            collection="embeddings",
            source="embeddings",
            datetime=datetime(wanted.year, 1, 1, 12, tzinfo=UTC),
            end=datetime(wanted.year, 12, 31, 12, tzinfo=UTC),
            bbox=(west, south, east, north),
            geometry=mapping(box(west, south, east, north)),
            centroid_lon=(west + east) / 2,
            stamp=self.stamp.hex(),
            assets={"embeddings": Asset(place)},
            suspect=False,
            licence=licence,
            attribution=attribution,
            citation=wanted.citation,
        )
        return SearchResult((item,), (), 0)


@lru_cache(maxsize=4)
def opened(place: str, form: Kind | None, stamp: bytes) -> Published:
    """A source, once for a process and for as long as its files are the same."""
    return open_published(place, form)


@dataclass(frozen=True)
class AggregatePublished:
    """Published vectors of pixels -> embedding/*: their statistics in each cell, and its water."""

    place: str
    form: Kind | None
    year: int
    method: Method
    stamp: bytes
    resolution: float
    side: int  # pixels along a cell
    kind: str
    ground: CellFeatures = NO_FEATURES

    def __call__(self, task: TileTask) -> Iterator[Output]:
        source = opened(self.place, self.form, self.stamp)
        window = task.grid.tile_geobox(task.tile, self.resolution)
        height, width = window.shape
        row = len(source.channels) * width * self.side * 4
        strip = max(STRIP // row, 1) * self.side
        vectors, water, reasons = [], [], []
        for top in range(0, height, strip):
            part = window[top : min(top + strip, height), :]
            values, states = source.read(part, self.year, self.method)
            valid = states == VALID
            cells = aggregate_cells(values, valid, self.side)
            there = np.logical_not(np.isnan(cells).any(axis=0)).astype(np.uint8)
            pixels = np.where(states == NODATA, Reason.NO_SCENE, Reason.DATA).astype(np.uint8)
            shape = cells.shape[1], self.side, cells.shape[2], self.side
            vectors.append(cells)
            water.append((states == WATER).reshape(shape).mean(axis=(1, 3)))
            reasons.append(cell_reason(there, pixels, self.side))
        found = np.concatenate(vectors, axis=1)
        share = np.concatenate(water).astype(np.float32)
        wanted = task.defined(task.outputs[0].resolution)
        if wanted is not None:
            found[:, ~wanted] = np.nan
            share[~wanted] = np.nan
        found, note = self.ground.beside(task, found, task.outputs[0].resolution)
        yield Output(
            {
                **vector_outputs(VECTORS, self.kind, found),
                SHARE_OF_WATER: share,
                "embedding/reason": np.concatenate(reasons),
            },
            note=note,
        )
