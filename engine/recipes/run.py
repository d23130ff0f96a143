"""Recipe: what every run is told, whatever it maps. Products add sections of their own."""

from __future__ import annotations

from pydantic import Field, model_validator

from engine.recipes.base import PathText, Strict
from engine.recipes.sections import AreaChoice, GridChoice, Mask, Publication

__all__ = ["NAME", "Recipe"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What a run, a model and a release may be called."""


class Recipe(Strict):
    """What a run of any product is told. Frozen; a key that the product lacks is refused.

    Paths are as written; those of a recipe file are taken from the file's folder.
    """

    name: str = Field(pattern=NAME)
    product: str = Field(description="what is mapped: lcz, ugs, or a product of another package")
    area: AreaChoice
    grid: GridChoice
    mask: Mask | None = None
    store: PathText
    publish: PathText | None = None
    publication: Publication | None = None
    price_per_worker_hour: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _chunk(self) -> Recipe:
        if self.grid.tile % self.grid.chunk_pixels:
            raise ValueError(
                f"grid.chunk: {self.grid.chunk_pixels} px does not divide grid.tile: "
                f"{self.grid.tile} px; two tiles would write one chunk"
            )
        return self
