"""What is compared: models, several of them together, and finished maps, as a person names them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.compare.cells import RASTERS
from engine.compare.folder import map_of, read_folder
from engine.errors import CardError, MetricError
from engine.legend import LCZ
from engine.models.card import ModelCard, find_card, load_card
from engine.models.onnx_checks import examine_weights
from engine.products.instances import fusion_weight

__all__ = ["GRAPHS", "System", "find_systems"]

GRAPHS = "gcn"
"""Architecture of the networks that are fed graphs in place of patches."""


@dataclass(frozen=True)
class System:
    """A model, several together, or a map.

    Attributes
    ----------
    name : in tables; no other has it.
    cards : of the models, a graph network last; none of a map.
    weight : of the network beside a graph network, where both are fused; None otherwise.
    path : of a map: its product folder or file.
    raster : of a map: its classes.
    notes : how it was understood.
    """

    name: str
    cards: tuple[ModelCard, ...] = ()
    weight: float | None = None
    path: Path | None = None
    raster: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """In words."""
        if self.raster is not None:
            return "map"
        if self.weight is not None:
            return f"fusion, {self.weight:.0%} {self.cards[0].name}"
        return "model" if len(self.cards) == 1 else f"mean of {len(self.cards)} models"

    @property
    def key(self) -> str:
        """What decides the classes that models give."""
        text = repr(([card.key for card in self.cards], self.weight))
        return hashlib.sha256(text.encode()).hexdigest()


def find_systems(wanted: Sequence[str | Path], layer: str = "map") -> tuple[System, ...]:
    """Open what is named; weights are not loaded yet.

    Parameters
    ----------
    wanted : each a model card (folder, file, or the name of a shipped one), a product folder, or a
        raster of codes. ``A+B`` are models together: the mean of their scores; of a network of
        patches and one of graphs their fusion. ``NAME=`` before it names it.
    layer : of product folders, "map" or "classes".

    Raises
    ------
    MetricError, CardError, WeightsError
        Where there is no such thing, it has other classes, or two have one name.
    """
    if not wanted:
        raise MetricError("there is nothing to compare", got=0, expected="a system or more")
    found = tuple(_find(str(text), layer) for text in wanted)
    twice = [name for name, n in Counter(system.name for system in found).items() if n > 1]
    if twice:
        raise MetricError(
            "two systems have one name",
            got=", ".join(twice),
            expected="each a name of its own",
            remedy="give names: NAME=PATH",
        )
    return found


def _find(text: str, layer: str) -> System:
    name, rest = None, text
    if not Path(text).exists() and "=" in text:
        name, rest = text.split("=", 1)
        name = name.strip()
        if not name or not rest:
            raise MetricError("a system is not named", got=repr(text), expected="NAME=PATH")
    parts = [rest] if Path(rest).exists() else rest.split("+")
    maps = [part for part in parts if _is_map(Path(part))]
    if maps:
        if len(parts) > 1:
            raise MetricError(
                "maps have no scores to be joined by",
                got=text,
                expected="models beside +, or one map",
            )
        return _map(name, Path(rest), layer)
    cards = [load_card(find_card(part, Path())) for part in parts]
    for card in cards:
        _require_zones(card)
        examine_weights(card)
    return _models(name or "+".join(card.name for card in cards), cards)


def _is_map(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in RASTERS
    return path.is_dir() and read_folder(path) is not None


def _map(name: str | None, path: Path, layer: str) -> System:
    folder = read_folder(path)
    if folder is not None and folder.legend != LCZ:
        raise MetricError(
            "a map has other classes",
            got=f"{path}: product {folder.product_name}",
            expected="maps of local climate zones",
        )
    raster, place = map_of(path, layer), path.resolve()
    own = place.name if path.is_dir() else place.stem
    return System(name or own, path=path, raster=raster)


def _require_zones(card: ModelCard) -> None:
    if card.segments or card.encodes or card.legend != LCZ:
        what = "an encoder" if card.encodes else card.architecture
        raise CardError(
            "a model has other classes",
            got=f"{card.name}: {what}, {len(card.classes)} classes",
            expected="classifiers of patches into local climate zones",
        )


def _models(name: str, cards: Sequence[ModelCard]) -> System:
    graphs = [card for card in cards if card.architecture == GRAPHS]
    others = [card for card in cards if card.architecture != GRAPHS]
    if len(cards) == 1:
        return System(name, tuple(cards))
    for card in cards[1:]:
        if card.classes != cards[0].classes:
            raise CardError(
                "models that are joined must give the same classes",
                got=f"{card.name}: {card.classes}",
                expected=f"{cards[0].name}: {cards[0].classes}",
            )
    if not graphs:
        return System(name, tuple(cards))
    if len(graphs) > 1 or len(others) > 1:
        raise CardError(
            "a network of graphs is fused with one of patches",
            got=", ".join(card.name for card in cards),
            expected="two of them",
        )
    weight, why = fusion_weight(None, graphs[0], others[0])
    note = f"{name}: {graphs[0].name} counts {1 - weight:.0%}{why}"
    return System(name, (*others, *graphs), weight, notes=(note,))
