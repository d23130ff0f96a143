"""The recipe of a patch classifier's training, a forest's and a graph network's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from engine.items import is_ground, require_order
from engine.recipes.base import CardOrPath, PathText, Strict, Words
from engine.recipes.training import Fitting, Split, TrainingRecipe

__all__ = [
    "PRESETS",
    "SMALL",
    "ClassifierFitting",
    "ClassifierRecipe",
    "ClassifierSplit",
    "ClassifierWanted",
    "PatchLabels",
]


class PatchLabels(Strict):
    """Labels of one place, and the recipe whose composite the patches are cut from."""

    recipe: PathText = Field(description="a map recipe whose composite has been made")
    areas: PathText | None = Field(None, description="training areas: KML, KMZ, GeoJSON, GPKG")
    field: str | None = Field(
        None, description="of the areas, that holds the type; by default lcz, Class or Name"
    )
    raster: PathText | None = Field(None, description="reference raster of codes 1 to 17")
    within: PathText | None = Field(None, description="raster; only cells where it is not 0")
    place: str | None = Field(None, description="name of the place; by default the recipe's")
    most: int | None = Field(None, gt=0, description="at most so many patches, rare classes first")
    pseudo: PathText | None = Field(
        None,
        description="pseudo-labels that lie here (`natmap propagate`): they train, by their "
        "confidence, and never validate or test",
    )

    @model_validator(mode="after")
    def _one(self) -> PatchLabels:
        if self.areas is not None and self.raster is not None:
            raise ValueError("give areas or raster, one of the two")
        if self.areas is None and self.raster is None and self.pseudo is None:
            raise ValueError("give areas or raster, or pseudo where nobody has labelled")
        if self.within is not None and self.raster is None:
            raise ValueError("within goes with raster")
        if self.field is not None and self.areas is None:
            raise ValueError("field goes with areas")
        return self


class ClassifierSplit(Split):
    """Which patches train, validate and test."""

    by: Literal["group", "block", "place", "pool", "own"] = Field(
        "group",
        description="training areas, blocks of ground, whole places; pool: by chance, which "
        "flatters; own: as an imported set came",
    )
    side: float = Field(3200.0, gt=0, description="of a block, in metres")


class ClassifierWanted(Strict):
    """What is trained."""

    architecture: Literal[
        "mscnn",
        "sen2lcz",
        "resnet11",
        "resnet11-3d",
        "resnet-v2",
        "resnet50",
        "densenet",
        "msmla",
        "gcn",
        "forest",
        "unet",
    ] = "mscnn"
    start: CardOrPath | None = Field(
        None, description="a model card to start from: its weights wherever they fit"
    )
    beside: CardOrPath | None = Field(
        None, description="of a gcn: card of the stream to fuse with; the weight is swept"
    )
    frozen: bool = Field(
        False,
        description="with start: train the dense layers at the end alone; all else stays as it "
        "is, batch statistics too",
    )
    restandardise: bool = Field(
        False, description="with start: standardise by these patches, not as the card did"
    )
    size: Literal["published", "small"] = Field(
        "published", description="small: widths that a CPU can train"
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="of the network; they go before the size's"
    )
    bands: tuple[str, ...] = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    inference_block: int | None = Field(
        None, gt=0, le=128, description="cells down and across that are evaluated together"
    )
    window: int | None = Field(
        None,
        ge=16,
        multiple_of=16,
        description="of a unet: side of a map's window, px; by "
        "default that of what it learns from, a patch with its context",
    )
    overlap: int | None = Field(
        None, ge=0, description="of a unet's windows, px; by default half of them"
    )
    licence: Words = "unknown"
    attribution: Words | None = Field(None, description="who made the model, and is to be named")
    citation: Words | None = Field(None, description="how the model is cited")
    description: str = ""

    @model_validator(mode="after")
    def _streams(self) -> ClassifierWanted:
        if self.beside is not None and self.architecture != "gcn":
            raise ValueError("beside goes with architecture: gcn")
        if self.frozen and (self.start is None or self.architecture in ("gcn", "forest")):
            raise ValueError("frozen goes with start, and with a network of convolutions")
        if self.architecture == "unet":
            if self.frozen or self.inference_block is not None:
                raise ValueError("frozen and inference_block go with classifiers of patches")
        elif self.window is not None or self.overlap is not None:
            raise ValueError("window and overlap go with architecture: unet")
        return self

    @model_validator(mode="after")
    def _sized(self) -> ClassifierWanted:
        if self.size == "small":
            if self.architecture not in SMALL:
                raise ValueError(f"size: {self.architecture} has no small form")
            found = {**SMALL[self.architecture], **self.parameters}
            object.__setattr__(self, "parameters", found)
        return self


_DF4LCZ: dict[str, Any] = {
    "epochs": 100,
    "patience": 40,
    "batch": 64,
    "rate": 2e-3,
    "schedule": "step",
    "factor": 0.4,
    "every": 5,
    "balance": "none",
    "angles": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    # Kim et al.: "adam, 0.002, decay 0.004" are NAdam's defaults in Keras
    "mscnn": {"epochs": 100, "patience": 15, "batch": 96, "rate": 2e-3},
    # DF4LCZ's networks of Sentinel-2: a rate that falls to 0.4 of itself every 5 epochs
    "df4lcz": _DF4LCZ,
    # and its graph network, as its code has it: nothing is turned
    "df4lcz-graph": {
        "epochs": 100,
        "patience": 20,
        "batch": 32,
        "rate": 1e-2,
        "balance": "none",
        "augment": False,
    },
    # both as the paper's text has them: Adam, where its code takes NAdam
    "df4lcz-paper": {**_DF4LCZ, "optimizer": "adam"},
    # So2Sat LCZ42's benchmark
    "so2sat": {
        "epochs": 100,
        "patience": 40,
        "batch": 32,
        "rate": 2e-3,
        "schedule": "step",
        "factor": 0.5,
        "every": 5,
        "balance": "none",
        "augment": False,
        "l2": 1e-4,
    },
}
"""The papers' settings, as specified; what a recipe says itself goes before."""

_SLOW: dict[str, Any] = {"momentum": 0.01}  # Keras' batch statistics, .99 as it counts
_OF_DF4LCZ: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("resnet11", "resnet11-3d", "resnet50", "densenet"), _SLOW),
    "msmla": {**_SLOW, "widths": [16, 32, 48]},  # its own paper's third width is 64
}
NETWORKS = {"df4lcz": _OF_DF4LCZ, "df4lcz-paper": _OF_DF4LCZ}
"""By preset, parameters of the networks as the paper has them."""

SMALL: dict[str, dict[str, Any]] = {
    "mscnn": {"branch": 16, "blocks": [32, 64, 64, 128, 128], "dense": 128},
    "sen2lcz": {"width": 8, "depth": 2},
    "resnet11": {"width": 16},
    "resnet11-3d": {"width": 8},
    "resnet-v2": {"width": 8},
    "resnet50": {"width": 16},
    "densenet": {"growth": 8, "layers": 4, "width": 32, "between": 16},
    "msmla": {"depth": 18, "widths": [8, 16, 32]},
    "unet": {"width": 16},
}
"""Parameters of each network that a CPU can train, for comparisons; the code is the same."""


class ClassifierFitting(Fitting):
    """How; see `engine.training.fit.Settings`."""

    examples: ClassVar[str] = "patches"

    preset: Literal["mscnn", "df4lcz", "df4lcz-graph", "df4lcz-paper", "so2sat"] | None = Field(
        None, description="a paper's settings, where nothing else is said"
    )
    patience: int = Field(15, gt=0)
    batch: int = Field(96, gt=1)
    rate: float = Field(2e-3, gt=0)
    optimizer: Literal["nadam", "adam"] = "nadam"
    schedule: Literal["constant", "cosine", "step", "inverse"] = Field(
        "constant", description="inverse: the rate by 1 + decay x epoch"
    )
    factor: float = Field(0.5, gt=0, le=1, description="of schedule step: what the rate falls to")
    every: int = Field(5, gt=0, description="of schedule step: epochs")
    decay: float = Field(4e-3, gt=0, description="of schedule inverse")
    angles: bool = Field(
        False,
        description="with augment: mirror, and turn by any angle up to 90 degrees, in place of the "
        "eight symmetries; of patches",
    )
    l2: float = Field(
        0.0, ge=0, description="times the squares of all convolutions' kernels, added to the loss"
    )
    balance: Literal["none", "sqrt", "full"] = "sqrt"
    class_weights: bool = Field(False, description="rare classes' losses count more; balance: none")
    draws: int | None = Field(None, gt=1)
    bootstraps: int = Field(
        0, ge=0, description="of a forest: repeated 70/30 splits of training areas, WUDAPT has 25"
    )
    final: Literal["train", "all"] | None = Field(
        None,
        description="of a forest: the patches that the model grows on; by default all where "
        "bootstraps judge it, as WUDAPT's, else those that train",
    )

    @model_validator(mode="after")
    def _once(self) -> ClassifierFitting:
        if self.class_weights and self.balance != "none":
            raise ValueError("class_weights: rare classes would count twice; set balance: none")
        return self


class ClassifierRecipe(TrainingRecipe):
    """All that the training of a classifier is told."""

    labels: tuple[PatchLabels, ...] = Field((), description="none: `patches` is an imported set")
    patches: PathText = Field(description="folder of the patch set (Zarr)")
    patch: Literal[32, 48, 64] = Field(
        32, description="side of a patch, px; of an imported set the set's own counts"
    )
    context: int = Field(16, ge=0, le=64, description="pixels kept about each patch")
    split: ClassifierSplit = ClassifierSplit()
    model: ClassifierWanted = ClassifierWanted()
    training: ClassifierFitting = ClassifierFitting()

    @model_validator(mode="after")
    def _ground(self) -> ClassifierRecipe:
        require_order(self.model.bands)
        if self.model.architecture == "gcn" and any(map(is_ground, self.model.bands)):
            raise ValueError("model.bands: a graph network looks at instances, not at features")
        pseudo = any(label.pseudo is not None for label in self.labels)
        if self.model.architecture == "gcn" and pseudo:
            raise ValueError("labels: pseudo-labels train networks of patches, forests and a unet")
        if pseudo and all(label.areas is label.raster is None for label in self.labels):
            raise ValueError("labels: pseudo-labels alone leave nothing to validate on")
        if not self.labels and any(map(is_ground, self.model.bands)):
            raise ValueError("model.bands: an imported set of patches has no features")
        return self

    @model_validator(mode="after")
    def _windows(self) -> ClassifierRecipe:
        if self.model.architecture == "gcn" and self.patch != 32:
            raise ValueError("patch: a graph network is given windows of 320 m")
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """A paper's settings, and its network's parameters, where nothing else is said."""
        if not isinstance(values, Mapping):
            return values
        training, model = values.get("training") or {}, values.get("model") or {}
        if not (isinstance(training, Mapping) and isinstance(model, Mapping)):
            return values
        preset, name = training.get("preset"), model.get("architecture", "mscnn")
        if not (isinstance(preset, str) and isinstance(name, str) and preset in PRESETS):
            return values
        chosen = dict(PRESETS[preset])
        if name == "gcn":
            chosen.pop("angles", None)  # a graph has no pixels to turn
        small = SMALL.get(name, {}) if model.get("size") == "small" else {}
        theirs = NETWORKS.get(preset, {}).get(name, {})
        said = model.get("parameters") or {}
        if theirs and isinstance(said, Mapping):
            parameters = {k: v for k, v in theirs.items() if k not in small} | dict(said)
            model = {**model, "parameters": parameters}
        return {**values, "training": {**chosen, **training}, "model": model}

    @model_validator(mode="after")
    def _fits(self) -> ClassifierRecipe:
        training, name = self.training, self.model.architecture
        if name != "forest" and (training.bootstraps or training.final is not None):
            raise ValueError("training: bootstraps and final go with architecture: forest")
        if name == "gcn" and training.angles:
            raise ValueError("training: angles goes with patches; a graph has no pixels to turn")
        others = sorted(training.model_fields_set - _OF_UNET)
        if name == "unet" and others:
            raise ValueError(
                f"training: a unet has no {', '.join(others)}; it takes "
                + ", ".join(sorted(_OF_UNET))
            )
        return self


_OF_UNET = {"epochs", "batch", "rate", "augment", "precision", "seed", "device", "devices"}
"""Of a training's settings, those that a segmenter of pixels has."""
