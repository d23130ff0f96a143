"""Sections that recipes of products are composed of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from engine.errors import RecipeError
from engine.grid.grid import projected_crs
from engine.items import band_name
from engine.recipes.base import CardOrPath, PathText, Strict, Words
from engine.recipes.periods import CubePeriod, labelled, require_apart

__all__ = [
    "AreaChoice",
    "Cube",
    "Device",
    "Filter",
    "GridChoice",
    "Imagery",
    "Images",
    "Instances",
    "Mask",
    "ModelChoice",
    "Period",
    "Publication",
    "SceneModels",
    "WindowModel",
    "at_one_metre",
]

Device = Literal["auto", "cpu", "cuda"]
"""Where networks run; auto: on a GPU where the machine that computes has one."""


class AreaChoice(Strict):
    """The wanted area; exactly one of the three."""

    country: str | None = Field(None, description="ISO code of a country of the boundary card")
    file: PathText | None = Field(None, description="a polygon file: GeoJSON, GPKG, shapefile")
    bbox: tuple[float, float, float, float] | None = Field(
        None, description="[west, south, east, north] in degrees; west > east crosses 180"
    )

    @model_validator(mode="after")
    def _one(self) -> AreaChoice:
        if sum(v is not None for v in (self.country, self.file, self.bbox)) != 1:
            raise ValueError("give exactly one of country, file, bbox")
        return self


class GridChoice(Strict):
    """The national grid."""

    crs: str = Field(description="projected, in metres, as in EPSG:5179")
    resolution: float = Field(10.0, gt=0, le=1e5, description="of the imagery, in metres")
    tile: int = Field(1600, gt=0, le=1_000_000, description="a tile's side, px of `resolution`")
    chunk: int | None = Field(None, gt=0, description="side of a chunk; divides the tile")
    origin: tuple[float, float] = Field(
        (0.0, 0.0), description="a point of the lattice in metres (modulo the tile)"
    )

    @field_validator("crs")
    @classmethod
    def _projected(cls, value: str) -> str:
        try:
            projected_crs(value)
        except Exception as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def chunk_pixels(self) -> int:
        """The chunk's side: as told, else 400, else the largest divisor of the tile below it."""
        if self.chunk is not None:
            return self.chunk
        return max(n for n in range(1, min(400, self.tile) + 1) if self.tile % n == 0)

    @property
    def tile_metres(self) -> float:
        """Side of a tile, in metres."""
        return self.tile * self.resolution


def at_one_metre(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe of images: the pixel is 1 m and the tile 4 km, where nothing else is said."""
    grid = values.get("grid")
    if not isinstance(grid, Mapping):
        return values
    grid = {"resolution": 1.0, "tile": 4000, **grid}
    tile = grid["tile"]
    if isinstance(tile, int) and tile > 0 and tile % 1000 == 0:
        grid = {"chunk": 1000, **grid}
    return {**values, "grid": grid}


_PERIOD = re.compile(r"^(\d{4}-\d{2}-\d{2})/(\d{4}-\d{2}-\d{2})$")


class Period(Strict):
    """First and last solar day, both included."""

    first: date
    last: date

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, str):
            match = _PERIOD.match(value)
            if not match:
                raise ValueError(f"got {value!r}, expected FIRST/LAST, as in 2023-03-01/2023-06-30")
            return {"first": match[1], "last": match[2]}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Period:
        if self.first > self.last:
            raise ValueError(f"the period ends ({self.last}) before it begins ({self.first})")
        return self

    def __str__(self) -> str:
        return f"{self.first}/{self.last}"


def _bands(value: Any) -> Any:
    if isinstance(value, list | tuple):
        for name in value:
            try:
                band_name(str(name))
            except RecipeError as error:
                raise ValueError(str(error)) from error
        if len({band_name(str(name)) for name in value}) < len(value):
            raise ValueError(f"a band is named twice: {value}")
        return tuple(str(name) for name in value)
    return value


class Imagery(Strict):
    """Where the scenes come from."""

    catalog: CardOrPath = Field(
        description="a source card's name, or a path or address of a catalogue"
    )
    collection: str | None = Field(None, description="if the card offers several")
    period: Period
    max_cloud_cover: float = Field(100.0, ge=0, le=100, description="percent, by the item")
    bands: Annotated[tuple[str, ...] | None, BeforeValidator(_bands)] = Field(
        None, description="B02 or blue; by default the model's"
    )
    verify: bool = Field(
        False, description="check file:checksum where items have it; fetches whole files"
    )
    allow_hosts: tuple[str, ...] = Field(
        (), description="private hosts that a remote catalogue may lead to, beside its own"
    )


class Images(Strict):
    """A second source, of 1 m images: red, green and blue, 8 bits each."""

    catalog: CardOrPath = Field(description="as in imagery; `natmap ingest` makes one of a folder")
    collection: str | None = Field(None, description="if the card offers several")
    period: Period | None = Field(None, description="by default of any day")
    order: Literal["newest", "nadir"] | tuple[str, ...] = Field(
        "newest",
        description="which frame shows where several do: newest, nadir (looked aside least), or "
        "ids of frames that go before all others",
    )
    keep: bool = Field(
        False, description="store the mosaic, for another model to be run on; not of product lcz"
    )
    verify: bool = Field(False, description="as in imagery")
    allow_hosts: tuple[str, ...] = Field((), description="as in imagery")

    @property
    def wanted(self) -> Imagery:
        """What to search for, in the terms of imagery."""
        period = self.period or Period(first=date(1970, 1, 1), last=date(2099, 12, 31))
        return Imagery(
            catalog=self.catalog,
            collection=self.collection,
            period=period,
            verify=self.verify,
            allow_hosts=self.allow_hosts,
        )


class Instances(Strict):
    """How 1 m images are parted into instances, the nodes of a cell's graph."""

    segmenter: Literal["felzenszwalb", "slic", "sam"] = "felzenszwalb"
    segmentation: Literal["shared", "per_window"] = Field(
        "shared", description="once per block of ground; or for each window, ten times the work"
    )
    checkpoint: PathText | None = Field(
        None, description="of sam: folder of config.json and model.safetensors"
    )

    @model_validator(mode="after")
    def _whole(self) -> Instances:
        if (self.segmenter == "sam") != (self.checkpoint is not None):
            raise ValueError("segmenter: sam and checkpoint go together")
        if self.segmenter == "sam" and self.segmentation == "shared":
            raise ValueError(
                "segmentation: sam scales what it sees to one size, a window of 320 m; "
                "set per_window"
            )
        return self

    @property
    def made(self) -> dict[str, str]:
        """What a graph network must be told of how its instances were made."""
        return {"segmenter": self.segmenter, "segmentation": self.segmentation}


class Cube(Strict):
    """How scenes become a composite."""

    composite: Literal["median", "mean", "medoid"] = "median"
    keep_scenes: bool = Field(True, description="false: composites without stored scenes")
    cloud_dilation: float = Field(60.0, ge=0, le=1000, description="metres around cloud and shadow")
    mask_snow: bool = False
    periods: tuple[CubePeriod, ...] = Field(
        (),
        min_length=1,
        max_length=24,
        description="several composites in one cube, for models that want dates or seasons",
    )

    @model_validator(mode="after")
    def _apart(self) -> Cube:
        require_apart(self.periods)
        return self

    @model_serializer(mode="wrap")
    def _told(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without periods where there are none: recipes of before there were any stay the same."""
        told: dict[str, Any] = dump(self)
        if not self.periods:
            told.pop("periods", None)
        return told

    @property
    def labels(self) -> dict[str, CubePeriod]:
        """The periods by what follows the @ of their bands."""
        return labelled(self.periods)

    def require_within(self, period: Period) -> None:
        """Refuse imagery of which a period would be cut."""
        for label, mine in self.labels.items():
            if mine.start < period.first or mine.end > period.last:
                raise ValueError(
                    f"imagery.period ({period}) does not hold period {label} ({mine}); leave it "
                    "out, and it is from the first of cube.periods to the last"
                )


class ModelChoice(Strict):
    """The model and where it runs."""

    card: CardOrPath = Field(description="a model card's name or file")
    device: Device = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"


class SceneModels(Strict):
    """Segmenters by the scene that a window shows."""

    file: PathText = Field(
        description="scenes.json of natmap scenes, or of natmap train --each, which names cards"
    )
    cards: dict[int, CardOrPath] = Field(
        default_factory=dict, description="card of a scene by its number, before those of the file"
    )
    mode: Literal["choose", "blend"] = Field(
        "choose", description="the card of a window's scene, or those of all scenes near it"
    )
    floor: float | None = Field(
        None, gt=0, le=0.5, description="of blend: weights below it are left out; by default 0.1"
    )

    @field_validator("cards", mode="before")
    @classmethod
    def _numbered(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for key in value:
            if isinstance(key, bool) or not re.fullmatch(r"[0-9]{1,4}", str(key), re.ASCII):
                raise ValueError(f"{key!r} is not the number of a scene")
        if len({int(key) for key in value}) < len(value):
            raise ValueError("a scene is there twice")
        return value

    @model_validator(mode="after")
    def _whole(self) -> SceneModels:
        if self.floor is not None and self.mode != "blend":
            raise ValueError("floor goes with mode: blend")
        return self

    @property
    def least(self) -> float:
        """Weight below which a scene's card does not run; 1 where one card does."""
        return 1.0 if self.mode == "choose" else 0.1 if self.floor is None else self.floor


class WindowModel(ModelChoice):
    """A segmenter, and others that map in its place: cities of their own, or scenes."""

    cities: PathText | None = Field(
        None, description="polygons with name and card: that card maps the city"
    )
    scenes: SceneModels | None = Field(
        None, description="cards by the scene of a window; all other windows by `card`"
    )

    @model_validator(mode="after")
    def _one(self) -> WindowModel:
        if self.cities is not None and self.scenes is not None:
            raise ValueError(
                "cities and scenes: give one of the two; cities that need scenes of their own are "
                "mapped by a recipe each, with the city as mask"
            )
        return self

    @model_serializer(mode="wrap")
    def _told(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not there: recipes of before there was any stay the same."""
        told: dict[str, Any] = dump(self)
        for name in ("cities", "scenes"):
            if getattr(self, name) is None:
                told.pop(name, None)
        return told


class Filter(Strict):
    """The class filter of the finished map."""

    method: Literal["gaussian", "majority", "none"] = "gaussian"
    radius_rule: Literal["ee", "floor"] = Field("ee", description="support of the Gaussian kernels")
    majority_radius: int = Field(1, ge=1, le=10, description="cells, for method majority")


class Publication(Strict):
    """What the product says of itself; nothing here decides a pixel."""

    title: Words | None = Field(None, description="of the product, for people")
    licence: Words | None = Field(
        None, description="under which the product may be used: an SPDX identifier, or words"
    )
    attribution: Words | None = Field(None, description="who made it, and is to be named")
    citation: Words | None = Field(None, description="how it is cited")


class Mask(Strict):
    """What lies outside is not part of the product."""

    boundaries: CardOrPath = Field(description="a boundary card's name, or any polygon file")
    outside: Literal["nodata"] = "nodata"
