"""The recipe of an adaptation: a segmenter of urban green space, to a city without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from engine.recipes.base import CardOrPath, PathText, Strict, read_recipe

__all__ = ["AdaptRecipe", "Adapting", "load_adapt_recipe"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "steps": 10_000,
        "batch": 2,
        "rate": 1e-4,
        "adversarial_weight": 1.0,
        "statistics": "source",
        "guard": 100,
    },
}


class Adapting(Strict):
    """How; see `engine.training.adversarial.AdaptSettings`."""

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
    guard: float = Field(
        5.0, gt=0, le=100, description="points of F1 that the source may lose; 100: any"
    )
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
    model: CardOrPath = Field(description="card of the segmenter to adapt")
    chips: PathText = Field(description="the chip set that it was trained on")
    target: PathText = Field(
        description="a map recipe of the city: chips are drawn in its mask's boundary"
    )
    most: int = Field(500, gt=1, description="chips drawn of the city")
    training: Adapting = Adapting()
    out: PathText = Field(description="folder of the adapted model")


def load_adapt_recipe(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> AdaptRecipe:
    """Read and validate a recipe of an adaptation; errors as for `load_recipe`."""
    return read_recipe(AdaptRecipe, source, overrides, template="adapt")
