"""Cities whose embeddings have been made: their cells, their labels, what may not be labelled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import zarr
from odc.geo.geobox import GeoBox

from engine.errors import LabelError, RecipeError, StoreError
from engine.grid.area import reproject
from engine.infer.vectors import decode_vectors
from engine.labels.sampling import SAMPLE, Samples, areas_without_cells, cells_of_areas
from engine.labels.sampling import cells_of_raster as of_raster
from engine.labels.training_areas import read_training_areas
from engine.products.embedding import EmbeddingRecipe, embedding_of
from engine.products.registry import load_recipe
from engine.products.vectors import SCALE, VECTORS
from engine.recipes.propagating import EmbeddedCity
from engine.store.copying import grid_of
from engine.store.ledger import Ledger, State
from engine.store.location import location_of
from engine.store.repository import Store
from engine.vectors.read import read_vectors

__all__ = ["Embedded", "open_embedded", "require_one_embedding"]


@dataclass(frozen=True)
class Embedded:
    """The cells of a city that have a vector.

    Attributes
    ----------
    name : of the city.
    cells : all of the store's, GeoBox.
    rows, cols : int64 (n,), of the cells with a vector.
    features : float32 (n, features)
    names : of the features.
    made_by : settings of the stage that made the vectors: of one model, with one cell.
    labels : SAMPLE array of its labelled cells; its `row` and `col` are of `cells`.
    held : float64 (m, 4), left, bottom, right, top of ground that may not be labelled.
    snapshot : of the store.
    notes : for people.
    recipe : of the embedding; folder : of its relative paths.
    """

    name: str
    cells: GeoBox
    rows: npt.NDArray[np.int64]
    cols: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    names: tuple[str, ...]
    made_by: dict[str, Any]
    labels: Samples
    held: npt.NDArray[np.float64]
    snapshot: str
    notes: tuple[str, ...]
    recipe: EmbeddingRecipe
    folder: Path

    @property
    def digest(self) -> str:
        """Of what made the vectors: pseudo-labels name it."""
        return hashlib.sha256(json.dumps(self.made_by, sort_keys=True).encode()).hexdigest()

    @property
    def side(self) -> float:
        """Of a cell, in metres."""
        return float(self.cells.resolution.x)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Row times width plus column."""
        return np.asarray(self.rows * self.cells.shape[1] + self.cols)

    @property
    def xy(self) -> npt.NDArray[np.float64]:
        """Centres of the cells in metres (n, 2)."""
        corner, side = self.cells.transform, self.side
        x = corner.c + (self.cols + 0.5) * side
        return np.stack([x, corner.f - (self.rows + 0.5) * side], axis=1)

    def labelled(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Positions among the cells with a vector of those with a label, and their codes."""
        found = self.find(self.labels["row"] * self.cells.shape[1] + self.labels["col"])
        there = found >= 0
        return found[there], self.labels["lcz"][there].astype(np.int64)

    def find(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of cells among those with a vector, -1 where one has none."""
        order = np.argsort(self.ids)
        found = np.searchsorted(self.ids, ids, sorter=order)
        there = found < len(order)
        there[there] &= self.ids[order[found[there]]] == ids[there]
        return np.where(there, order[np.where(there, found, 0)], -1)

    def in_held(self, where: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which cells at positions share ground with what is held, (n,)."""
        low, high = self.xy[where] - self.side / 2, self.xy[where] + self.side / 2
        found = np.zeros(len(where), bool)
        for left, bottom, right, top in self.held:
            over = (low < (right, top)).all(axis=1) & (high > (left, bottom)).all(axis=1)
            found |= over
        return found


def open_embedded(city: EmbeddedCity, base: Path) -> Embedded:
    """Read a city's vectors, and find the cells that its labels are of.

    Parameters
    ----------
    city : entry of a recipe.
    base : folder of its relative paths.

    Raises
    ------
    RecipeError, StoreError
        Where there is no embedding, or not of one model.
    LabelError
        Where labels cannot be read.
    """
    path = base / city.recipe
    recipe = embedding_of(load_recipe(path))
    store = Store.open(location_of(recipe.store, path.parent))
    reader = store.reader()
    root: Any = zarr.open_group(reader.store, mode="r")
    if VECTORS not in root:
        raise StoreError(
            "the store has no embedding",
            got=str(store.place),
            remedy=f"natmap embed {city.recipe}",
        )
    array = root[VECTORS]
    scale = np.asarray(root[SCALE]) if SCALE in root else None
    vectors = decode_vectors(np.asarray(array), scale)
    known = (np.asarray(root["embedding/reason"]) == 0) & ~np.isnan(vectors).any(axis=0)
    rows, cols = np.nonzero(known)
    if not len(rows):
        raise StoreError(
            "no cell of the embedding has a vector",
            got=str(store.place),
            remedy=f"natmap embed {city.recipe}, then look at its reasons",
        )
    side = float(store.identity["arrays"][VECTORS]["resolution"])
    cells = grid_of(store).geobox(side)
    labels, notes = _labels(city, cells, base)
    return Embedded(
        city.name or recipe.name,
        cells,
        rows.astype(np.int64),
        cols.astype(np.int64),
        np.ascontiguousarray(vectors[:, known].T),
        tuple(map(str, store.identity["arrays"][VECTORS]["labels"]["feature"])),
        _settings(Ledger.of(reader), store),
        labels,
        _held(city, cells, base),
        reader.snapshot_id,
        tuple(notes),
        recipe,
        path.parent,
    )


def require_one_embedding(cities: Sequence[Embedded]) -> None:
    """Refuse cities whose vectors cannot be compared.

    Raises
    ------
    LabelError
        Where models, cells or features differ, or two cities have one name.
    """
    first = cities[0]
    for other in cities[1:]:
        for what, one, two in (
            ("features", first.names, other.names),
            ("cells", first.side, other.side),
            ("settings", first.made_by, other.made_by),
        ):
            if one != two:
                raise LabelError(
                    f"the embeddings of two cities differ in their {what}",
                    got=f"{first.name}: {one!r:.200}; {other.name}: {two!r:.200}",
                    expected="one model, one cell and one set of bands for all cities",
                )
    names = [city.name for city in cities]
    if len(set(names)) < len(names):
        raise LabelError(
            "two cities have one name", got=", ".join(names), remedy="give each a name of its own"
        )


def _settings(ledger: Ledger, store: Store) -> dict[str, Any]:
    """By what all vectors of a store were made; how they are stored decides nothing."""
    records = ledger.records("embedding")
    stamps = {str(r["settings"]) for _, _, r in records if r["state"] == State.DONE}
    found = [dict(ledger.settings.get("embedding", {}).get(stamp, {})) for stamp in stamps]
    for settings in found:
        settings.pop("dtype", None)
    if not found or any(settings != found[0] for settings in found):
        raise RecipeError(
            "tiles of the embedding were made with different settings",
            got=f"{store.place}: {len(found)} settings",
            remedy="run it again",
        )
    return found[0]


def _labels(city: EmbeddedCity, cells: GeoBox, base: Path) -> tuple[Samples, list[str]]:
    if city.areas is not None:
        found = read_training_areas(base / city.areas, field=city.field)
        samples = cells_of_areas(found.areas, cells)
        return samples, [*found.notes, *areas_without_cells(found.areas, samples, cells)]
    if city.raster is not None:
        within = None if city.within is None else base / city.within
        return of_raster(base / city.raster, cells, within=within), []
    return np.zeros(0, SAMPLE), []


def _held(city: EmbeddedCity, cells: GeoBox, base: Path) -> npt.NDArray[np.float64]:
    """Bounds of each polygon: more ground than it has, never less."""
    if city.held is None:
        return np.zeros((0, 4))
    found = read_vectors(base / city.held, what="file of held-out areas")
    bounds = []
    for layer, parts in found.polygons(LabelError):
        if layer.crs is None:
            raise LabelError(
                f"{found.name} does not say which CRS it is in",
                remedy="add the .prj that came with the data",
            )
        moved = (reproject(polygon, layer.crs, str(cells.crs)) for polygon in parts.polygons)
        bounds += [shapely.bounds(polygon) for polygon in moved]
    return np.array(bounds, np.float64).reshape(-1, 4)
