"""The recipe of a propagation: embeddings of cities, and labels of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from engine.recipes.base import PathText, Strict, read_recipe
from engine.recipes.osm import OsmLabels
from engine.recipes.run import NAME

__all__ = ["EmbeddedCity", "PropagationRecipe", "load_propagation_recipe"]


class EmbeddedCity(Strict):
    """A city whose embedding has been made, and its labels, if it has some."""

    recipe: PathText = Field(description="a recipe of product embedding that has been run")
    name: str | None = Field(None, pattern=NAME, description="by default the recipe's")
    areas: PathText | None = Field(None, description="training areas: KML, KMZ, GeoJSON, GPKG")
    field: str | None = Field(
        None, description="of the areas, that holds the type; by default lcz, Class or Name"
    )
    raster: PathText | None = Field(None, description="reference raster of codes 1 to 17")
    within: PathText | None = Field(None, description="raster; only cells where it is not 0")
    held: PathText | None = Field(
        None, description="polygons in which nothing is labelled: they validate or test"
    )
    osm: OsmLabels | None = Field(
        None, description="an extract of OpenStreetMap: cells that its water covers are labelled"
    )

    @model_validator(mode="after")
    def _one(self) -> EmbeddedCity:
        if self.areas is not None and self.raster is not None:
            raise ValueError("give areas or raster, not both")
        if self.within is not None and self.raster is None:
            raise ValueError("within goes with raster")
        if self.field is not None and self.areas is None:
            raise ValueError("field goes with areas")
        return self


class PropagationRecipe(Strict):
    """All that a propagation is told."""

    name: str = Field(pattern=NAME)
    cities: tuple[EmbeddedCity, ...] = Field(min_length=1)
    preset: Literal["default", "notes"] = Field(
        "default",
        description="default: a linear head, a target precision, proof on cities left out; notes: "
        "votes of the nearest labels, as in the work log it comes from",
    )
    precision: float = Field(
        0.9, gt=0, lt=1, description="that pseudo-labels are to have; of preset default"
    )
    neighbours: int = Field(5, gt=0, le=1000, description="labels that vote")
    rounds: int = Field(1, gt=0, le=10)
    most: int = Field(500, gt=0, description="labels of each class and city that take part")
    center: Literal["city"] | None = Field(
        None, description="city: the mean vector of each city is removed from its cells first"
    )
    water: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="share of water from which on a cell is LCZ G, where the embedding is a "
        "published one that tells water; null: never",
    )
    seed: int = Field(0, ge=0)
    out: PathText = Field(description="folder of the pseudo-labels")

    @model_validator(mode="after")
    def _labelled(self) -> PropagationRecipe:
        if not any(city.areas or city.raster for city in self.cities):
            raise ValueError("cities: none has labels; give one areas or raster")
        if self.preset == "notes" and "precision" in self.model_fields_set:
            raise ValueError("precision: goes with preset default")
        return self


def load_propagation_recipe(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> PropagationRecipe:
    """Read and validate a recipe.

    Parameters
    ----------
    source : path of a YAML file, or a mapping.
    overrides : mapping of dotted keys to values.

    Raises
    ------
    RecipeError
    """
    return read_recipe(PropagationRecipe, source, overrides, template="propagate")
