"""Section of a recipe: embeddings that others have published."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.recipes.base import PathText, Strict, Words

__all__ = ["Embeddings", "Kind"]

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
