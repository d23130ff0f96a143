"""Cities whose embeddings have been made: their cells, their labels, what may not be labelled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import zarr
from odc.geo.geobox import GeoBox

from engine.datasets.stored_vectors import StoredVectors
from engine.errors import LabelError, RecipeError, StoreError
from engine.features.osm import OsmSource, codes_of_cells, open_osm
from engine.features.source import HERE
from engine.grid.area import reproject
from engine.labels.sampling import SAMPLE, Samples, areas_without_cells, cells_of_areas
from engine.labels.sampling import cells_of_raster as of_raster
from engine.labels.training_areas import read_training_areas
from engine.legend import LCZ, Reason
from engine.products.embedding import embedding_of
from engine.products.published import SHARE_OF_WATER
from engine.products.registry import load_recipe
from engine.products.vectors import POOL, SCALE, VECTORS
from engine.propagation.guards import touching
from engine.recipes.embeddings import EmbeddingRecipe
from engine.recipes.osm import OsmLabels
from engine.recipes.propagating import EmbeddedCity
from engine.store.copying import grid_of
from engine.store.ledger import Ledger, State
from engine.store.location import location_of
from engine.store.repository import Store
from engine.vectors.read import read_vectors

__all__ = [
    "Embedded",
    "made_by",
    "open_embedded",
    "require_one_embedding",
    "require_whole",
]


@dataclass(frozen=True)
class Embedded:
    """The cells of a city that have a vector, or are water without one.

    Attributes
    ----------
    name : of the city.
    cells : all of the store's, GeoBox.
    rows, cols : int64 (n,), of these cells, row by row.
    features : float32 (n, features), read when they are asked for; NaN of cells without a vector.
    there : bool (n,), whether a cell has a vector.
    water : float64 (n,), share of a cell's pixels that a published embedding calls water; None: its
        source does not say.
    names : of the features.
    made_by : settings of the stage that made the vectors: of one model, with one cell.
    labels : SAMPLE array of its labelled cells; its `row` and `col` are of `cells`.
    held : float64 (m, 4), left, bottom, right, top of ground that may not be labelled.
    snapshot : of the store.
    notes : for people.
    recipe : of the embedding; folder : of its relative paths.
    osm : uint8 (n,), local climate zone that OpenStreetMap gives a cell, 0 for none and where the
        cell is labelled or may not be; None: it was not asked.
    source : the extract of OpenStreetMap.
    """

    name: str
    cells: GeoBox
    rows: npt.NDArray[np.int64]
    cols: npt.NDArray[np.int64]
    features: StoredVectors
    there: npt.NDArray[np.bool_]
    water: npt.NDArray[np.float64] | None
    names: tuple[str, ...]
    made_by: dict[str, Any]
    labels: Samples
    held: npt.NDArray[np.float64]
    snapshot: str
    notes: tuple[str, ...]
    recipe: EmbeddingRecipe
    folder: Path
    osm: npt.NDArray[np.uint8] | None = None
    source: OsmSource | None = None

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
        """Positions among the cells of those with a label, and their codes."""
        found = self.find(self.labels["row"] * self.cells.shape[1] + self.labels["col"])
        here = found >= 0
        return found[here], self.labels["lcz"][here].astype(np.int64)

    def find(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of cells by their ids, -1 where one is not among these."""
        mine = self.ids  # ascending: the cells go row by row
        place = np.searchsorted(mine, ids)
        here = place < len(mine)
        here[here] &= mine[place[here]] == ids[here]
        return np.where(here, place, -1)

    def in_held(self, where: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which cells at positions share ground with what is held, (n,)."""
        return touching(self.xy[where], self.side, self.held)


def open_embedded(city: EmbeddedCity, base: Path, water: float | None = None) -> Embedded:
    """Open a city's vectors, and find the cells that its labels are of.

    Parameters
    ----------
    city : entry of a recipe.
    base : folder of its relative paths.
    water : share of water from which on a cell is kept that has no vector; None: none is.

    Raises
    ------
    RecipeError, StoreError
        Where there is no embedding, not of one model, or not a whole one.
    LabelError
        Where labels cannot be read, or name no cell.
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
    ledger = Ledger.of(reader)
    notes = require_whole(ledger, store, city.recipe)
    reasons = np.asarray(root["embedding/reason"])
    known = reasons == Reason.DATA
    kept, share = known, None
    if water is not None and SHARE_OF_WATER in root:
        share = np.nan_to_num(np.asarray(root[SHARE_OF_WATER], np.float64))
        kept = known | (share >= water)
    rows, cols = np.nonzero(kept)
    if not known.any():
        raise StoreError(
            "no cell of the embedding has a vector",
            got=str(store.place),
            remedy=f"natmap embed {city.recipe}, then look at its reasons",
        )
    side = float(store.identity["arrays"][VECTORS]["resolution"])
    cells = grid_of(store).geobox(side)
    name = city.name or recipe.name
    labels, more = _labels(city, cells, base, name)
    more += _notes_of(labels, known)
    _require_inside(labels, reasons, name)
    held, told = _held(city, cells, base)
    more += told
    scale = np.asarray(root[SCALE]) if SCALE in root else None
    found = Embedded(
        name,
        cells,
        rows.astype(np.int64),
        cols.astype(np.int64),
        StoredVectors(root[VECTORS], scale, rows, cols),
        known[rows, cols],
        None if share is None else share[rows, cols],
        tuple(map(str, store.identity["arrays"][VECTORS]["labels"]["feature"])),
        made_by(ledger, store),
        labels,
        held,
        reader.snapshot_id,
        (*notes, *more),
        recipe,
        path.parent,
    )
    return found if city.osm is None else _with_osm(found, city.osm, base, grid_of(store).anchor)


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


def made_by(ledger: Ledger, store: Store, stage: str = "embedding") -> dict[str, Any]:
    """By what all vectors of a store were made; how they are stored decides nothing.

    Raises
    ------
    RecipeError
        Where tiles were made by different models or settings.
    """
    records = ledger.records(stage)
    stamps = {str(r["settings"]) for _, _, r in records if r["state"] == State.DONE}
    found: list[dict[str, Any]] = [
        dict(deepcopy(ledger.settings.get(stage, {}).get(stamp, {}))) for stamp in stamps
    ]
    for settings in found:
        settings.pop("dtype", None)
        for told in settings.get("features", {}).values():
            told.pop(HERE, None)
    if not found or any(settings != found[0] for settings in found):
        raise RecipeError(
            "tiles of the embedding were made with different settings",
            got=f"{store.place}: {len(found)} settings",
            remedy="run it again",
        )
    return found[0]


def require_whole(ledger: Ledger, store: Store, recipe: str) -> list[str]:
    """Refuse an embedding whose run was broken off; note tiles that failed.

    The run is over when its last stage but one, the mean of all vectors, is done.

    Raises
    ------
    StoreError
    """
    counts = dict.fromkeys(State, 0)
    for _, _, record in ledger.records("embedding"):
        counts[State(int(record["state"]))] += 1
    over = [r for _, _, r in ledger.records(POOL) if r["state"] == State.DONE]
    lost = counts[State.FAILED] + counts[State.BLOCKED]
    if not over:
        raise StoreError(
            "the embedding is not whole",
            got=f"{store.place}: {counts[State.DONE]} tiles are done, {lost} failed, and the run "
            "has not come to its end",
            expected="an embedding whose run has ended",
            remedy=f"natmap embed {recipe}, which goes on where it stopped",
        )
    if not lost:
        return []
    tiles = "a tile" if lost == 1 else f"{lost} tiles"
    return [f"{tiles} of the embedding failed: cells there have no vector"]


def _require_inside(labels: Samples, reasons: npt.NDArray[Any], name: str) -> None:
    """Refuse labels all of which lie outside of the area that was embedded."""
    if not len(labels):
        return
    outside = np.isin(
        reasons[labels["row"], labels["col"]], (Reason.OUTSIDE_AREA, Reason.NOT_COMPUTED)
    )
    if outside.all():
        raise LabelError(
            f"the labels of {name} lie outside of the area of its embedding",
            got=f"{len(labels)} labelled cells, none of them within",
            expected="labels on ground that was embedded",
            remedy="check that they are those of this city, or embed a larger area",
        )


def _notes_of(labels: Samples, known: npt.NDArray[np.bool_]) -> list[str]:
    """What is odd about a city's labels."""
    notes = []
    without = int((~known[labels["row"], labels["col"]]).sum())
    if without:
        notes.append(f"{without} of {len(labels)} labelled cells have no vector, and take no part")
    classes = np.unique(labels["lcz"]).tolist()
    if len(classes) == 1:
        notes.append(f"all its labels are of one class, LCZ {LCZ[classes[0] - 1].label}")
    return notes


def _with_osm(
    city: Embedded, wanted: OsmLabels, base: Path, anchor: tuple[float, float]
) -> Embedded:
    """The same with cells that OpenStreetMap labels; what a person labelled, or held, stays so."""
    bounds = city.cells.boundingbox
    source = open_osm(
        base / wanted.path,
        wanted.classes,
        str(city.cells.crs),
        (bounds.left, bounds.bottom, bounds.right, bounds.top),
        extent=None if wanted.extent is None else base / wanted.extent,
        year=wanted.year,
    )
    codes = codes_of_cells(source.reader, city.cells, anchor, wanted.least)[city.rows, city.cols]
    codes[city.labelled()[0]] = 0
    codes[city.in_held(np.arange(len(codes)))] = 0
    notes = (*city.notes, *source.notes)
    return replace(city, osm=codes, source=source, notes=notes)


def _labels(city: EmbeddedCity, cells: GeoBox, base: Path, name: str) -> tuple[Samples, list[str]]:
    if city.areas is not None:
        found = read_training_areas(base / city.areas, field=city.field)
        samples = cells_of_areas(found.areas, cells)
        notes = areas_without_cells(found.areas, samples, cells)
        if not len(samples):
            raise LabelError(
                f"the training areas of {name} label no cell of its embedding",
                got=f"{city.areas}: {'; '.join(notes)}"[:300],
                remedy="check that they are those of this city",
            )
        return samples, [*found.notes, *notes]
    if city.raster is not None:
        within = None if city.within is None else base / city.within
        return of_raster(base / city.raster, cells, within=within), []
    return np.zeros(0, SAMPLE), []


def _held(
    city: EmbeddedCity, cells: GeoBox, base: Path
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Bounds of each polygon, more ground than it has and never less; and what is odd of them.

    Raises
    ------
    LabelError
        Where the file has none: nothing would be held.
    """
    if city.held is None:
        return np.zeros((0, 4)), []
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
    if not bounds:
        raise LabelError(
            f"{found.name} holds no polygons, so no ground is held out",
            got="; ".join(found.notes)[:300] or "no features",
            expected="polygons of the ground that validates or tests",
            remedy="name the file of these polygons, or leave held out",
        )
    boxes = np.array(bounds, np.float64).reshape(-1, 4)
    ground = cells.boundingbox
    here = (boxes[:, 0] < ground.right) & (boxes[:, 2] > ground.left)
    here &= (boxes[:, 1] < ground.top) & (boxes[:, 3] > ground.bottom)
    return boxes, [] if here.any() else [f"no polygon of {found.name} holds ground of it out"]
