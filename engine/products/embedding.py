"""Embeddings of cells: what a network sees in each, or the statistics of its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from engine.cube.published.opening import name_of
from engine.errors import CardError, RecipeError
from engine.grid.area import Support
from engine.infer.aggregate import aggregate_names
from engine.infer.vectors import vector_arrays
from engine.items import cube_band
from engine.legend import Reason, Scale
from engine.models.card import ModelCard, find_card, load_card
from engine.models.onnx_checks import examine_weights
from engine.products.common import REASON_ATTRS, RESOURCES
from engine.products.composite import composite_stages
from engine.products.features import GroundSource, Stack
from engine.products.lcz import LczRecipe
from engine.products.periods import cube_bands
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
from engine.recipes.embeddings import EmbeddingRecipe, Embeddings
from engine.recipes.heads import HeadRecipe
from engine.recipes.run import Recipe
from engine.recipes.sections import ModelChoice
from engine.runs.stage import Input, Part, Stage
from engine.store.arrays import ArraySpec

__all__ = ["PRODUCT", "embedding_of"]

_SUFFIX = "-embedding"


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
        features=recipe.features,
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
    read, bands = cube_bands(recipe.imagery, recipe.cube, card)
    _require_cells(recipe)
    area, notes = find_area(recipe, base)
    scenes = SceneSource(recipe.imagery, base, recipe.cube.labels)
    ground = GroundSource(recipe.features, base, area, scenes.year, choice)
    if card is not None:
        card.check_cube(bands, recipe.grid.resolution, ground.ranges)
    features = _features(card, [cube_band(band) for band in bands], ground)
    stages = ground.stages(choice) if card is not None and card.ranges else []
    stages += composite_stages(recipe.cube, choice, read, scenes)
    stages += [_stage(recipe, card, bands, features, ground), *_map_stages(recipe, features)]
    grid, _ = fit_grid(area, choice, stages, recipe.cell, unit=recipe.cell)
    ground.bind(grid)
    answer, doubts = scenes.find(area, read, grid, known=context.judged, tell=context.tell)
    what = card.name if card else "statistics of " + ", ".join(map(cube_band, bands))
    return Resolved(
        area,
        grid,
        Support(area, grid, recipe.cell),
        bands,
        {"imagery": answer, **ground.find()},
        tuple(stages),
        _form(recipe, card, features, what),
        (*notes, *doubts, *ground.notes),
        card,
    )


def _published(recipe: EmbeddingRecipe, wanted: Embeddings, base: Path) -> Resolved:
    _require_cells(recipe)
    source = PublishedSource(wanted, base)
    area, notes = find_area(recipe, base)
    ground = GroundSource(recipe.features, base, area, wanted.year, recipe.grid)
    features = _features(None, source.channels, ground)
    stages = [_published_stage(recipe, source, features, ground), *_map_stages(recipe, features)]
    grid, _ = fit_grid(area, recipe.grid, stages, recipe.cell, unit=recipe.cell)
    ground.bind(grid)
    return Resolved(
        area,
        grid,
        Support(area, grid, recipe.cell),
        (),
        {"embeddings": source.find(area), **ground.find()},
        tuple(stages),
        _form(recipe, None, features, f"statistics of {name_of(source.place)}, {wanted.year}"),
        (*notes, *source.notes, *ground.notes),
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


def _features(
    card: ModelCard | None, names: Sequence[str], ground: GroundSource
) -> tuple[int | str, ...]:
    """Names of a vector's components; a network's are numbers."""
    if card is None:
        return (*aggregate_names(names), *ground.names)
    numbers = range(card.features)
    return (*map(str, numbers), *ground.names) if ground else tuple(numbers)


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
    ground: GroundSource,
) -> Stage:
    grid, cell, kind = recipe.grid, recipe.cell, recipe.vectors
    names = [cube_band(band) for band in bands]
    parameters: dict[str, object] = {"cell": cell, "dtype": kind, **ground.parameters}
    if card is not None:
        assert recipe.model is not None
        stack = Stack(tuple(names.index(band) for band in card.imagery), ground.places(card))
        embed: EmbedCells | AggregatePixels = EmbedCells(
            card, stack, recipe.model.device, recipe.model.precision, kind, ground.cells
        )
        read = stack.inputs(card.halo * card.resolution)
        parameters |= {"model": card.key, "precision": recipe.model.precision}
        resource = RESOURCES[recipe.model.device]
    else:
        side = round(cell / grid.resolution)
        embed, resource = AggregatePixels(side, kind, ground.cells), "cpu"
        read = (Input("composite"),)
        parameters["bands"] = names
    return Stage(
        "embedding",
        embed,
        _outputs(recipe, features),
        read,
        parameters=parameters,
        parts=(lambda tile: [Part(0, ground.stamp(tile))]) if ground else None,
        outside="feature",
        resource=resource,
        gigabytes=2.0 + 3 * len(bands) * grid.tile**2 * 8 / 1e9,
    )


def _published_stage(
    recipe: EmbeddingRecipe,
    source: PublishedSource,
    features: tuple[int | str, ...],
    ground: GroundSource,
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
        ground.cells,
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
            **ground.parameters,
        },
        parts=lambda tile: [Part(0, source.stamp + ground.stamp(tile))],
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

# features:              # of the ground: further components, each with its mask NAME.known
#   - {name: height, kind: heights, path: ./heights.tif, year: 2022, licence: CC-BY-4.0}
#   - {name: terrain, kind: elevation, path: [./dem-1.tif, ./dem-2.tif], year: 2015}
#   - {name: slope, kind: slope, path: ./dem.tif, year: 2015}   # degrees, over the DEM's pixel
#   - {name: cover, kind: classes, years: {2018: ./a.tif, 2021: ./b.tif}, classes: {built: [50]}}
#   - {name: park, kind: polygons, path: ./parks.gpkg, year: 2023}

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

_SOURCES = ("imagery", "embeddings", "features")
PRODUCT = Product("embedding", EmbeddingRecipe, _resolve, _SOURCES, _TEMPLATE, training=HeadRecipe)
