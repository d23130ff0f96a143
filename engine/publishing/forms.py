"""What a product consists of: its rasters, their legend, its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.legend import LCZ, REASON_COLOURS, UGS, LandClass
from engine.publishing.cog import Layer

__all__ = ["LCZ_FORM", "UGS_FORM", "Form"]


@dataclass(frozen=True)
class Form:
    """A kind of product.

    Attributes
    ----------
    title : of the collection; `words` of the same in a sentence, `keywords` for a search.
    layers : rasters of the product folder, in the order of its assets.
    legend : of the layer ``map`` and, where there is one, of ``classes``.
    nodata : of these.
    observed : whether there are the layers ``observations`` and ``dissent``.
    overview : layer of percentages that shows a large map better than single pixels do; `shades`
        are its colours by fifths.
    """

    title: str
    words: str
    keywords: tuple[str, ...]
    layers: tuple[Layer, ...]
    legend: tuple[LandClass, ...]
    nodata: int
    observed: bool
    overview: str | None = None
    shades: tuple[LandClass, ...] = ()

    @property
    def coarsest(self) -> int:
        """Pixels of the product along one of its coarsest layer's."""
        return max(layer.factor for layer in self.layers)

    def classes_of(self, layer: Layer) -> tuple[LandClass, ...]:
        """The legend of a layer, () where its values are no classes."""
        return self.legend if layer.key in ("map", "classes") else ()


_REASONS: Mapping[int, str] = {int(r): colour for r, colour in REASON_COLOURS.items()}
_REASON = Layer("reason", "-reason", "Why a cell has no data", "uint8", None, "mode", _REASONS)
_ZONES = {0: "FFFFFF", **{c.code: c.colour for c in LCZ}}
_GREEN = {255: "FFFFFF", **{c.code: c.colour for c in UGS}}

LCZ_FORM = Form(
    "Local climate zones",
    "local climate zones",
    ("local climate zones", "land cover", "urban climate"),
    (
        Layer("map", "", "Local climate zones, filtered and masked", "uint8", 0, "mode", _ZONES),
        Layer("classes", "-classes", "Local climate zones, unfiltered", "uint8", 0, "mode", _ZONES),
        Layer("confidence", "-confidence", "Confidence, percent", "uint8", 255, "average"),
        Layer("observations", "-observations", "Clear days", "uint16", None, "nearest"),
        Layer("dissent", "-dissent", "Days that depart from the others, percent", "uint8", 255),
        _REASON,
    ),
    LCZ,
    0,
    observed=True,
)

UGS_FORM = Form(
    "Urban green space",
    "urban green space",
    ("urban green space", "vegetation", "land cover"),
    (
        Layer("map", "", "Urban green space, masked", "uint8", 255, "mode", _GREEN),
        Layer(
            "probability",
            "-probability",
            "Probability of green space, percent",
            "uint8",
            255,
            "average",
        ),
        _REASON,
        Layer(
            "green",
            "-green-fraction-100m",
            "Green share of a cell of 100 m, percent",
            "uint8",
            255,
            "average",
            factor=100,
        ),
    ),
    UGS,
    255,
    observed=False,
    overview="green",
    shades=tuple(
        LandClass(code, "", f"green_to_{20 * code}", f"{20 * (code - 1)} to {20 * code} %", colour)
        for code, colour in enumerate(["EDE6DC", "D3E2BE", "A3CC8B", "5FAE58", "1F7A33"], start=1)
    ),
)
