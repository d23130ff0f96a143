"""How a product of local climate zones is laid out: its layers, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from engine.legend import LCZ
from engine.publishing.forms import PERCENTAGES, Form, Layer, reason_layer

__all__ = ["FORM", "FORM_OF_VECTORS"]


def _layers() -> Sequence[Layer]:
    zones = partial(Layer, dtype="uint8", nodata=0, overview="mode", classes=LCZ)
    return (
        zones("map", "", "Local climate zones, filtered and masked", array="map/classes"),
        zones("classes", "-classes", "Local climate zones, unfiltered", array="map/unfiltered"),
        Layer(
            "confidence",
            "-confidence",
            "Confidence, percent",
            "uint8",
            255,
            "average",
            "map/confidence",
            scale=PERCENTAGES,
        ),
        Layer(
            "observations", "-observations", "Clear days", "uint16", None, array="map/observations"
        ),
        Layer(
            "dissent",
            "-dissent",
            "Days that depart from the others, percent",
            "uint8",
            255,
            array="map/dissent",
            scale=PERCENTAGES,
        ),
        reason_layer("map/reason"),
    )


FORM = Form(
    "Local climate zones",
    "local climate zones",
    ("local climate zones", "land cover", "urban climate"),
    tuple(_layers()),
    LCZ,
    observed=True,
)

FORM_OF_VECTORS = replace(
    FORM,
    layers=tuple(x for x in FORM.layers if x.key not in ("observations", "dissent")),
    observed=False,
)
"""Nobody says of published vectors how often the ground was seen."""
