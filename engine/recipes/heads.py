"""The recipe of a head's training: embedded cities with labels, pseudo-labels, and which head."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from engine.recipes.base import PathText, Strict, Words
from engine.recipes.propagating import EmbeddedCity
from engine.recipes.training import Fitting, Split, TrainingRecipe

__all__ = ["HeadRecipe", "HeadSplit", "HeadWanted"]


class HeadSplit(Split):
    """Which labelled cells test the head; all others train it."""

    by: Literal["block", "place"] = Field(
        "block", description="blocks of ground, or whole cities (test: their names)"
    )
    shares: tuple[float, float, float] = Field(
        (0.8, 0.0, 0.2), description="of blocks that train and test; none validates a head"
    )
    side: float = Field(3200.0, gt=0, description="of a block, in metres")

    @model_validator(mode="after")
    def _two(self) -> HeadSplit:
        if self.shares[1] or self.validation:
            raise ValueError("a head is tuned across the cities that train; nothing validates it")
        if self.by == "block" and self.test:
            raise ValueError("test: names cities, and goes with by: place")
        return self


class HeadWanted(Strict):
    """What is trained."""

    kind: Literal["logistic", "knn", "mlp", "forest"] = Field(
        "logistic", description="regression, nearest labels, a small network, or trees"
    )
    tune: bool | None = Field(
        None,
        description="choose its settings by leaving out one city after another; the usual ones "
        "stay unless others gain more than the standard error. By default where three cities "
        "have labels; true refuses fewer",
    )
    cell: float | None = Field(
        None,
        gt=0,
        le=1e5,
        description="side of the map's cells, metres; by default the encoder's, or 100",
    )
    licence: Words = "unknown"
    attribution: Words | None = Field(None, description="who made the model, and is to be named")
    citation: Words | None = Field(None, description="how the model is cited")
    description: str = ""


class HeadRecipe(TrainingRecipe):
    """All that the training of a head is told."""

    template: ClassVar[str] = "train-head"

    product: Literal["embedding"]
    cities: tuple[EmbeddedCity, ...] = Field(min_length=1)
    pseudo: PathText | None = Field(
        None, description="pseudo-labels of these cities (`natmap propagate`), by their confidence"
    )
    most: int = Field(500, gt=0, description="labels of each class and city that train")
    split: HeadSplit = HeadSplit()
    model: HeadWanted = HeadWanted()

    @model_validator(mode="after")
    def _labelled(self) -> HeadRecipe:
        if not any(city.areas or city.raster for city in self.cities):
            raise ValueError("cities: none has labels; give one areas or raster")
        if any(city.osm for city in self.cities):
            raise ValueError(
                "cities: osm labels cells in natmap propagate; name its folder under pseudo"
            )
        told, usual = self.training.model_dump(), Fitting().model_dump()
        if said := [name for name in told if name != "seed" and told[name] != usual[name]]:
            raise ValueError(f"training: a head is told its seed alone, not {', '.join(said)}")
        return self
