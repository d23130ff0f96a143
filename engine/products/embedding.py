"""Embeddings of cells: what a network sees in each, or the statistics of its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
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
from engine.products.lcz import LczRecipe
from engine.products.product import Context, Product, Resolved, find_area, fit_grid
from engine.products.published import SHARE_OF_WATER, AggregatePublished, PublishedSource
from engine.products.sources import SceneSource
from engine.products.vectors import (
    SCALE,
    VECTORS,
    AggregatePixels,
    EmbedCells,
    MapDeparture,
    at_cells,
    pool_of,
    unit_of,
)
from engine.publishing.forms import Form, Layer, Vectors, reason_layer
from engine.recipes.embeddings import Embeddings
from engine.recipes.heads import HeadRecipe
from engine.recipes.run import Recipe
from engine.recipes.sections import Cube, Imagery, ModelChoice
from engine.runs.stage import Input, Stage
from engine.store.arrays import ArraySpec

__all__ = ["PRODUCT", "EmbeddingRecipe", "embedding_of"]

_SUFFIX = "-embedding"


class EmbeddingRecipe(Recipe):
    """What an embedding is told."""

    product: Literal["embedding"]
    imagery: Imagery | None = None
    embeddings: Embeddings | None = Field(None, description="published ones, in place of imagery")
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
    def _one_source(self) -> EmbeddingRecipe:
        if (self.imagery is None) == (self.embeddings is None):
            raise ValueError("give exactly one of imagery, embeddings")
        if self.embeddings is not None and self.model is not None:
            raise ValueError("model: published embeddings are aggregated without one")
        return self

    @model_validator(mode="after")
    def _whole(self) -> EmbeddingRecipe:
        pixels = self.cell / self.grid.resolution
        if not math.isclose(pixels, round(pixels)) or round(pixels) < 1:
            raise ValueError(f"cell: {self.cell:g} m is not a multiple of grid.resolution")
        return self


def embedding_of(recipe: Recipe) -> EmbeddingRecipe:
    """The embedding of a recipe: itself, or what a map of local climate zones is made from.

    Its store and its product folder are those of the recipe with ``-embedding`` at their end.

    Raises
    ------
    RecipeError
        Where there is none.
    """
    if isinstance(recipe, EmbeddingRecipe):
        return recipe
    if not isinstance(recipe, LczRecipe) or recipe.model is None:
        raise RecipeError(
            "the recipe has nothing to embed",
            got=f"product: {recipe.product}" + ("" if recipe.product != "lcz" else ", no model"),
            expected="a recipe of product embedding, or of product lcz with a model",
            remedy="start from `natmap init embedding`",
        )
    published = recipe.embeddings is not None
    chosen = recipe.model.model_dump(include=set(ModelChoice.model_fields))
    return EmbeddingRecipe(
        name=f"{recipe.name[: 100 - len(_SUFFIX)]}{_SUFFIX}",
        product="embedding",
        area=recipe.area,
        grid=recipe.grid,
        imagery=recipe.imagery,
        embeddings=recipe.embeddings,
        cube=recipe.cube,
        model=None if published else ModelChoice(**chosen),
        vectors=recipe.model.embedding or "float16",
        store=f"{recipe.store.rstrip('/')}{_SUFFIX}",
        publish=f"{(recipe.publish or f'{recipe.store}-product').rstrip('/')}{_SUFFIX}",
        publication=recipe.publication,
        price_per_worker_hour=recipe.price_per_worker_hour,
    )


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
    if recipe.embeddings is not None:
        return _published(recipe, recipe.embeddings, base)
    assert recipe.imagery is not None, "the recipe has one of both"
    bands = recipe.imagery.bands or (card.bands if card else None)
    if bands is None:
        raise RecipeError(
            "the recipe names no bands and no model that would",
            expected="imagery.bands, or a model card",
        )
    if card is not None:
        card.check_cube(bands, recipe.grid.resolution)
    _require_cells(recipe)
    area, notes = find_area(recipe, base)
    scenes = SceneSource(recipe.imagery, base)
    features = _features(card, [band_name(band) for band in bands])
    stages = composite_stages(recipe.cube, choice, bands, scenes)
    stages += [_stage(recipe, card, bands, features), *_map_stages(recipe, features)]
    grid, _ = fit_grid(area, choice, stages, recipe.cell, unit=recipe.cell)
    answer, doubts = scenes.find(area, bands, grid, known=context.judged, tell=context.tell)
    what = card.name if card else "statistics of " + ", ".join(map(band_name, bands))
    return Resolved(
        area,
        grid,
        Support(area, grid, recipe.cell),
        bands,
        {"imagery": answer},
        tuple(stages),
        _form(recipe, card, features, what),
        (*notes, *doubts),
        card,
    )


def _published(recipe: EmbeddingRecipe, wanted: Embeddings, base: Path) -> Resolved:
    _require_cells(recipe)
    source = PublishedSource(wanted, base)
    area, notes = find_area(recipe, base)
    features = _features(None, source.channels)
    stages = [_published_stage(recipe, source, features), *_map_stages(recipe, features)]
    grid, _ = fit_grid(area, recipe.grid, stages, recipe.cell, unit=recipe.cell)
    return Resolved(
        area,
        grid,
        Support(area, grid, recipe.cell),
        (),
        {"embeddings": source.find(area)},
        tuple(stages),
        _form(recipe, None, features, f"statistics of {Path(source.place).name}, {wanted.year}"),
        tuple(notes),
    )


def _require_cells(recipe: EmbeddingRecipe) -> None:
    unit = unit_of(recipe.cell)
    side = round(unit / recipe.grid.resolution)
    if recipe.grid.tile % side:
        raise RecipeError(
            "grid.tile does not fit the cells",
            got=f"{recipe.grid.tile} px",
            expected=f"a multiple of {side} px ({unit:g} m)",
            remedy=f"set grid.tile to {max(round(recipe.grid.tile / side), 1) * side}",
        )


def _features(card: ModelCard | None, names: Sequence[str]) -> tuple[int | str, ...]:
    if card is not None:
        return tuple(range(card.features))
    return aggregate_names(names)


def _outputs(recipe: EmbeddingRecipe, features: tuple[int | str, ...]) -> tuple[ArraySpec, ...]:
    """Arrays of the stage `embedding`, whatever it is made from."""
    cell, n = recipe.cell, round(recipe.grid.tile_metres / recipe.cell)
    reason = ArraySpec(
        "embedding/reason",
        "uint8",
        cell,
        n,
        255,
        outside=int(Reason.OUTSIDE_AREA),
        attrs=REASON_ATTRS,
    )
    return (*vector_arrays(VECTORS, recipe.vectors, features, cell, n), reason)


def _stage(
    recipe: EmbeddingRecipe,
    card: ModelCard | None,
    bands: tuple[str, ...],
    features: tuple[int | str, ...],
) -> Stage:
    grid, cell, kind = recipe.grid, recipe.cell, recipe.vectors
    names = [band_name(band) for band in bands]
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
    return Stage(
        "embedding",
        embed,
        _outputs(recipe, features),
        (Input("composite", halo),),
        parameters=parameters,
        resource=resource,
        gigabytes=2.0 + 3 * len(bands) * grid.tile**2 * 8 / 1e9,
    )


def _published_stage(
    recipe: EmbeddingRecipe, source: PublishedSource, features: tuple[int | str, ...]
) -> Stage:
    grid, cell, wanted = recipe.grid, recipe.cell, source.wanted
    kernel = AggregatePublished(
        source.place,
        wanted.form,
        wanted.year,
        wanted.method,
        source.stamp,
        grid.resolution,
        round(cell / grid.resolution),
        recipe.vectors,
    )
    water = ArraySpec(
        SHARE_OF_WATER,
        "float32",
        cell,
        round(grid.tile_metres / cell),
        math.nan,
        attrs={"units": "1", "long_name": "share of pixels that the source calls water"},
    )
    return Stage(
        "embedding",
        kernel,
        (*_outputs(recipe, features), water),
        parameters={
            "cell": cell,
            "dtype": recipe.vectors,
            "year": wanted.year,
            "method": wanted.method,
            "channels": list(source.channels),
        },
        parts=lambda tile: source.parts(),
        outside="source",
        gigabytes=3.0,  # a strip of vectors, its neighbours and what is aggregated of them
    )


def _map_stages(recipe: EmbeddingRecipe, features: tuple[int | str, ...]) -> list[Stage]:
    """The pool of all vectors, and how far each lies from it."""
    grid, cell = recipe.grid, recipe.cell
    n, scaled = round(grid.tile_metres / cell), recipe.vectors == "int8"
    outside = int(Reason.OUTSIDE_AREA)
    pool = pool_of(features, scaled, unit_of(cell))
    departure = Stage(
        "map",
        MapDeparture(scaled),
        (
            ArraySpec("map/departure", "float32", cell, n, math.nan, attrs={"units": "1"}),
            ArraySpec("map/reason", "uint8", cell, n, 255, outside=outside, attrs=REASON_ATTRS),
        ),
        (Input("embedding"), Input("pool", scope="area")),
    )
    return [*pool.stages(grid.tile_metres), departure]


def _form(
    recipe: EmbeddingRecipe,
    card: ModelCard | None,
    features: tuple[int | str, ...],
    what: str,
) -> Form:
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

# embeddings:            # published ones, in place of imagery, cube and model
#   source: ./tessera.zarr   # Zarr (geoemb:), TESSERA's tiles, AlphaEarth's files or index
#   year: 2023
#   method: nearest      # or bilinear

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

_SOURCES = ("imagery", "embeddings")
PRODUCT = Product("embedding", EmbeddingRecipe, _resolve, _SOURCES, _TEMPLATE, training=HeadRecipe)
