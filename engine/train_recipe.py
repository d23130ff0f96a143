"""Train recipe: all that a training is told. Frozen; a key that is not here is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from engine.recipe import Strict, read_recipe

__all__ = ["Labels", "ModelWanted", "SplitChoice", "TrainRecipe", "Training", "load_train_recipe"]


class Labels(Strict):
    """Labels of one place, and the recipe whose composite the patches are cut from."""

    recipe: str = Field(description="a map recipe whose composite has been made")
    areas: str | None = Field(None, description="training areas: KML, KMZ, GeoJSON, GPKG")
    raster: str | None = Field(None, description="reference raster of codes 1 to 17")
    within: str | None = Field(None, description="raster; only cells where it is not 0")
    place: str | None = Field(None, description="name of the place; by default the recipe's")
    most: int | None = Field(None, gt=0, description="at most so many patches, rare classes first")

    @model_validator(mode="after")
    def _one(self) -> Labels:
        if (self.areas is None) == (self.raster is None):
            raise ValueError("give areas or raster, one of the two")
        if self.within is not None and self.raster is None:
            raise ValueError("within goes with raster")
        return self


class SplitChoice(Strict):
    """Which patches train, validate and test."""

    by: Literal["group", "block", "place", "pool", "own"] = Field(
        "group",
        description="training areas, blocks of ground, whole places; pool: by chance, which "
        "flatters; own: as an imported set came",
    )
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    side: float = Field(3200.0, gt=0, description="of a block, in metres")
    validation: tuple[str, ...] = Field((), description="places, for by: place")
    test: tuple[str, ...] = Field((), description="places, for by: place")
    seed: int = Field(0, ge=0)


class ModelWanted(Strict):
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
        "forest",
    ] = "mscnn"
    start: str | None = Field(
        None, description="a model card to go on from: its weights wherever they fit"
    )
    restandardise: bool = Field(
        False, description="with start: standardise by these patches, not as the card did"
    )
    parameters: dict[str, Any] = Field(default_factory=dict)
    bands: tuple[str, ...] = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    licence: str = "unknown"
    description: str = ""


class Training(Strict):
    """How; see `engine.training.fit.Settings`."""

    epochs: int = Field(100, gt=0)
    patience: int = Field(15, gt=0)
    batch: int = Field(96, gt=1)
    rate: float = Field(2e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    balance: Literal["none", "sqrt", "full"] = "sqrt"
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    draws: int | None = Field(None, gt=1)
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, gt=0)


class TrainRecipe(Strict):
    """All that a training is told."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    labels: tuple[Labels, ...] = Field((), description="none: `patches` is an imported set")
    patches: str = Field(description="folder of the patch set (Zarr)")
    context: int = Field(16, ge=0, le=64, description="pixels kept about each patch")
    split: SplitChoice = SplitChoice()
    model: ModelWanted = ModelWanted()
    training: Training = Training()
    out: str = Field(description="folder of the model")


def load_train_recipe(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> TrainRecipe:
    """Read and validate a recipe of a training; arguments and errors as for `load_recipe`."""
    return read_recipe(TrainRecipe, source, overrides, template="train")
