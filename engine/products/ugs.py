"""Urban green space at 1 m, and its share of cells of 100 m: from images, by a segmenter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from engine.errors import CardError, RecipeError
from engine.grid.area import Support
from engine.legend import UGS, LandClass, Reason
from engine.maps.shares import NO_GREEN, classify_green, green_fraction
from engine.models.card import ModelCard, find_card, load_card
from engine.models.onnx_checks import examine_weights
from engine.products.cities import Cities
from engine.products.common import REASON_ATTRS, class_attrs
from engine.products.product import Context, Mask, Polygons, Product, Resolved, find_area, fit_grid
from engine.products.scenes import SceneCards
from engine.products.sources import ImageSource
from engine.products.windows import PERCENT, require_segmenter, window_stages
from engine.publishing.forms import PERCENTAGES, Form, Layer, reason_layer
from engine.recipes.run import Recipe
from engine.recipes.sections import GridChoice, Images, WindowModel, at_one_metre
from engine.recipes.segmenting import SegmenterRecipe
from engine.runs.stage import Input, Output, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["PRODUCT", "UgsRecipe"]

CELL = 100
"""Side of a cell of the green fraction, in metres."""


class UgsRecipe(Recipe):
    """What a map of urban green space is told."""

    product: Literal["ugs"]
    images: Images
    model: WindowModel

    @model_validator(mode="before")
    @classmethod
    def _at_one_metre(cls, values: Any) -> Any:
        return at_one_metre(values) if isinstance(values, Mapping) else values


class GreenTraining(SegmenterRecipe):
    """What the training of a segmenter of green space is told."""

    template: ClassVar[str] = "train-ugs"

    product: Literal["ugs"]


@dataclass(frozen=True)
class MapGreen:
    """scores -> map/classes, map/reason."""

    def __call__(self, task: TileTask) -> Iterator[Output]:
        classes = classify_green(task.read("scores/probability"))
        yield Output({"map/classes": classes, "map/reason": task.read("scores/reason")})


@dataclass(frozen=True)
class ShareCells:
    """map -> fraction/green, of each cell of 100 m."""

    def __call__(self, task: TileTask) -> Iterator[Output]:
        yield Output({"fraction/green": green_fraction(task.read("map/classes"), CELL)})


def _resolve(recipe: UgsRecipe, context: Context) -> Resolved:
    choice, base = recipe.grid, context.base
    card = load_card(find_card(recipe.model.card, base))
    if card.segments and (card.resolution != 1.0 or card.several):
        raise CardError(
            "product ugs is made at 1 m, of what is green and what is not",
            got=f"{card.name}: {card.resolution:g} m, classes {card.classes}",
        )
    require_segmenter(card, choice, card.imagery)
    _require_cells(choice)
    examine_weights(card)
    area, notes = find_area(recipe, base)
    cities = Cities(recipe.model, card, area, base)
    by_scene = SceneCards(recipe.model, card, base)
    images, mask, own = ImageSource(recipe.images, base), Mask(recipe, base), Polygons()
    stages = window_stages(recipe.model, choice, card, images, own, mask, cities, by_scene)
    stages += _map_stages(choice, card)
    grid, _ = fit_grid(area, choice, stages, float(CELL), unit=card.resolution)
    own.bind([area.geometry], grid)
    cities.bind(grid)
    notes = [*notes, *cities.notes, *by_scene.notes, *mask.find(grid, area)]
    # a pixel's windows reach up to their own side beyond it
    around = area.grown(card.patch * card.resolution)
    found, doubts = images.find(around, card.bands, grid, tell=context.tell)
    # in cells of the green fraction; the kernel cuts its pixels by the area itself
    support = Support(area.grown(0.75 * CELL), grid, float(CELL))
    return Resolved(
        area,
        grid,
        support,
        card.bands,
        {"images": found},
        tuple(stages),
        by_scene.onto(_FORM),
        (*notes, *doubts),
        card,
        cities,
        by_scene,
    )


def _require_cells(choice: GridChoice) -> None:
    if choice.tile % CELL:
        raise RecipeError(
            "grid.tile is not a multiple of cells of 100 m",
            got=f"{choice.tile} px",
            expected="a multiple of 100 px",
            remedy="leave grid.tile out: 4000",
        )


def _map_stages(choice: GridChoice, card: ModelCard) -> list[Stage]:
    """The map of the scores, and its shares of cells."""
    metres, n = card.resolution, choice.tile
    spec = partial(ArraySpec, dtype="uint8", resolution=metres, chunk=choice.chunk_pixels)
    outside = int(Reason.OUTSIDE_AREA)
    memory = 0.5 + 8 * n * n / 1e9
    return [
        Stage(
            "map",
            MapGreen(),
            (
                spec("map/classes", fill=NO_GREEN, attrs=class_attrs(UGS)),
                spec("map/reason", fill=255, outside=outside, attrs=REASON_ATTRS),
            ),
            (Input("scores"),),
            gigabytes=memory,
            guess=0.05,
        ),
        Stage(
            "fraction",
            ShareCells(),
            (
                ArraySpec(
                    "fraction/green",
                    "uint8",
                    float(CELL),
                    round(choice.tile_metres / CELL),
                    NO_GREEN,
                    attrs=PERCENT,
                ),
            ),
            (Input("map"),),
            gigabytes=memory,
            guess=0.02,
        ),
    ]


_SHADES = tuple(
    LandClass(code, "", f"green_to_{20 * code}", f"{20 * (code - 1)} to {20 * code} %", colour)
    for code, colour in enumerate(["EDE6DC", "D3E2BE", "A3CC8B", "5FAE58", "1F7A33"], start=1)
)

_percent = partial(Layer, dtype="uint8", nodata=255, overview="average", scale=PERCENTAGES)
_LAYERS = (
    Layer(
        "map",
        "",
        "Urban green space, masked",
        "uint8",
        255,
        "mode",
        "map/classes",
        classes=UGS,
    ),
    _percent(
        "probability",
        "-probability",
        "Probability of green space, percent",
        array="scores/probability",
    ),
    reason_layer("map/reason"),
    _percent(
        "green",
        "-green-fraction-100m",
        "Green share of a cell of 100 m, percent",
        array="fraction/green",
        factor=CELL,
    ),
)

_TEMPLATE = """\
# Urban green space at 1 m. Lines that begin with # may be uncommented.
name: my-city-green-2023
product: ugs

area: {bbox: [13.35, 52.50, 13.40, 52.53]}   # or file: POLYGONS, or country: ISO CODE

grid:
  crs: EPSG:25833        # projected, in metres
  # tile: 4000           # pixels of 1 m; a multiple of 100, and no smaller than a window
  # chunk: 1000          # pixels; divides the tile

images:
  catalog: ./photos-stac/catalog.json   # natmap ingest FOLDER makes one; or a card (naip), or the
                                        # path or address of a STAC catalogue
  # period: 2021-01-01/2023-12-31       # by default of any day
  # keep: false          # true: the mosaic is stored, for another model to be run on
  # order: newest        # which frame shows where several do; or nadir; or [ids that go first]

model:
  card: ./my-green       # folder of a segmenter's card
  device: auto           # cpu, cuda
  # precision: float32   # or bfloat16
  # cities: ./adapted/cities.geojson    # polygons with name and card: each city by its own network,
                                        # as natmap adapt --each makes them; all else by `card`
  # scenes: {file: ./by-scene/scenes.json}   # each window by the card of the scene that it
                                        # shows, as natmap train --each makes them; or mode: blend

mask: {boundaries: gub-2018}   # urban boundaries: a card, or any polygon file; only they are run

store: ./my-city-green
publish: ./my-city-green-product
# publication:                # what the product says of itself
#   title: My city in 2023
#   licence: CC-BY-4.0        # an SPDX identifier, or words
#   attribution: My City      # who made it, and is to be named
#   citation: "My City (2024): Map of my city."
# price_per_worker_hour: 0.10
"""

_FORM = Form(
    "Urban green space",
    "urban green space",
    ("urban green space", "vegetation", "land cover"),
    _LAYERS,
    UGS,
    overview="green",
    shades=_SHADES,
)

PRODUCT = Product(
    "ugs",
    UgsRecipe,
    _resolve,
    ("images",),
    _TEMPLATE,
    _FORM,
    reference="pixels",
    item="image",
    training=GreenTraining,
)
