"""Embeddings of cells: what a network sees in each, or the statistics of its pixels."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from engine.errors import CardError, RecipeError
from engine.grid.area import Support
from engine.infer.aggregate import aggregate_names
from engine.infer.vectors import vector_arrays
from engine.items import band_name
from engine.legend import Reason, Scale
from engine.models.card import ModelCard, find_card, load_card
from engine.models.onnx_checks import examine_weights
from engine.products.common import REASON_ATTRS, RESOURCES
from engine.products.composite import composite_stages
from engine.products.product import Context, Product, Resolved, find_area, fit_grid
from engine.products.sources import SceneSource
from engine.products.vectors import (
    SCALE,
    VECTORS,
    AggregatePixels,
    EmbedCells,
    MapDeparture,
    pool_of,
)
from engine.publishing.forms import Form, Layer, Vectors, reason_layer
from engine.recipes.run import Recipe
from engine.recipes.sections import Cube, Imagery, ModelChoice
from engine.runs.stage import Input, Stage
from engine.store.arrays import ArraySpec

__all__ = ["PRODUCT", "EmbeddingRecipe", "at_cells"]

_UNIT = 1600  # metres: a whole number of them makes a tile, and of cells most sides in use


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
        found.check_features()
        found.check_precision(recipe.model.precision)
        card = at_cells(found, recipe.cell)
        examine_weights(found)
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
    vectors = vector_arrays(VECTORS, kind, features, cell, n)
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
    pool = pool_of(features, scaled, _unit(cell))
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
                VECTORS,
                bands=tuple(map(str, features)),
                scaled_by=SCALE if recipe.vectors == "int8" else "",
            ),
            reason_layer("map/reason"),
        ),
        scale=Scale(
            0.25, 2.0, "SD", ("FCFDBF", "FECE91", "FE9F6D", "F76F5C", "DE4968", "8C2981", "3B0F70")
        ),
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
