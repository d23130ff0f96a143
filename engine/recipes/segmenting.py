"""The recipe of a segmenter's training; the products that have one add their own keys."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from engine.items import require_order
from engine.legend import NamedClass
from engine.recipes.base import CardOrPath, PathText, Strict, Words
from engine.recipes.training import Fitting, Split, TrainingRecipe

__all__ = [
    "ChipLabels",
    "MultiLabelChoice",
    "SceneChoice",
    "SegmenterFitting",
    "SegmenterRecipe",
    "SegmenterSplit",
    "SegmenterWanted",
]


class ChipLabels(Strict):
    """Where somebody has said what is what; a folder like UGSet's, or a place of one's own."""

    ugset: PathText | None = Field(
        None, description="folder with train, val, test: images and labels"
    )
    recipe: PathText | None = Field(
        None, description="a map recipe of the product: its images, or its composite, and its area"
    )
    raster: PathText | None = Field(
        None, description="1 green, 0 not, 255 unknown; of product cover the codes of its classes"
    )
    polygons: PathText | None = Field(None, description="green space; all else in `within` is none")
    within: CardOrPath | None = Field(
        None,
        description="a boundary card, or polygons, of what has been looked at: beyond them labels "
        "are unknown",
    )
    chips: PathText | None = Field(
        None, description="a folder of natmap frames with patches of `side` pixels, labels in them"
    )
    place: str | None = Field(None, description="name of the place; by default the recipe's")
    most: int | None = Field(None, gt=0, description="at most so many chips, drawn by chance")

    @model_validator(mode="after")
    def _one(self) -> ChipLabels:
        if sum(source is not None for source in (self.ugset, self.recipe, self.chips)) != 1:
            raise ValueError("give ugset, or chips, or recipe with raster or polygons")
        if self.recipe is not None and (self.raster is None) == (self.polygons is None):
            raise ValueError("give raster or polygons, one of the two")
        if self.recipe is None and (self.raster or self.polygons or self.within):
            raise ValueError("ugset and chips bring their own labels")
        if self.polygons is not None and self.within is None:
            raise ValueError("polygons need within: where there is none, is nothing green or not?")
        return self


class SegmenterSplit(Split):
    """Which chips train, validate and test."""

    by: Literal["block", "frame", "place", "own"] = Field(  # type: ignore[assignment]
        "block",
        description="blocks of ground, those of places that overlap being the same; frame: such "
        "blocks, dealt out so that each split has its share of each scene; whole places, as they "
        "are named; own: as UGSet came",
    )


class SceneChoice(Strict):
    """What chips are grouped into scenes by; see `engine.similarity`. Or scenes of a file."""

    file: PathText | None = Field(
        None, description="scenes.json of natmap scenes: chips get its scenes, and none are found"
    )
    only: tuple[int, ...] = Field(
        (), max_length=1000, description="with file: learn from chips of these scenes alone"
    )
    by: Literal["labels", "texture", "both"] = "both"
    bandwidth: float | None = Field(
        None, gt=0, lt=2, description="of mean shift; by default the finest that is stable"
    )
    balance: bool = Field(
        True, description="draw chips of rare scenes more often, by 1 / sqrt(size), 10 at most"
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _given(self) -> SceneChoice:
        found = sorted(self.model_fields_set & {"by", "bandwidth", "seed"})
        if self.file is not None and found:
            raise ValueError(
                f"{', '.join(found)}: of scenes that are found, not of those of a file"
            )
        if self.only and self.file is None:
            raise ValueError("only: numbers of the scenes of a file; name file, too")
        if len(set(self.only)) < len(self.only) or min(self.only, default=0) < 0:
            raise ValueError("only: numbers of scenes, from 0, each once")
        return self


class MultiLabelChoice(Strict):
    """What a multi-label model learns: which classes occur in a chip."""

    share: float = Field(
        0.01, ge=0, le=1, description="of a chip that a class covers, where it occurs; 0: a pixel"
    )
    others: tuple[int, ...] = Field(
        (), description="codes of the labels that are known, and none of the classes"
    )


_RESNET50 = ("ugsnet", "pspnet", "upernet")  # whose encoder it is
_PATCHES = "resnet"  # of a whole patch, not of its pixels


class SegmenterWanted(Strict):
    """What is trained."""

    architecture: Literal["ugsnet", "unet", "segnet", "pspnet", "upernet", "bisenet", "resnet"] = (
        "ugsnet"
    )
    size: Literal["published", "small"] = Field(
        "published", description="small: a quarter of the width, for CPUs"
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="attention, point_head, points, uncertainty, width; of a resnet depth",
    )
    start: CardOrPath | None = Field(None, description="a model card to start from")
    imagenet: PathText | None = Field(
        None,
        description="ResNet-50's weights of ImageNet, a local safetensors file; of other bands "
        "than B04, B03, B02 the first layer is drawn all the same",
    )
    bands: tuple[str, ...] = ("B04", "B03", "B02")
    window: int | None = Field(
        None, gt=0, description="side of a window of a map; by default the chips'"
    )
    overlap: int = Field(64, ge=0, description="of neighbouring windows, in pixels")
    licence: Words = "unknown"
    attribution: Words | None = Field(None, description="who made the model, and is to be named")
    citation: Words | None = Field(None, description="how the model is cited")
    description: str = ""

    @model_validator(mode="after")
    def _sized(self) -> SegmenterWanted:
        if self.size == "small":
            object.__setattr__(self, "parameters", {"width": 16, **self.parameters})
        if self.start is not None and self.imagenet is not None:
            raise ValueError("start and imagenet: one of the two")
        deep = self.architecture == _PATCHES and self.parameters.get("depth") == 50
        if self.imagenet is not None and not (self.architecture in _RESNET50 or deep):
            raise ValueError(
                f"imagenet goes with architecture: {', '.join(_RESNET50)}, or {_PATCHES} with "
                "parameters: {depth: 50}"
            )
        if self.architecture == _PATCHES and {"window", "overlap"} & self.model_fields_set:
            raise ValueError("window and overlap go with segmenters: a resnet looks at whole chips")
        return self


class SegmenterFitting(Fitting):
    """How; see `engine.training.segmenters.SegmenterSettings`. The defaults are UGS-1m's.

    With `preset: paper` the network, too, is asked as UGS-1m's code asks it: 1024 points at each
    doubling of a map, where ours are 8192. What a recipe says itself goes before.
    """

    examples: ClassVar[str] = "chips"

    preset: Literal["paper"] | None = Field(
        None, description="UGS-1m's settings, and model.parameters.points: 1024"
    )
    epochs: int = Field(200, gt=0)


class SegmenterRecipe(TrainingRecipe):
    """All that the training of a segmenter is told."""

    product: str
    labels: tuple[ChipLabels, ...] = Field(min_length=1)
    chips: PathText = Field(description="folder of the chip set (Zarr)")
    side: int = Field(512, ge=16, multiple_of=16, description="of a chip, in pixels")
    split: SegmenterSplit = SegmenterSplit()
    scenes: SceneChoice | None = Field(
        None, description="group chips into scenes, for balance and for split.by: frame"
    )
    model: SegmenterWanted = SegmenterWanted()
    training: SegmenterFitting = SegmenterFitting()

    @property
    def named(self) -> tuple[NamedClass, ...]:
        """The classes that it learns, by code; none: one of them and its absence."""
        return ()

    @property
    def silent(self) -> tuple[int, ...]:
        """Codes of the labels that say nothing."""
        return ()

    @property
    def occurs(self) -> MultiLabelChoice | None:
        """That it learns which classes occur in a chip; None: the class of each pixel."""
        return None

    @property
    def codes(self) -> tuple[int, ...]:
        """Of the classes, ascending: the order of a network's outputs."""
        return tuple(c.code for c in self.named) or (0, 1)

    @property
    def known(self) -> tuple[int, ...]:
        """Codes that the labels may have, beside those that say nothing."""
        return (*self.codes, *(() if self.occurs is None else self.occurs.others))

    @model_validator(mode="after")
    def _ground(self) -> SegmenterRecipe:
        require_order(self.model.bands)
        if (self.model.architecture == _PATCHES) != (self.occurs is not None):
            raise ValueError(
                f"multilabel goes with model.architecture: {_PATCHES}, and that one with it "
                "(multilabel: {} takes its defaults; product: cover)"
            )
        if self.split.by == "frame" and self.scenes is None:
            raise ValueError("split.by: frame needs scenes to deal blocks out by; add scenes: {}")
        return self

    @model_validator(mode="after")
    def _fill(self) -> SegmenterRecipe:
        if self.training.preset == "paper" and self.model.architecture == "ugsnet":
            parameters = {"points": PAPER_POINTS, **self.model.parameters}
            model = self.model.model_copy(update={"parameters": parameters})
            object.__setattr__(self, "model", model)
        return self


PAPER_POINTS = 1024
"""That UGS-1m's code asks at each doubling of a map."""
