"""Recipes of segmenters of urban green space: to train one, to adapt one to a city."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from engine.legend import NamedClass
from engine.recipes.base import Strict, read_recipe

__all__ = [
    "AdaptRecipe",
    "Adapting",
    "GreenLabels",
    "GreenRecipe",
    "GreenSplit",
    "GreenTraining",
    "SegmenterWanted",
    "load_adapt_recipe",
    "load_green_recipe",
]


class GreenLabels(Strict):
    """Where somebody has said what is green; a folder like UGSet's, or a place of one's own."""

    ugset: str | None = Field(None, description="folder with train, val, test: images and labels")
    recipe: str | None = Field(
        None, description="a map recipe of the product: its images, or its composite, and its area"
    )
    raster: str | None = Field(
        None, description="1 green, 0 not, 255 unknown; of product cover the codes of its classes"
    )
    polygons: str | None = Field(None, description="green space; all else in `within` is none")
    within: str | None = Field(None, description="polygons of what has been looked at")
    place: str | None = Field(None, description="name of the place; by default the recipe's")
    most: int | None = Field(None, gt=0, description="at most so many chips, drawn by chance")

    @model_validator(mode="after")
    def _one(self) -> GreenLabels:
        if (self.ugset is None) == (self.recipe is None):
            raise ValueError("give ugset, or recipe with raster or polygons")
        if self.recipe is not None and (self.raster is None) == (self.polygons is None):
            raise ValueError("give raster or polygons, one of the two")
        if self.ugset is not None and (self.raster or self.polygons or self.within):
            raise ValueError("ugset brings its own labels")
        if self.polygons is not None and self.within is None:
            raise ValueError("polygons need within: where there is none, is nothing green or not?")
        return self


class GreenSplit(Strict):
    """Which chips train, validate and test."""

    by: Literal["block", "place", "own"] = Field(
        "block",
        description="blocks of ground, those of places that overlap being the same; whole places, "
        "as they are named; own: as UGSet came",
    )
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    side: float = Field(2000.0, gt=0, description="of a block, in metres")
    validation: tuple[str, ...] = Field((), description="places, for by: place")
    test: tuple[str, ...] = Field((), description="places, for by: place")
    seed: int = Field(0, ge=0)


class SegmenterWanted(Strict):
    """What is trained."""

    architecture: Literal["ugsnet", "unet"] = "ugsnet"
    size: Literal["published", "small"] = Field(
        "published", description="small: a quarter of the width, for CPUs"
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="attention, point_head, points, uncertainty, width"
    )
    start: str | None = Field(None, description="a model card to go on from")
    imagenet: str | None = Field(
        None,
        description="ResNet-50's weights of ImageNet, a local safetensors file; of other bands "
        "than B04, B03, B02 the first layer is drawn all the same",
    )
    bands: tuple[str, ...] = ("B04", "B03", "B02")
    window: int | None = Field(
        None, gt=0, description="side of a window of a map; by default the chips'"
    )
    overlap: int = Field(64, ge=0, description="of neighbouring windows, in pixels")
    licence: str = "unknown"
    description: str = ""

    @model_validator(mode="after")
    def _sized(self) -> SegmenterWanted:
        if self.size == "small":
            object.__setattr__(self, "parameters", {"width": 16, **self.parameters})
        if self.start is not None and self.imagenet is not None:
            raise ValueError("start and imagenet: one of the two")
        if self.imagenet is not None and self.architecture != "ugsnet":
            raise ValueError("imagenet goes with architecture: ugsnet")
        return self


class GreenTraining(Strict):
    """How; see `engine.training.segmenters.GreenSettings`. The defaults are UGS-1m's.

    With `preset: paper` the network, too, is asked as UGS-1m's code asks it: 1024 points at each
    doubling of a map, where ours are 8192. What a recipe says itself goes before.
    """

    preset: Literal["paper"] | None = Field(
        None, description="UGS-1m's settings, and model.parameters.points: 1024"
    )
    epochs: int = Field(200, gt=0)
    batch: int = Field(8, gt=1)
    rate: float = Field(1e-4, gt=0)
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, gt=0)

    @model_validator(mode="after")
    def _shared(self) -> GreenTraining:
        if self.batch < 2 * self.devices:
            raise ValueError("batch: two chips for each of devices at least, to normalise by")
        return self


class GreenRecipe(Strict):
    """All that the training of a segmenter is told."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    product: Literal["ugs", "cover"]
    classes: tuple[NamedClass, ...] = Field(
        (), description="of product cover: code, name and colour of each class in the labels"
    )
    ignored: tuple[int, ...] = Field((), description="codes of the labels that say nothing")
    labels: tuple[GreenLabels, ...] = Field(min_length=1)
    chips: str = Field(description="folder of the chip set (Zarr)")
    side: int = Field(512, ge=16, multiple_of=16, description="of a chip, in pixels")
    split: GreenSplit = GreenSplit()
    model: SegmenterWanted = SegmenterWanted()
    training: GreenTraining = GreenTraining()
    out: str = Field(description="folder of the model")

    @model_validator(mode="after")
    def _whose(self) -> GreenRecipe:
        if (self.product == "cover") != bool(self.classes):
            raise ValueError("classes: product cover has some, ugs has green and not green")
        if len({c.code for c in self.classes}) < len(self.classes) or len(self.classes) == 1:
            raise ValueError("classes: give two or more, each with a code of its own")
        if {c.code for c in self.classes} & set(self.ignored):
            raise ValueError("ignored: a code is a class, or ignored; not both")
        if self.classes and any(label.raster is None for label in self.labels):
            raise ValueError("labels: of several classes they are rasters of their codes")
        return self

    @property
    def codes(self) -> tuple[int, ...]:
        """Of the classes, ascending: the order of a network's outputs."""
        return tuple(sorted(c.code for c in self.classes)) or (0, 1)

    @model_validator(mode="after")
    def _fill(self) -> GreenRecipe:
        if self.training.preset == "paper" and self.model.architecture == "ugsnet":
            parameters = {"points": PAPER_POINTS, **self.model.parameters}
            model = self.model.model_copy(update={"parameters": parameters})
            object.__setattr__(self, "model", model)
        return self


PAPER_POINTS = 1024
"""That UGS-1m's code asks at each doubling of a map."""

PRESETS: dict[str, dict[str, Any]] = {
    # of adaptations; those of trainings are the defaults
    "paper": {
        "steps": 10_000,
        "batch": 2,
        "rate": 1e-4,
        "adversarial_weight": 1.0,
        "statistics": "source",
    },
}


class Adapting(Strict):
    """How; see `engine.training.adapt.AdaptSettings`."""

    preset: Literal["paper"] | None = Field(None, description="UGS-1m's settings")
    steps: int = Field(10_000, gt=0)
    batch: int = Field(2, gt=1)
    rate: float = Field(1e-4, gt=0)
    discriminator_rate: float = Field(1e-4, gt=0)
    adversarial_weight: float = Field(1e-3, ge=0)
    statistics: Literal["auto", "target", "source", "batch"] = Field(
        "auto", description="of normalisations; auto: the city's where it is another kind of image"
    )
    check: int = Field(250, gt=0, description="steps between looks at the source")
    guard: float = Field(5.0, gt=0, description="points of F1 that the source may lose")
    augment: bool = True
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("preset") in PRESETS:
            return {**PRESETS[values["preset"]], **values}
        return values


class AdaptRecipe(Strict):
    """All that an adaptation is told: one city, one model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    product: Literal["ugs"]
    model: str = Field(description="card of the segmenter to adapt")
    chips: str = Field(description="the chip set that it was trained on")
    target: str = Field(
        description="a map recipe of the city: chips are drawn in its mask's boundary"
    )
    most: int = Field(500, gt=1, description="chips drawn of the city")
    training: Adapting = Adapting()
    out: str = Field(description="folder of the adapted model")


def load_green_recipe(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> GreenRecipe:
    """Read and validate a recipe to train a segmenter; errors as for `load_recipe`."""
    return read_recipe(GreenRecipe, source, overrides, template="train-ugs")


def load_adapt_recipe(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> AdaptRecipe:
    """Read and validate a recipe of an adaptation; errors as for `load_recipe`."""
    return read_recipe(AdaptRecipe, source, overrides, template="adapt")
