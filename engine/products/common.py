"""What the stages of all products share: attributes, resources, and what a gap is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from engine.cube.read import Failure
from engine.legend import LandClass, Reason
from engine.models.card import ModelCard
from engine.models.weights import ONNX
from engine.recipes.sections import Device
from engine.runs.stage import NO_FLAGS
from engine.runs.task import TileTask
from engine.store.ledger import Flag

if TYPE_CHECKING:
    from engine.infer.predict import Predictor

__all__ = ["REASON_ATTRS", "RESOURCES", "class_attrs", "gaps_of", "precision_mark", "predictor_for"]

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


def predictor_for(
    task: TileTask, card: ModelCard, device: Device, precision: str, most: int = 2
) -> Predictor:
    """The worker's predictor for a tile, on a GPU where the worker offers one.

    The task notes what it runs on; a worker holds at most so many networks.

    Raises
    ------
    DeviceError
        Where a GPU is asked for, or offered, and PyTorch finds none.
    """
    # torch costs a process a second and 150 MB: the driver and readers do without
    from engine.infer.predict import get_predictor

    # an ONNX file runs on a CPU wherever its library was built without CUDA (decision 0042)
    asked = device if card.architecture == ONNX else task.device(device)
    found = get_predictor(card, asked, precision, most)
    task.devices.add(found.runs_on)
    return found


def precision_mark(cards: Sequence[ModelCard], precision: str) -> str:
    """What a fingerprint says of networks' arithmetic.

    Points of a point head were once rounded to bfloat16 with the rest: those maps are others.
    """
    points = precision == "bfloat16" and any(card.architecture == "ugsnet" for card in cards)
    return f"{precision}, points float32" if points else precision


def gaps_of(failures: Iterable[Failure]) -> tuple[Flag, str | None]:
    """What the ledger notes of items that could not be read, each once."""
    flags = NO_FLAGS
    different = tuple(dict.fromkeys(failures))
    for failure in different:
        flags |= Flag.TRANSIENT_GAP if failure.transient else Flag.STRUCTURAL_GAP
    return flags, "; ".join(failure.error for failure in different) or None
