"""The recipe of an embedding, and its section of embeddings that others have published."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from engine.recipes.base import PathText, Strict, Words
from engine.recipes.features import Features
from engine.recipes.periods import spanned
from engine.recipes.run import Recipe
from engine.recipes.sections import Cube, Imagery, ModelChoice

__all__ = ["EmbeddingRecipe", "Embeddings", "Kind"]

Kind = Literal["geoemb", "tessera-tiles", "icechunk", "alphaearth", "alphaearth-mosaic"]
"""Forms of published embeddings; ``geoemb`` is also TESSERA's Zarr."""


class Embeddings(Strict):
    """Where published vectors come from."""

    source: PathText = Field(
        description="a folder (Zarr, Icechunk, tiles, files), the address of a Zarr store, "
        "AlphaEarth's index, or one file"
    )
    year: int = Field(ge=1900, lt=2200, description="of the vectors")
    form: Kind | None = Field(None, description="by default what its files look like")
    method: Literal["nearest", "bilinear"] = Field(
        "nearest", description="how vectors of 10 m come onto the grid"
    )
    licence: Words | None = Field(None, description="an SPDX identifier, or words")
    attribution: Words | None = Field(None, description="who is to be named")
    citation: Words | None = None


class EmbeddingRecipe(Recipe):
    """What an embedding is told."""

    product: Literal["embedding"]
    imagery: Imagery | None = None
    embeddings: Embeddings | None = Field(None, description="published ones, in place of imagery")
    features: Features | None = Field(
        None, description="of the ground: further components of each vector, with their masks"
    )
    cube: Cube = Cube()
    model: ModelChoice | None = Field(
        None, description="the network; without it cells have the statistics of their pixels"
    )
    cell: float = Field(320.0, gt=0, le=1e5, description="side of a cell, metres")
    vectors: Literal["float32", "float16", "int8"] = Field(
        "float16", description="how they are stored; int8 has a scale for each vector"
    )

    @field_validator("mask")
    @classmethod
    def _unmasked(cls, value: object) -> object:
        if value is not None:
            raise ValueError("an embedding is not masked; mask what is made of it")
        return value

    @model_validator(mode="before")
    @classmethod
    def _spanned(cls, values: Any) -> Any:
        return spanned(values)

    @model_validator(mode="after")
    def _one_source(self) -> EmbeddingRecipe:
        if (self.imagery is None) == (self.embeddings is None):
            raise ValueError("give exactly one of imagery, embeddings")
        if self.imagery is not None:
            self.cube.require_within(self.imagery.period)
        elif self.cube.periods:
            raise ValueError(
                "cube.periods goes with imagery: published embeddings are of one year; leave it out"
            )
        if self.embeddings is not None and self.model is not None:
            raise ValueError("model: published embeddings are aggregated without one")
        return self

    @model_validator(mode="after")
    def _kept(self) -> EmbeddingRecipe:
        if self.features is not None and self.vectors == "int8":
            raise ValueError(
                "vectors: int8 has one scale for a vector, and metres of features would leave no "
                "steps to its other components; set float16 or float32"
            )
        return self

    @model_validator(mode="after")
    def _whole(self) -> EmbeddingRecipe:
        pixels = self.cell / self.grid.resolution
        if not math.isclose(pixels, round(pixels)) or round(pixels) < 1:
            raise ValueError(f"cell: {self.cell:g} m is not a multiple of grid.resolution")
        return self
