"""Section of a recipe: an extract of OpenStreetMap."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from engine.recipes.base import PathText, Strict

__all__ = ["AnyGround", "Border", "NaturalGround", "Once", "OsmLabels"]

NaturalGround = Literal[
    "water", "wetland", "wood", "orchard", "scrub", "grass", "farmland", "rock", "paved", "bare"
]
"""Classes of objects that are a local climate zone of their own (A to G)."""

AnyGround = Literal[NaturalGround, "park", "building", "road"]
"""Classes of objects."""


def _once(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if len({*value}) < len(value):
        raise ValueError("give each once")
    return value


Once = AfterValidator(_once)
"""Of a list: each value once."""

Border = Annotated[
    PathText | None,
    Field(
        description="polygon by which the extract was cut: .poly, GeoJSON or another file of "
        "polygons; by default the box in its header. Outside of it nothing is known"
    ),
]


class OsmLabels(Strict):
    """Cells that OpenStreetMap labels, because one natural class covers them."""

    path: PathText = Field(description="the extract: .osm.pbf, .osm, .osm.gz or .osm.bz2")
    extent: Border = None
    year: int | None = Field(
        None, ge=1900, lt=2200, description="that is wanted; an extract of another one is noted"
    )
    classes: Annotated[tuple[NaturalGround, ...], Once] = Field(
        ("water",), min_length=1, description="that label cells; never what is built"
    )
    least: float = Field(0.8, gt=0.5, le=1, description="share of a cell that the class covers")
