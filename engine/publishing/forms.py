"""What a product consists of: its rasters, their legend, its words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from engine.legend import REASON_COLOURS, LandClass, Scale

__all__ = ["PERCENTAGES", "Form", "Layer", "Vectors", "reason_layer"]

PERCENTAGES = Scale(0.0, 100.0, "%", ("440154", "3B528B", "21918C", "5EC962", "FDE725"))
"""How percentages are drawn."""


@dataclass(frozen=True)
class Layer:
    """How one raster of a product is written.

    Attributes
    ----------
    key : its asset key, as the product's form has it.
    suffix : of the file's name, after the product's.
    overview : how overviews are made; classes must not be averaged.
    array : of the store, "" where it comes from elsewhere.
    classes : what its codes mean, () where its values are no classes.
    bands : names of its bands, () where it has one alone, without a name.
    scale : what its values are drawn by, where they are no codes.
    colours : code to RRGGBB, for rasters of codes; by default those of `classes`, nodata white.
    factor : pixels of the product along one of this layer's.
    scaled_by : array of the store by which its values are multiplied, "" where they are as stored.
    """

    key: str
    suffix: str
    title: str
    dtype: str
    nodata: float | None
    overview: Literal["mode", "nearest", "average"] = "nearest"
    array: str = ""
    classes: tuple[LandClass, ...] = ()
    colours: Mapping[int, str] | None = None
    factor: int = 1
    bands: tuple[str, ...] = ()
    scale: Scale | None = None
    scaled_by: str = ""

    def rgba(self, code: int) -> tuple[int, int, int, int]:
        """The colour of a code of the palette; nodata is transparent."""
        assert self.palette is not None, "the layer has no palette"
        red, green, blue = bytes.fromhex(self.palette[code])
        return red, green, blue, 0 if code == self.nodata else 255

    @property
    def palette(self) -> Mapping[int, str] | None:
        """Colours of its codes, None where it has none."""
        if self.colours is not None or not self.classes:
            return self.colours
        nodata = {} if self.nodata is None else {int(self.nodata): "FFFFFF"}
        return nodata | {c.code: c.colour for c in self.classes}


@dataclass(frozen=True)
class Vectors:
    """How a layer of embedding vectors is published beside its COG: as Zarr, and what STAC says.

    Attributes
    ----------
    layer : its key.
    kind : of the stored numbers: float32, float16 or int8.
    resolution : of what the vectors were made from, metres.
    patch : pixels of that along a side of what one vector describes.
    """

    layer: str
    kind: str
    resolution: float
    patch: int


@dataclass(frozen=True)
class Form:
    """How a kind of product is published and drawn.

    Attributes
    ----------
    title : of the collection; `words` of the same in a sentence, `keywords` for a search.
    layers : rasters of the product folder, in the order of its assets. One has the key ``map``,
        one ``reason``.
    legend : of the layer ``map``, () where it has a scale.
    scale : of the layer ``map``, where its values are continuous.
    observed : whether there are the layers ``observations`` and ``dissent``.
    overview : layer of percentages that shows a large map better than single pixels do; `shades`
        are its colours by fifths.
    vectors : of a product of embeddings, how these are published.
    """

    title: str
    words: str
    keywords: tuple[str, ...]
    layers: tuple[Layer, ...]
    legend: tuple[LandClass, ...] = ()
    scale: Scale | None = None
    observed: bool = False
    overview: str | None = None
    shades: tuple[LandClass, ...] = ()
    vectors: Vectors | None = None

    def layer(self, key: str) -> Layer:
        """The layer of a key."""
        return next(layer for layer in self.layers if layer.key == key)

    def __post_init__(self) -> None:
        if self.scale is not None:  # the layer ``map`` is drawn by it
            layers = (replace(e, scale=self.scale) if e.key == "map" else e for e in self.layers)
            object.__setattr__(self, "layers", tuple(layers))
        keys = [layer.key for layer in self.layers]
        if len(set(keys)) < len(keys) or not {"map", "reason"} <= set(keys):
            raise ValueError(f"layers must be different, with map and reason: {keys}")
        if bool(self.legend) == (self.scale is not None):
            raise ValueError("a form has either a legend or a scale")

    @property
    def nodata(self) -> float:
        """What the layer ``map`` holds where there is none."""
        nodata = self.layer("map").nodata
        assert nodata is not None, "the layer map declares its nodata"
        return nodata

    def to_json(self) -> dict[str, Any]:
        """What a reader of the product folder must know of it."""
        return {
            "layers": [
                {
                    "key": layer.key,
                    "suffix": layer.suffix,
                    "title": layer.title,
                    "dtype": layer.dtype,
                    "nodata": _plain(layer.nodata),
                    "factor": layer.factor,
                    "classes": [c._asdict() for c in layer.classes],
                    "bands": list(layer.bands),
                }
                for layer in self.layers
            ],
            "scale": None if self.scale is None else self.scale._asdict(),
        }

    @property
    def coarsest(self) -> int:
        """Pixels of the product along one of its coarsest layer's."""
        return max(layer.factor for layer in self.layers)


def _plain(nodata: float | None) -> float | str | None:
    """JSON has no NaN; STAC writes it as text."""
    return "nan" if nodata is not None and math.isnan(nodata) else nodata


def reason_layer(array: str) -> Layer:
    """The layer ``reason``, which every product has."""
    colours = {int(r): colour for r, colour in REASON_COLOURS.items()}
    return Layer(
        "reason", "-reason", "Why a cell has no data", "uint8", None, "mode", array, colours=colours
    )
