"""What the stages of all products share: attributes, resources, and what a gap is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from engine.cube.read import Failure
from engine.legend import LandClass, Reason
from engine.recipes.sections import Device
from engine.runs.stage import NO_FLAGS
from engine.store.ledger import Flag

__all__ = ["REASON_ATTRS", "RESOURCES", "class_attrs", "gaps_of"]

RESOURCES: Mapping[Device, Literal["cpu", "gpu", "auto"]] = {
    "auto": "auto",
    "cpu": "cpu",
    "cuda": "gpu",
}
"""What a stage with a network asks of its worker, by the recipe's device."""

REASON_ATTRS: Mapping[str, Any] = {
    "flag_values": [int(r) for r in Reason],
    "flag_meanings": " ".join(r.name.lower() for r in Reason),
}
"""CF attributes of an array of reasons."""


def class_attrs(legend: Sequence[LandClass]) -> dict[str, Any]:
    """CF attributes of an array of classes."""
    return {
        "flag_values": [c.code for c in legend],
        "flag_meanings": " ".join(c.name for c in legend),
        "flag_colors": " ".join(f"#{c.colour}" for c in legend),
    }


def gaps_of(failures: Iterable[Failure]) -> tuple[Flag, str | None]:
    """What the ledger notes of items that could not be read, each once."""
    flags = NO_FLAGS
    different = tuple(dict.fromkeys(failures))
    for failure in different:
        flags |= Flag.TRANSIENT_GAP if failure.transient else Flag.STRUCTURAL_GAP
    return flags, "; ".join(failure.error for failure in different) or None
