"""Land cover in the classes of a model's card: from 1 m images, or from composites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from engine.errors import CardError, RecipeError
from engine.grid.area import Support
from engine.legend import NamedClass, Reason
from engine.models.card import ModelCard, find_card, load_card
from engine.models.onnx_checks import examine_weights
from engine.products.cities import Cities
from engine.products.common import REASON_ATTRS, class_attrs
from engine.products.composite import composite_stages
from engine.products.composite_windows import composite_window_stage
from engine.products.features import GroundSource
from engine.products.periods import cube_bands
from engine.products.product import (
    Context,
    Mask,
    Polygons,
    Product,
    Resolved,
    find_area,
    fit_grid,
)
from engine.products.scenes import SceneCards
from engine.products.sources import ImageSource, SceneSource
from engine.products.windows import PERCENT, require_segmenter, window_stages
from engine.publishing.forms import PERCENTAGES, Form, Layer, reason_layer
from engine.recipes.features import Features
from engine.recipes.periods import spanned
from engine.recipes.run import Recipe
from engine.recipes.sections import Cube, GridChoice, Imagery, Images, WindowModel, at_one_metre
from engine.recipes.segmenting import MultiLabelChoice, SegmenterRecipe
from engine.runs.stage import Input, Output, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["PRODUCT", "CoverRecipe"]

CELL = 100
"""Side of a cell of the classes' shares, in metres."""
_NONE, _UNKNOWN = 0, 255  # no class; no percentage


class CoverRecipe(Recipe):
    """What a map of land cover is told."""

    product: Literal["cover"]
    images: Images | None = Field(None, description="of 1 m; or imagery")
    imagery: Imagery | None = Field(None, description="scenes, for a map at their resolution")
    features: Features | None = Field(
        None, description="of the ground: bands of a model beside those of imagery"
    )
    cube: Cube = Cube()
    model: WindowModel

    @model_validator(mode="before")
    @classmethod
    def _at_one_metre(cls, values: Any) -> Any:
        of_images = isinstance(values, Mapping) and values.get("images") is not None
        return at_one_metre(values) if of_images else spanned(values)

    @model_validator(mode="after")
    def _one(self) -> CoverRecipe:
        if (self.images is None) == (self.imagery is None):
            raise ValueError("give images, or imagery: land cover is made of one of the two")
        if self.images is not None and self.cube != Cube():
            raise ValueError("cube: goes with imagery; images are not composed")
        if self.imagery is not None:
            self.cube.require_within(self.imagery.period)
        for name in ("cities", "scenes"):
            if self.images is None and getattr(self.model, name) is not None:
                raise ValueError(f"model.{name}: goes with images; one model maps a composite")
        if self.images is not None and self.features is not None:
            raise ValueError("features: goes with imagery; a model of images looks at no others")
        return self


class CoverTraining(SegmenterRecipe):
    """What the training of a segmenter of land cover, or of a multi-label model, is told."""

    template: ClassVar[str] = "train-cover"

    product: Literal["cover"]
    classes: tuple[NamedClass, ...] = Field(
        (), description="code, name and colour of each class in the labels"
    )
    ignored: tuple[int, ...] = Field((), description="codes of the labels that say nothing")
    multilabel: MultiLabelChoice | None = Field(
        None, description="learn which classes occur in a chip, in place of each pixel's"
    )

    @property
    def occurs(self) -> MultiLabelChoice | None:
        return self.multilabel

    @property
    def named(self) -> tuple[NamedClass, ...]:
        return tuple(sorted(self.classes, key=lambda c: c.code))

    @property
    def silent(self) -> tuple[int, ...]:
        return self.ignored

    @model_validator(mode="after")
    def _apart(self) -> CoverTraining:
        if not self.classes:
            raise ValueError("classes: product cover has some: the codes of its labels")
        if len({c.code for c in self.classes}) < len(self.classes) or len(self.classes) == 1:
            raise ValueError("classes: give two or more, each with a code of its own")
        if {c.code for c in self.classes} & set(self.ignored):
            raise ValueError("ignored: a code is a class, or ignored; not both")
        others = () if self.multilabel is None else self.multilabel.others
        if {c.code for c in self.classes} & set(others) or set(self.ignored) & set(others):
            raise ValueError("multilabel.others: a code is a class, other or ignored, one of these")
        if any(not 0 <= code < 255 for code in others):
            raise ValueError("multilabel.others: codes are 0 to 254")
        if any(label.raster is None and label.chips is None for label in self.labels):
            raise ValueError("labels: of several classes they are rasters of their codes, or chips")
        return self


@dataclass(frozen=True)
class MapCover:
    """scores -> map/classes, map/confidence, map/reason; a tie goes to the lower code."""

    codes: tuple[int, ...]

    def __call__(self, task: TileTask) -> Iterator[Output]:
        percent = task.read("scores/probability")
        known = percent[0] != _UNKNOWN
        best = percent.argmax(axis=0)  # the first of the largest, and codes ascend
        classes = np.where(known, np.array(self.codes, np.uint8)[best], _NONE).astype(np.uint8)
        yield Output(
            {
                "map/classes": classes,
                "map/confidence": np.where(known, percent.max(axis=0), _UNKNOWN).astype(np.uint8),
                "map/reason": task.read("scores/reason"),
            }
        )


@dataclass(frozen=True)
class ShareCover:
    """map -> shares/percent, of each class in cells of 100 m."""

    codes: tuple[int, ...]
    factor: int  # pixels along a cell

    def __call__(self, task: TileTask) -> Iterator[Output]:
        yield Output({"shares/percent": shares(task.read("map/classes"), self.codes, self.factor)})


def shares(
    classes: npt.NDArray[np.uint8], codes: tuple[int, ...], factor: int
) -> npt.NDArray[np.uint8]:
    """Percent of a cell's classified pixels that have each class.

    Parameters
    ----------
    classes : uint8 (y * factor, x * factor), 0 none.
    codes : of the classes.
    factor : pixels along a cell.

    Returns
    -------
    uint8 (class, y, x), rounded half to even; 255 where no pixel of the cell has a class.
    """
    rows, cols = classes.shape[0] // factor, classes.shape[1] // factor
    cells = classes.reshape(rows, factor, cols, factor)
    known = np.count_nonzero(cells, axis=(1, 3))
    found = np.stack([np.count_nonzero(cells == code, axis=(1, 3)) for code in codes])
    percent = np.rint(100.0 * found / np.maximum(known, 1))
    return np.where(known > 0, percent, _UNKNOWN).astype(np.uint8)


def _resolve(recipe: CoverRecipe, context: Context) -> Resolved:
    choice, base = recipe.grid, context.base
    card = load_card(find_card(recipe.model.card, base))
    if card.segments and not card.names:
        raise CardError(
            "product cover needs a model with classes of its own",
            got=f"{card.name}: {card.architecture} of "
            + ("local climate zones" if card.zones else "green space"),
            remedy="product: lcz" if card.zones else "train one: natmap init train-cover",
        )
    images = None if recipe.images is None else ImageSource(recipe.images, base)
    scenes, read, bands = None, card.bands, card.bands
    if recipe.imagery is not None:
        scenes = SceneSource(recipe.imagery, base, recipe.cube.labels)
        read, bands = cube_bands(recipe.imagery, recipe.cube, card)
    _require_cells(choice)
    examine_weights(card)
    area, notes = find_area(recipe, base)
    ground = GroundSource(recipe.features, base, area, scenes.year if scenes else 0, choice)
    require_segmenter(card, choice, bands, ground.ranges)
    mask, own, cities = Mask(recipe, base), Polygons(), Cities(recipe.model, card, area, base)
    by_scene = SceneCards(recipe.model, card, base)
    if images is not None:
        stages = window_stages(recipe.model, choice, card, images, own, mask, cities, by_scene)
    else:
        assert scenes is not None
        stages = [*ground.stages(choice), *composite_stages(recipe.cube, choice, read, scenes)]
        stages.append(composite_window_stage(recipe.model, choice, card, bands, own, mask, ground))
    stages += _map_stages(choice, card)
    grid, _ = fit_grid(area, choice, stages, float(CELL), unit=card.resolution)
    own.bind([area.geometry], grid)
    ground.bind(grid)
    cities.bind(grid)
    notes += [*cities.notes, *by_scene.notes, *mask.find(grid, area), *ground.notes]
    if images is not None:
        around = area.grown(card.patch * card.resolution)
        found, doubts = images.find(around, card.bands, grid, tell=context.tell)
        answers = {"images": found}
    else:
        assert scenes is not None
        found, doubts = scenes.find(area, read, grid, known=context.judged, tell=context.tell)
        answers = {"imagery": found, **ground.find()}
    # in cells of the shares; the kernel cuts its pixels by the area itself
    support = Support(area.grown(0.75 * CELL), grid, float(CELL))
    return Resolved(
        area,
        grid,
        support,
        bands,
        answers,
        tuple(stages),
        by_scene.onto(_form(card)),
        (*notes, *doubts),
        card,
        cities,
        by_scene,
    )


def _require_cells(choice: GridChoice) -> None:
    if choice.tile_metres % CELL or CELL % choice.resolution:
        raise RecipeError(
            "grid.tile is not a multiple of cells of 100 m",
            got=f"{choice.tile} px of {choice.resolution:g} m",
            expected="whole cells, of whole pixels",
        )


def _map_stages(choice: GridChoice, card: ModelCard) -> list[Stage]:
    metres, n = card.resolution, choice.tile
    spec = partial(ArraySpec, dtype="uint8", resolution=metres, chunk=choice.chunk_pixels)
    outside = int(Reason.OUTSIDE_AREA)
    memory = 0.5 + (8 + 2 * len(card.classes)) * n * n / 1e9
    percent = ArraySpec(
        "shares/percent",
        "uint8",
        float(CELL),
        round(choice.tile_metres / CELL),
        _UNKNOWN,
        leading=(("class", card.classes),),
        attrs=PERCENT,
    )
    return [
        Stage(
            "map",
            MapCover(card.classes),
            (
                spec("map/classes", fill=_NONE, attrs=class_attrs(card.legend)),
                spec("map/confidence", fill=_UNKNOWN, attrs=PERCENT),
                spec("map/reason", fill=255, outside=outside, attrs=REASON_ATTRS),
            ),
            (Input("scores"),),
            parameters={"codes": card.classes},
            gigabytes=memory,
            guess=0.05,
        ),
        Stage(
            "shares",
            ShareCover(card.classes, round(CELL / metres)),
            (percent,),
            (Input("map"),),
            parameters={"codes": card.classes},
            gigabytes=memory,
            guess=0.02,
        ),
    ]


def _form(card: ModelCard) -> Form:
    legend = card.legend
    return Form(
        "Land cover",
        "land cover",
        ("land cover", *(c.title.lower() for c in legend)),
        (
            Layer(
                "map",
                "",
                "Land cover, masked",
                "uint8",
                _NONE,
                "mode",
                "map/classes",
                classes=legend,
            ),
            Layer(
                "confidence",
                "-confidence",
                "Probability of the class, percent",
                "uint8",
                _UNKNOWN,
                "average",
                "map/confidence",
                scale=PERCENTAGES,
            ),
            reason_layer("map/reason"),
            Layer(
                "shares",
                "-shares-100m",
                "Shares of the classes in cells of 100 m, percent",
                "uint8",
                _UNKNOWN,
                "average",
                "shares/percent",
                factor=round(CELL / card.resolution),
                bands=tuple(c.name for c in legend),
                scale=PERCENTAGES,
            ),
        ),
        legend,
    )


_TEMPLATE = """\
# Land cover in the classes of a model. Lines that begin with # may be uncommented.
name: my-city-cover
product: cover

area: {bbox: [13.25, 52.48, 13.35, 52.53]}

grid:
  crs: EPSG:32633        # projected, in metres; of images the pixel is 1 m, the tile 4000 px
  # resolution: 10       # of imagery
  # tile: 1600           # pixels; whole cells of 100 m

images:                  # 1 m, or
  catalog: ./photos-stac/catalog.json   # natmap ingest FOLDER makes one
# imagery:               # Sentinel-2, as in a recipe of product lcz
#   catalog: earth-search
#   period: 2023-03-01/2023-06-30
# cube: {composite: median}

model:
  card: ./my-cover       # folder of a segmenter's card; its classes are the map's
  device: auto           # cpu, cuda
  # cities: ./cities.geojson   # of images: polygons with name and card, each mapped by its own
  # scenes: {file: ./by-scene/scenes.json}   # of images: each window by the card of its scene

# mask: {boundaries: gub-2018}          # urban boundaries: a card, or any polygon file

store: ./my-city-cover-store
publish: ./my-city-cover-product
# publication:                # what the product says of itself
#   title: My city in 2023
#   licence: CC-BY-4.0        # an SPDX identifier, or words
#   attribution: My City      # who made it, and is to be named
#   citation: "My City (2024): Map of my city."
# price_per_worker_hour: 0.10
"""

PRODUCT = Product(
    "cover",
    CoverRecipe,
    _resolve,
    ("images", "imagery", "features"),
    _TEMPLATE,
    reference="classes",
    item="image",
    training=CoverTraining,
)
