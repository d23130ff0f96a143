"""What is trained: the one form that `engine.training.train` drives for every kind of model."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from engine.errors import CardError
from engine.models.card import Fusion, ModelCard, find_card, load_card
from engine.models.footprint import Footprint
from engine.training.loop import Epoch, Fitted

__all__ = ["Judged", "Listener", "Task", "find_start", "write_report"]


@dataclass(frozen=True)
class Listener:
    """Who hears of a training: of its steps in words, of finished epochs, of batches."""

    tell: Callable[[str], None] = lambda text: None
    epoch: Callable[[Epoch], None] = lambda entry: None
    step: Callable[[int, int, int], None] = lambda number, batch, batches: None


@dataclass(frozen=True)
class Judged:
    """A model on examples that it has not seen.

    Attributes
    ----------
    figures : of the test split; None where it is empty.
    words : the same, for people.
    more : what else the report says of it.
    fusion : of a graph network, how it goes with another stream: the card keeps that.
    """

    figures: dict[str, float] | None
    words: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    fusion: Fusion | None = None


class Task(ABC):
    """A kind of model to train: what it learns from, how it learns, how it is judged.

    Making one cuts its examples unless they are cut, and refuses what does not serve.

    Attributes
    ----------
    card : of the model, before its weights are there.
    folder : that the model is written to.
    """

    card: ModelCard
    folder: Path

    examples: ClassVar[str]
    """What they are called."""

    software: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    """Packages whose versions the report gives."""

    @property
    @abstractmethod
    def size(self) -> str:
        """How much it learns from, in words."""

    @abstractmethod
    def learn(self, hear: Listener) -> tuple[ModelCard, Fitted]:
        """Train: the card as the weights want it, and the weights."""

    @abstractmethod
    def judge(self, card: ModelCard, hear: Listener) -> Judged:
        """Measure the trained model, and draw what there is to draw of it in its folder."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Places and examples, for the report."""

    def footprint(self) -> Footprint | None:
        """Where the model was trained; None where its examples have no place."""
        return None


def find_start(
    start: str | None, base: Path, architecture: str, bands: tuple[str, ...]
) -> ModelCard | None:
    """The card whose weights a training begins with, of the same network and bands.

    Raises
    ------
    CardError
        Where it is another network, or takes other bands.
    """
    if start is None:
        return None
    card = load_card(find_card(start, base))
    for name, wanted in (("architecture", architecture), ("bands", bands)):
        if getattr(card, name) != wanted:
            raise CardError(
                f"the model to start from has other {name}",
                got=getattr(card, name),
                expected=wanted,
                remedy=f"set model.{name} to what {card.name} has",
            )
    return card


def write_report(folder: Path, software: tuple[str, ...], **found: Any) -> None:
    """Write ``report.json``: what a model was made of and from, and how good it is."""
    report = {
        "schema": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **found,
        "software": {name: version(name) for name in software},
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
