"""Local climate zones at 100 m: from scenes of Sentinel-2, or fused with images of 1 m."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from engine.errors import RecipeError
from engine.grid.area import Support
from engine.infer.instances import BLOCK, RIM
from engine.infer.instances import CELL as GRAPH_CELL
from engine.legend import LCZ, Reason
from engine.maps.cells import cell_dissent, cell_observations, cell_reason, classify
from engine.maps.filter import (
    RadiusRule,
    filter_halo,
    gaussian_filter,
    majority_filter,
    widest_halo,
)
from engine.maps.mask import inside
from engine.models.card import ModelCard, find_card, load_card
from engine.models.card_parts import require_encoder
from engine.models.onnx_checks import examine_weights
from engine.products.cells import CellModel, require_classifier, score_stages
from engine.products.common import REASON_ATTRS, class_attrs
from engine.products.composite import composite_stages
from engine.products.composite_windows import pooled_stage, require_zones
from engine.products.features import GroundSource
from engine.products.instances import (
    fusion_stages,
    fusion_weight,
    instance_stage,
    load_graph_card,
)
from engine.products.lcz_form import FORM, FORM_OF_VECTORS
from engine.products.periods import cube_bands
from engine.products.product import Context, Mask, Product, Resolved, find_area, fit_grid
from engine.products.published import PublishedSource
from engine.products.published_cells import REASON, published_score_stage
from engine.products.sources import RGB, ImageSource, SceneSource
from engine.recipes.base import CardOrPath
from engine.recipes.classifying import ClassifierRecipe
from engine.recipes.embeddings import Embeddings
from engine.recipes.features import Features
from engine.recipes.periods import spanned
from engine.recipes.run import Recipe
from engine.recipes.sections import Cube, Filter, Imagery, Images, Instances
from engine.runs.stage import Input, Output, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["PRODUCT", "LczRecipe", "MakeMap", "ZoneModel"]


class ZoneModel(CellModel):
    """The model, alone or fused with one of a second stream."""

    instances: CardOrPath | None = Field(
        None, description="card of a graph network over the instances of `images`, to fuse with"
    )
    sentinel_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="of the scores of `card` when fused; the rest is the graph's; by default what "
        "was found for the two in training, else 0.6",
    )


class LczRecipe(Recipe):
    """What a map of local climate zones is told."""

    product: Literal["lcz"]
    imagery: Imagery | None = None
    embeddings: Embeddings | None = Field(None, description="published ones, in place of imagery")
    images: Images | None = Field(None, description="for a model that fuses both")
    features: Features | None = Field(
        None, description="of the ground: bands NAME.mean, NAME.known of a model beside imagery's"
    )
    cube: Cube = Cube()
    instances: Instances = Instances()
    model: ZoneModel | None = None
    filter: Filter = Filter()

    @model_validator(mode="before")
    @classmethod
    def _spanned(cls, values: Any) -> Any:
        return spanned(values)

    @model_validator(mode="after")
    def _one_source(self) -> LczRecipe:
        if (self.imagery is None) == (self.embeddings is None):
            raise ValueError("give exactly one of imagery, embeddings")
        if self.embeddings is not None and self.images is not None:
            raise ValueError("images: what is fused with them is made of imagery")
        if self.embeddings is not None and self.features is not None:
            raise ValueError(
                "features: they are bands beside imagery's, not beside published vectors; leave "
                "them out, or give imagery"
            )
        if self.imagery is not None:
            self.cube.require_within(self.imagery.period)
        elif self.cube.periods:
            raise ValueError(
                "cube.periods goes with imagery: published embeddings are of one year; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _streams(self) -> LczRecipe:
        if self.model is not None and self.model.instances and self.images is None:
            raise ValueError(
                "model.instances: a graph network needs 1 m images; add images: {catalog: …}"
            )
        return self


class LczTraining(ClassifierRecipe):
    """What the training of a classifier of local climate zones is told."""

    product: Literal["lcz"] = "lcz"


@dataclass(frozen=True)
class MakeMap:
    """scores (fused ones, if so), composite -> map/*: argmax, class filter, mask, reasons.

    Of published vectors there is no composite: the scores bring their reasons along.
    """

    codes: tuple[int, ...]
    cell: float
    factor: int  # pixels of the composite in a cell
    method: str
    rule: RadiusRule
    radius: int
    masked: bool
    scores: str = "scores"  # stage whose scores make the map
    composed: bool = True  # whether there is a composite

    @property
    def halo(self) -> int:
        """Cells of scores that the filter reads around the tile."""
        return filter_halo(self.method, self.cell, self.rule, self.radius)

    def __call__(self, task: TileTask) -> Iterator[Output]:
        halo = self.halo
        scores = task.read(f"{self.scores}/probability", halo)
        padded, confidence = classify(scores, self.codes)
        core = np.s_[halo : padded.shape[0] - halo, halo : padded.shape[1] - halo]
        classes, confidence = padded[core], confidence[core]
        match self.method:
            case "gaussian":
                filtered = gaussian_filter(padded, self.cell, self.rule)
            case "majority":
                filtered = majority_filter(padded, self.radius)
            case _:
                filtered = classes.copy()
        if self.composed:
            reason = cell_reason(classes, task.read("composite/reason"), self.factor)
        else:
            reason = task.read(REASON)
        explained = reason.copy()
        if self.masked:
            product = inside(task.parts[0].payload, task.grid, task.tile, self.cell)
            filtered = np.where(product, filtered, 0).astype(np.uint8)
            explained[~product & (explained == Reason.DATA)] = Reason.OUTSIDE_MASK
        out: dict[str, npt.NDArray[Any]] = {
            "map/unfiltered": classes,
            "map/classes": filtered,
            "map/confidence": confidence,
            "map/reason": explained,
        }
        if self.composed:
            seen = task.read("composite/observations")
            out["map/observations"] = cell_observations(seen, self.factor)
            out["map/dissent"] = cell_dissent(task.read("composite/dissent"), seen, self.factor)
        yield Output(out)


def _resolve(recipe: LczRecipe, context: Context) -> Resolved:
    choice, base = recipe.grid, context.base
    model = recipe.model
    card = load_card(find_card(model.card, base)) if model else None
    if recipe.imagery is None:
        return _published(recipe, card, context)
    read, bands = cube_bands(recipe.imagery, recipe.cube, card)
    area, notes = find_area(recipe, base)
    scenes, mask = SceneSource(recipe.imagery, base, recipe.cube.labels), Mask(recipe, base)
    ground = GroundSource(recipe.features, base, area, scenes.year, choice)
    if card is not None:
        require = require_zones if card.zones else require_classifier
        require(card, choice, bands, ground.ranges)
        if card.zones and model is not None and model.embedding is not None:
            card.check_features()
        examine_weights(card)
    stages = [*ground.stages(choice), *composite_stages(recipe.cube, choice, read, scenes)]
    images = None
    # without a model for them, instances are made for a training to cut graphs from
    if recipe.images and (model is None or model.instances):
        images = ImageSource(recipe.images, base)
        device = "auto" if model is None else model.device
        stages.append(instance_stage(recipe.instances, choice, base, images, device))
    more = []
    if card is not None and model is not None:
        if card.zones:
            stages.append(pooled_stage(model, choice, card, bands, model.scores, ground))
        else:
            stages += score_stages(model, choice, card, bands, ground)
        scores = "scores"
        if model.instances:
            graph = load_graph_card(model.instances, base, recipe.instances, card)
            weight, why = fusion_weight(model.sentinel_weight, graph, card)
            stages += fusion_stages(model, choice, graph, weight)
            scores = stages[-1].name
            more = [f"scores fused with {graph.name}, which counts {1 - weight:.0%}{why}"]
        stages.append(_map_stage(recipe, card, mask, scores))
    cell = card.cell if card else float(GRAPH_CELL) if recipe.images else choice.resolution
    grid, reach = fit_grid(area, choice, stages, cell, unit=cell)
    ground.bind(grid)
    notes = [*notes, *mask.find(grid, area), *ground.notes]
    found, doubts = scenes.find(area, read, grid, known=context.judged, tell=context.tell)
    answers, notes = {"imagery": found, **ground.find()}, [*notes, *doubts]
    if images is not None:
        around = area.grown(reach + BLOCK + RIM)  # of the blocks of all cells wanted
        answers["images"], doubts = images.find(around, RGB, grid, tell=context.tell)
        notes += doubts
    support = Support(area, grid, cell)
    return Resolved(area, grid, support, bands, answers, tuple(stages), FORM, (*notes, *more), card)


def _published(recipe: LczRecipe, card: ModelCard | None, context: Context) -> Resolved:
    """From published vectors; without a model there is nothing to make of them."""
    assert recipe.embeddings is not None, "the recipe has one of both"
    if card is None or recipe.model is None:
        raise RecipeError(
            "published embeddings are mapped by a model",
            got="no model",
            expected="model: {card: ...}, trained on these embeddings",
            remedy="train one first; it cuts its patches from the source itself",
        )
    source = PublishedSource(recipe.embeddings, context.base)
    require_classifier(card, recipe.grid, source.channels, vectors=True)
    require_encoder(card.name, card.encoder, source.model)
    examine_weights(card)
    area, notes = find_area(recipe, context.base)
    mask = Mask(recipe, context.base)
    scored = published_score_stage(recipe.model, recipe.grid, card, source)
    stages = (scored, _map_stage(recipe, card, mask, "scores"))
    grid, _ = fit_grid(area, recipe.grid, stages, card.cell, unit=card.cell)
    notes = [*notes, *mask.find(grid, area), *source.notes]
    found = {"embeddings": source.find(area)}
    support = Support(area, grid, card.cell)
    return Resolved(area, grid, support, (), found, stages, FORM_OF_VECTORS, tuple(notes), card)


def _map_stage(recipe: LczRecipe, card: ModelCard, mask: Mask, scores: str) -> Stage:
    """The map of the scores of a stage."""
    composed = recipe.imagery is not None
    cell, rules = card.cell, recipe.filter
    codes, n = tuple(card.classes), round(recipe.grid.tile_metres / cell)
    make = MakeMap(
        codes,
        cell,
        round(cell / recipe.grid.resolution),
        rules.method,
        rules.radius_rule,
        rules.majority_radius,
        bool(mask),
        scores,
        composed,
    )
    spec = partial(ArraySpec, resolution=cell, chunk=n)
    outside, legend = int(Reason.OUTSIDE_AREA), class_attrs(LCZ)
    percent = {"units": "percent"}
    return Stage(
        "map",
        make,
        (
            spec("map/classes", "uint8", fill=0, attrs=legend),
            spec("map/unfiltered", "uint8", fill=0, attrs=legend),
            spec("map/confidence", "uint8", fill=255, attrs=percent),
            *(
                (
                    spec("map/observations", "uint16", fill=0),
                    spec("map/dissent", "uint8", fill=255, attrs=percent),
                )
                if composed
                else ()
            ),
            spec("map/reason", "uint8", fill=255, outside=outside, attrs=REASON_ATTRS),
        ),
        (
            Input(scores, widest_halo(cell, rules.majority_radius) * cell),
            *((Input("composite"),) if composed else ()),
        ),
        parameters={"filter": rules.model_dump(), "codes": codes, "mask": mask.parameter},
        parts=mask.parts,
        outside="boundary",
    )


_TEMPLATE = """\
# Local climate zones at 100 m. Lines that begin with # may be uncommented.
name: my-city-lcz-2023
product: lcz

# One of: bbox (west, south, east, north in degrees), file (polygons), country (ISO code; needs
# NATMAP_BOUNDARIES to point to a folder with Natural Earth countries).
area: {bbox: [13.25, 52.48, 13.35, 52.53]}

grid:
  crs: EPSG:32633        # projected, in metres: one for the whole country
  resolution: 10         # metres
  tile: 1600             # pixels; a multiple of 160
  # chunk: 400           # pixels; divides the tile
  # origin: [0, 0]       # a corner of the lattice, metres

imagery:
  catalog: earth-search  # a card (earth-search, earth-search-c1, planetary-computer, cdse), a
                         # card file of your own, or the path or address of a STAC catalogue
  period: 2023-03-01/2023-06-30
  max_cloud_cover: 40    # percent
  # bands: [B02, B03]    # by default the model's

# embeddings:            # published ones, in place of imagery and cube; for a model of them
#   source: ./tessera.zarr   # as in a recipe of product embedding
#   year: 2023

# images: {catalog: ./photos-stac/catalog.json}   # 1 m, red green blue; for a fused model
# instances: {segmenter: felzenszwalb}            # or slic; or sam with checkpoint: FOLDER
                                                  # and segmentation: per_window

# features:              # bands of a model beside imagery's, as height.mean with height.known
#   - {name: height, kind: heights, path: ./heights.tif, year: 2022}
#   - {name: slope, kind: slope, path: ./dem.tif, year: 2015}

cube:
  composite: median      # or mean, medoid
  keep_scenes: true      # false: no stored scenes, cheaper to keep, dearer to update
  cloud_dilation: 60     # metres around cloud and shadow
  # mask_snow: false
  # periods:             # several composites in one cube; a model's bands are then B04@spring
  #   - {name: spring, start: 2023-03-01, end: 2023-04-30}
  #   - {name: summer, start: 2023-05-01, end: 2023-06-30}

model:
  card: ./sen2lcz        # folder of a model card
  # instances: ./graphs  # card of a graph network over the images, fused with the other's scores
  # sentinel_weight: 0.6 # what the other counts; by default what natmap train found for the two
  device: auto           # cpu, cuda
  # precision: float32   # or bfloat16
  # embedding: false     # also store the penultimate features

filter: {method: gaussian}   # or majority, none

# mask: {boundaries: ne-urban-areas}   # a boundary card, or any polygon file

store: ./my-city
publish: ./my-city-product
# publication:                # what the product says of itself
#   title: My city in 2023
#   licence: CC-BY-4.0        # an SPDX identifier, or words
#   attribution: My City      # who made it, and is to be named
#   citation: "My City (2024): Map of my city."
# price_per_worker_hour: 0.10
"""

PRODUCT = Product(
    "lcz",
    LczRecipe,
    _resolve,
    ("imagery", "embeddings", "images", "features"),
    _TEMPLATE,
    FORM,
    reference="cells",
    training=LczTraining,
    before={
        "map/classes": "map/filtered",
        "map/unfiltered": "map/classes",
        **{f"{group}/probability": f"{group}/classes" for group in ("scores", "graphs", "fused")},
    },
)
