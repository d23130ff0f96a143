"""Embeddings of cells: what a network sees in each, or the statistics of its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from engine.errors import CardError, RecipeError
from engine.grid.area import Support
from engine.infer.aggregate import aggregate_cells, aggregate_names
from engine.infer.cells import score_cells
from engine.infer.vectors import decode_vectors, vector_arrays, vector_outputs
from engine.items import band_name
from engine.legend import Reason, Scale
from engine.maps.cells import cell_reason
from engine.models.card import ModelCard, find_card, load_card, verify_weights
from engine.products.common import REASON_ATTRS, RESOURCES
from engine.products.composite import composite_stages
from engine.products.product import Context, Product, Resolved, find_area, fit_grid
from engine.products.sources import SceneSource
from engine.publishing.forms import Form, Layer, Vectors, reason_layer
from engine.recipes.run import Recipe
from engine.recipes.sections import Cube, Imagery, ModelChoice
from engine.runs.fold import Fold
from engine.runs.stage import Input, Output, Stage
from engine.runs.tables import Block, Column, Table
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["PRODUCT", "EmbeddingRecipe", "at_cells"]

_UNIT = 1600  # metres: a whole number of them makes a tile, and of cells most sides in use
_VECTORS, _SCALE = "embedding/vectors", "embedding/vectors_scale"
_LEAST_SPREAD = 1e-6


class EmbeddingRecipe(Recipe):
    """What an embedding is told."""

    product: Literal["embedding"]
    imagery: Imagery
    cube: Cube = Cube()
    model: ModelChoice | None = Field(
        None, description="the network; without it cells have the statistics of their pixels"
    )
    cell: float = Field(320.0, gt=0, le=1e5, description="side of a cell, metres")
    vectors: Literal["float32", "float16", "int8"] = Field(
        "float16", description="how they are stored; int8 has a scale for each vector"
    )

    @field_validator("mask")
    @classmethod
    def _unmasked(cls, value: object) -> object:
        if value is not None:
            raise ValueError("an embedding is not masked; mask what is made of it")
        return value

    @model_validator(mode="after")
    def _whole(self) -> EmbeddingRecipe:
        pixels = self.cell / self.grid.resolution
        if not math.isclose(pixels, round(pixels)) or round(pixels) < 1:
            raise ValueError(f"cell: {self.cell:g} m is not a multiple of grid.resolution")
        return self


@dataclass(frozen=True)
class EmbedCells:
    """composite -> embedding/*: the features of the patch about the centre of each cell."""

    card: ModelCard
    order: tuple[int, ...]  # positions of the card's bands among the cube's
    device: Literal["auto", "cpu", "cuda"]
    precision: str
    kind: str

    def __call__(self, task: TileTask) -> Iterator[Output]:
        # torch costs a process a second and 150 MB: the driver and readers do without
        from engine.infer.predict import get_predictor

        halo = self.card.halo
        stored = task.read("composite/bands", halo)[list(self.order)]
        seen = task.read("composite/observations", halo)
        predictor = get_predictor(self.card, self.device, self.precision)
        found = score_cells(stored, seen > 0, self.card, predictor, task.defined(self.card.cell))
        yield _embedded(task, found.features, self.card.step, self.kind)


@dataclass(frozen=True)
class AggregatePixels:
    """composite -> embedding/*: the statistics of the reflectance of each cell's own pixels."""

    side: int  # pixels along a cell
    kind: str

    def __call__(self, task: TileTask) -> Iterator[Output]:
        stored = task.read("composite/bands")
        seen = task.read("composite/observations") > 0
        reflectance = (stored.astype(np.float64) - 1000.0) / 10_000.0
        found = aggregate_cells(reflectance, seen, self.side)
        wanted = task.defined(task.outputs[0].resolution)
        if wanted is not None:
            found[:, ~wanted] = np.nan
        yield _embedded(task, found, self.side, self.kind)


def _embedded(task: TileTask, vectors: npt.NDArray[np.float32], side: int, kind: str) -> Output:
    there = np.logical_not(np.isnan(vectors).any(axis=0)).astype(np.uint8)
    reason = cell_reason(there, task.read("composite/reason"), side)
    return Output({**vector_outputs(_VECTORS, kind, vectors), "embedding/reason": reason})


@dataclass(frozen=True)
class Pool:
    """Count, mean and sum of squared departures of the vectors of a block (Chan et al., 1983)."""

    scaled: bool

    def __call__(self, block: Block) -> Table:
        values = block.read(_VECTORS)[:, block.inside(_VECTORS)]
        scale = block.read(_SCALE)[block.inside(_SCALE)] if self.scaled else None
        vectors = decode_vectors(values, scale).astype(np.float64)
        vectors = vectors[:, ~np.isnan(vectors).any(axis=0)]
        count = vectors.shape[1]
        mean = vectors.sum(axis=1) / max(count, 1)
        departures = ((vectors - mean[:, None]) ** 2).sum(axis=1)
        return {"count": np.array(count, np.int64), "mean": mean, "departures": departures}


def merge_pools(one: Table, other: Table) -> Table:
    """Count, mean and squared departures of two pools together (Chan et al., 1983, eq. 2.1)."""
    a, b = float(one["count"]), float(other["count"])
    if not a or not b:
        return other if not a else one
    apart = other["mean"] - one["mean"]
    return {
        "count": one["count"] + other["count"],
        "mean": one["mean"] + apart * (b / (a + b)),
        "departures": one["departures"] + other["departures"] + apart**2 * (a * b / (a + b)),
    }


def _finish_pool(table: Table) -> Table:
    count = max(float(table["count"]), 1.0)
    return {**table, "spread": np.sqrt(table["departures"] / count)}


@dataclass(frozen=True)
class MapDeparture:
    """embedding, pool -> map/*: how far each vector lies from those of the whole area."""

    scaled: bool

    def __call__(self, task: TileTask) -> Iterator[Output]:
        scale = task.read(_SCALE) if self.scaled else None
        vectors = decode_vectors(task.read(_VECTORS), scale).astype(np.float64)
        mean = task.read("pool/mean")[:, None, None]
        spread = np.maximum(task.read("pool/spread"), _LEAST_SPREAD)[:, None, None]
        departure = np.sqrt((((vectors - mean) / spread) ** 2).mean(axis=0))
        yield Output(
            {
                "map/departure": departure.astype(np.float32),
                "map/reason": task.read("embedding/reason"),
            }
        )


def at_cells(card: ModelCard, cell: float) -> ModelCard:
    """A card whose network is evaluated at the centres of other cells.

    The block is one of which whole numbers make 1,600 m, as do tiles: a cell has its place in the
    same block whatever the tile.

    Raises
    ------
    RecipeError
        Where the patch of the network has no middle in such a cell.
    """
    step = round(cell / card.resolution)
    if (card.patch - step) % 2 and step > card.patch:
        raise RecipeError(
            "cells are larger than the model's patches, and these do not lie in their middle",
            got=f"cells of {step} px, patches of {card.patch} px",
            expected="an even difference",
            remedy=f"set cell to {card.patch * card.resolution:g}",
        )
    block = round(_unit(cell) / cell)
    return card.model_copy(
        update={"cell": cell, "inference_block": block if block <= card.block else 1}
    )


def _unit(cell: float) -> float:
    """Metres of which a tile is a whole number, and so of cells."""
    return math.lcm(round(1000 * cell), 1000 * _UNIT) / 1000


def _resolve(recipe: EmbeddingRecipe, context: Context) -> Resolved:
    choice, base = recipe.grid, context.base
    card = None
    if recipe.model is not None:
        found = load_card(find_card(recipe.model.card, base))
        if found.segments:
            raise CardError(
                "product embedding needs a network of patches",
                got=f"{found.name}: {found.architecture}",
                remedy="leave model out for the statistics of pixels",
            )
        card = at_cells(found, recipe.cell)
        verify_weights(found)
    bands = recipe.imagery.bands or (card.bands if card else None)
    if bands is None:
        raise RecipeError(
            "the recipe names no bands and no model that would",
            expected="imagery.bands, or a model card",
        )
    _require_cells(recipe, card, bands)
    area, notes = find_area(recipe, base)
    scenes = SceneSource(recipe.imagery, base)
    stages = composite_stages(recipe.cube, choice, bands, scenes)
    stages += _stages(recipe, card, bands)
    grid, _ = fit_grid(area, choice, stages, recipe.cell, unit=recipe.cell)
    answer, doubts = scenes.find(area, bands, grid, known=context.judged, tell=context.tell)
    return Resolved(
        area,
        grid,
        Support(area, grid, recipe.cell),
        bands,
        {"imagery": answer},
        tuple(stages),
        _form(recipe, card, bands),
        (*notes, *doubts),
        card,
    )


def _require_cells(recipe: EmbeddingRecipe, card: ModelCard | None, bands: tuple[str, ...]) -> None:
    if card is not None:
        card.check_cube(bands, recipe.grid.resolution)
    unit = _unit(recipe.cell)
    side = round(unit / recipe.grid.resolution)
    if recipe.grid.tile % side:
        raise RecipeError(
            "grid.tile does not fit the cells",
            got=f"{recipe.grid.tile} px",
            expected=f"a multiple of {side} px ({unit:g} m)",
            remedy=f"set grid.tile to {max(round(recipe.grid.tile / side), 1) * side}",
        )


def _features(card: ModelCard | None, bands: tuple[str, ...]) -> tuple[int | str, ...]:
    if card is not None:
        return tuple(range(card.features))
    return aggregate_names([band_name(band) for band in bands])


def _stages(recipe: EmbeddingRecipe, card: ModelCard | None, bands: tuple[str, ...]) -> list[Stage]:
    grid, cell, kind = recipe.grid, recipe.cell, recipe.vectors
    names = [band_name(band) for band in bands]
    features, n = _features(card, bands), round(grid.tile_metres / cell)
    outside, scaled = int(Reason.OUTSIDE_AREA), kind == "int8"
    parameters: dict[str, object] = {"cell": cell, "dtype": kind}
    if card is not None:
        assert recipe.model is not None
        order = tuple(names.index(band) for band in card.bands)
        embed: EmbedCells | AggregatePixels = EmbedCells(
            card, order, recipe.model.device, recipe.model.precision, kind
        )
        parameters |= {"model": card.key, "precision": recipe.model.precision}
        halo, resource = card.halo * card.resolution, RESOURCES[recipe.model.device]
    else:
        embed, halo, resource = AggregatePixels(round(cell / grid.resolution), kind), 0.0, "cpu"
        parameters["bands"] = names
    reason = ("uint8", cell, n, 255)
    vectors = vector_arrays(_VECTORS, kind, features, cell, n)
    stage = Stage(
        "embedding",
        embed,
        (
            *vectors,
            ArraySpec("embedding/reason", *reason, outside=outside, attrs=REASON_ATTRS),
        ),
        (Input("composite", halo),),
        parameters=parameters,
        resource=resource,
        gigabytes=2.0 + 3 * len(bands) * grid.tile**2 * 8 / 1e9,
    )
    pool = _pool(features, scaled, _unit(cell))
    departure = Stage(
        "map",
        MapDeparture(scaled),
        (
            ArraySpec("map/departure", "float32", cell, n, math.nan, attrs={"units": "1"}),
            ArraySpec("map/reason", *reason, outside=outside, attrs=REASON_ATTRS),
        ),
        (Input("embedding"), Input("pool", scope="area")),
    )
    return [stage, *pool.stages(grid.tile_metres), departure]


def _pool(features: tuple[int | str, ...], scaled: bool, leaf: float) -> Fold:
    """Mean and spread of all vectors, merged along one tree: tiles change no bit of them."""
    dims = (("feature", features),)
    tables = (
        Column("count", "int64"),
        Column("mean", "float64", dims),
        Column("departures", "float64", dims),
    )
    return Fold(
        "pool",
        (Input("embedding"),),
        tables,
        Pool(scaled),
        merge_pools,
        _finish_pool,
        (*tables, Column("spread", "float64", dims)),
        leaf=leaf,
    )


def _form(recipe: EmbeddingRecipe, card: ModelCard | None, bands: tuple[str, ...]) -> Form:
    features = _features(card, bands)
    what = card.name if card else "statistics of " + ", ".join(map(band_name, bands))
    return Form(
        "Embedding",
        "embeddings",
        ("embedding", "feature vectors"),
        (
            Layer(
                "map",
                "",
                "Departure from the area's mean vector, standard deviations",
                "float32",
                math.nan,
                "average",
                "map/departure",
            ),
            Layer(
                "embeddings-cog",
                "-embeddings",
                f"Embedding vectors: {what}",
                "float32",
                math.nan,
                "average",
                _VECTORS,
                bands=tuple(map(str, features)),
                scaled_by=_SCALE if recipe.vectors == "int8" else "",
            ),
            reason_layer("map/reason"),
        ),
        scale=Scale(0.0, 2.5, "σ", ("FCFDBF", "FE9F6D", "DE4968", "8C2981", "3B0F70")),
        vectors=Vectors(
            "embeddings-cog",
            recipe.vectors,
            recipe.grid.resolution,
            card.patch if card else round(recipe.cell / recipe.grid.resolution),
        ),
    )


_TEMPLATE = """\
# Embeddings: a vector of features for each cell. Lines that begin with # may be uncommented.
name: my-city-embedding-2023
product: embedding

area: {bbox: [13.25, 52.48, 13.35, 52.53]}

grid:
  crs: EPSG:32633        # projected, in metres: one for the whole country
  resolution: 10         # metres
  tile: 1600             # pixels; whole numbers of 1600 m

imagery:
  catalog: earth-search  # as in a recipe of product lcz
  period: 2023-03-01/2023-06-30
  # bands: [B02, B03, B04, B08]   # by default the model's

cube: {composite: median}

model:                   # leave it out: mean, deviation and maximum of each band in each cell
  card: ./sen2lcz        # folder of a model card
  device: auto           # cpu, cuda

# cell: 320              # metres
# vectors: float16       # float32, or int8 with a scale for each vector

store: ./my-city-embedding-store
publish: ./my-city-embedding
# publication:                # what the product says of itself
#   title: My city in 2023
#   licence: CC-BY-4.0        # an SPDX identifier, or words
#   attribution: My City      # who made it, and is to be named
#   citation: "My City (2024): Map of my city."
# price_per_worker_hour: 0.10
"""

PRODUCT = Product("embedding", EmbeddingRecipe, _resolve, ("imagery",), _TEMPLATE)
