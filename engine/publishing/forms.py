"""What a product consists of: its rasters, their legend, its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.legend import REASON_COLOURS, LandClass

__all__ = ["Form", "Layer", "reason_layer"]


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
    colours : code to RRGGBB, for rasters of codes; by default those of `classes`, nodata white.
    factor : pixels of the product along one of this layer's.
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

    @property
    def palette(self) -> Mapping[int, str] | None:
        """Colours of its codes, None where it has none."""
        if self.colours is not None or not self.classes:
            return self.colours
        nodata = {} if self.nodata is None else {int(self.nodata): "FFFFFF"}
        return nodata | {c.code: c.colour for c in self.classes}


@dataclass(frozen=True)
class Form:
    """How a kind of product is published and drawn.

    Attributes
    ----------
    title : of the collection; `words` of the same in a sentence, `keywords` for a search.
    layers : rasters of the product folder, in the order of its assets. One has the key ``map``,
        one ``reason``.
    legend : of the layer ``map``.
    observed : whether there are the layers ``observations`` and ``dissent``.
    overview : layer of percentages that shows a large map better than single pixels do; `shades`
        are its colours by fifths.
    """

    title: str
    words: str
    keywords: tuple[str, ...]
    layers: tuple[Layer, ...]
    legend: tuple[LandClass, ...]
    observed: bool = False
    overview: str | None = None
    shades: tuple[LandClass, ...] = ()

    def layer(self, key: str) -> Layer:
        """The layer of a key."""
        return next(layer for layer in self.layers if layer.key == key)

    @property
    def nodata(self) -> int:
        """Code of pixels of the layer ``map`` without a class."""
        nodata = self.layer("map").nodata
        assert nodata is not None
        return int(nodata)

    @property
    def coarsest(self) -> int:
        """Pixels of the product along one of its coarsest layer's."""
        return max(layer.factor for layer in self.layers)


def reason_layer(array: str) -> Layer:
    """The layer ``reason``, which every product has."""
    colours = {int(r): colour for r, colour in REASON_COLOURS.items()}
    return Layer(
        "reason", "-reason", "Why a cell has no data", "uint8", None, "mode", array, colours=colours
    )
