"""Section of a recipe: features of the ground from rasters and vectors of a user."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from engine.recipes.base import PathText, Strict, Words
from engine.recipes.osm import AnyGround, Border, Once

__all__ = [
    "Classes",
    "Elevation",
    "Feature",
    "Features",
    "Heights",
    "OpenStreetMap",
    "Polygons",
    "RasterFeature",
    "Slope",
    "Statistic",
    "Values",
]

Statistic = Literal["mean", "std", "max", "p10", "p50", "p90"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Year = Annotated[int, Field(ge=1900, lt=2200)]
Files = Annotated[
    tuple[PathText, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(min_length=1, max_length=10_000),
]
"""One path, or several files that lie side by side."""

_TAKEN = ("known",)


class FeatureBase(Strict):
    """What all features are told."""

    name: Name = Field(description="as in cards: NAME.mean; lower case, digits and _")
    path: Files | None = Field(None, description="a file, or a list of files side by side")
    year: Year | None = Field(None, description="that the file is of")
    years: dict[Year, Files] | None = Field(
        None, description="files of several years, in place of path and year; the nearest is taken"
    )
    licence: Words | None = Field(None, description="an SPDX identifier, or words")
    attribution: Words | None = Field(None, description="who is to be named")
    citation: Words | None = None

    @model_validator(mode="after")
    def _one(self) -> FeatureBase:
        if (self.path is None) == (self.years is None):
            raise ValueError("give exactly one of path, years")
        if (self.path is None) != (self.year is None):
            raise ValueError("year: goes with path, and path needs it: of which year is the file?")
        if self.years is not None and not self.years:
            raise ValueError("years: give one or more")
        return self

    @property
    def by_year(self) -> dict[int, tuple[str, ...]]:
        """Its files by the year that they are of."""
        if self.years is not None:
            return dict(self.years)
        assert self.path is not None
        assert self.year is not None
        return {self.year: self.path}


class RasterFeature(FeatureBase):
    """What features of a raster are told."""

    band: int = Field(1, ge=1, le=10_000, description="of the file")


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1] or not math.isfinite(value[1] - value[0]):
        raise ValueError("give [low, high], low below high")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class Measured(RasterFeature):
    """What features of numbers are told."""

    statistics: tuple[Statistic, ...] = Field(("mean", "std", "max"), min_length=1)
    range: Range = Field(
        description="[low, high] that its numbers can have: others are none. In cubes they are "
        "kept in 65,534 steps of it"
    )

    @model_validator(mode="after")
    def _once(self) -> Measured:
        if len(set(self.statistics)) < len(self.statistics):
            raise ValueError("statistics: each one once")
        return self


class Values(Measured):
    """Any raster of numbers."""

    kind: Literal["values"]


class Elevation(Measured):
    """Metres above the sea."""

    kind: Literal["elevation"]
    range: Range = (-500.0, 9000.0)


class Heights(Measured):
    """Metres above the ground: of buildings, of a canopy. Adds the share that has some."""

    kind: Literal["heights"]
    range: Range = (0.0, 655.34)
    above: float = Field(0.0, description="metres from which there is something: NAME.share")
    absent: float | None = Field(
        None,
        description="what a pixel without data means in a file that leaves out what has no "
        "height: 0. By default it is unknown",
    )

    @model_validator(mode="after")
    def _within(self) -> Heights:
        if self.absent is not None and not self.range[0] <= self.absent <= self.range[1]:
            raise ValueError("absent: it is not within range")
        return self


class Slope(RasterFeature):
    """Degrees, from a raster of elevation."""

    kind: Literal["slope"]
    statistics: tuple[Statistic, ...] = Field(("mean",), min_length=1)
    range: Range = Field((-500.0, 9000.0), description="that elevations can have, metres")
    resolution: float | None = Field(
        None,
        gt=0,
        le=1e5,
        description="metres over which it is measured: a multiple, or a whole part, of "
        "grid.resolution; by default the multiple nearest to the raster's pixel",
    )

    @model_validator(mode="after")
    def _once(self) -> Slope:
        if len(set(self.statistics)) < len(self.statistics):
            raise ValueError("statistics: each one once")
        return self


def _named(classes: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    for name, codes in classes.items():
        if name in _TAKEN:
            raise ValueError(f"{name} is what the mask is called")
        if not codes:
            raise ValueError(f"{name} has no values")
        if len(set(codes)) < len(codes):
            raise ValueError(f"{name} has a value twice")
    return classes


def _listed(value: Any) -> Any:
    """Single values as lists of one."""
    if not isinstance(value, dict):
        return value
    return {k: v if isinstance(v, list | tuple) else [v] for k, v in value.items()}


class Classes(RasterFeature):
    """A raster of codes: the share of each class."""

    kind: Literal["classes"]
    classes: Annotated[
        dict[Name, tuple[int, ...]], BeforeValidator(_listed), AfterValidator(_named)
    ] = Field(min_length=1, max_length=64, description="{built: [50], water: [80, 90]}")


class Polygons(FeatureBase):
    """Polygons: the share of ground that they cover, of each class where there are some."""

    kind: Literal["polygons"]
    field: str | None = Field(None, description="that has the class")
    classes: (
        Annotated[
            dict[Name, tuple[str | int, ...]], BeforeValidator(_listed), AfterValidator(_named)
        ]
        | None
    ) = Field(None, max_length=64, description="{park: [park, garden], wood: wood}")

    @model_validator(mode="after")
    def _both(self) -> Polygons:
        if (self.field is None) != (self.classes is None) or self.classes == {}:
            raise ValueError("field and classes go together; without them all polygons are one")
        return self


class OpenStreetMap(FeatureBase):
    """An extract of OpenStreetMap: the share of ground that each class of its objects covers."""

    kind: Literal["osm"]
    classes: Annotated[tuple[AnyGround, ...], Once] = Field(
        ("water",), min_length=1, description="each is a band: NAME.water"
    )
    extent: Border = None

    @model_validator(mode="after")
    def _single(self) -> OpenStreetMap:
        if any(len(paths) > 1 for paths in self.by_year.values()):
            raise ValueError("path: give one extract (osmium merge makes one of several)")
        return self


_KINDS = ("values", "elevation", "heights", "slope", "classes", "polygons", "osm")


def _kind(value: Any) -> Any:
    """What decides which feature it is; Strict's own check of numbers hides it from pydantic."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) else None


Feature = Annotated[
    Annotated[Values, Tag("values")]
    | Annotated[Elevation, Tag("elevation")]
    | Annotated[Heights, Tag("heights")]
    | Annotated[Slope, Tag("slope")]
    | Annotated[Classes, Tag("classes")]
    | Annotated[Polygons, Tag("polygons")]
    | Annotated[OpenStreetMap, Tag("osm")],
    Discriminator(
        _kind,
        custom_error_type="feature_kind",
        custom_error_message=f"kind: it is none of {', '.join(_KINDS)}",
    ),
]


def _apart(features: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [feature.name for feature in features]
    if len(set(names)) < len(names):
        raise ValueError(f"a feature is named twice: {', '.join(names)}")
    return features


Features = Annotated[
    tuple[Feature, ...], Field(min_length=1, max_length=64), AfterValidator(_apart)
]
"""Features of the ground, each with a name of its own."""
