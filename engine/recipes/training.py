"""What the recipes of all trainings have in common; each kind of model adds its own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from engine.recipes.base import PathText, Strict

__all__ = ["Fitting", "Split", "TrainingRecipe"]


class Split(Strict):
    """Which examples train, validate and test."""

    by: Literal["group", "block", "place", "pool", "own"] = "block"
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    side: float = Field(2000.0, gt=0, description="of a block, in metres")
    validation: tuple[str, ...] = Field((), description="places, for by: place")
    test: tuple[str, ...] = Field((), description="places, for by: place")
    seed: int = Field(0, ge=0)


class Fitting(Strict):
    """How a network is fitted, whatever it learns from: its `examples`."""

    examples: ClassVar[str] = "examples"

    epochs: int = Field(100, gt=0)
    batch: int = Field(8, gt=1)
    rate: float = Field(1e-4, gt=0)
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, gt=0)

    @model_validator(mode="after")
    def _shared(self) -> Fitting:
        if self.batch < 2 * self.devices:
            some = f"two {self.examples} for each of devices"
            raise ValueError(f"batch: {some} at least, to normalise by")
        return self


class TrainingRecipe(Strict):
    """The part that the recipe of any training has.

    `template` is what `natmap init` calls the recipe to start from.
    """

    template: ClassVar[str] = "train"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    split: Split = Split()
    training: Fitting = Fitting()
    out: PathText = Field(description="folder of the model")
