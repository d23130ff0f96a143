"""A page of pseudo-labels for a reviewer: some of each class, beside the labels they follow."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.legend import LCZ
from engine.publishing.page_kit import Beside, card, class_name, page

__all__ = ["Drawn", "PseudoCard", "audit_page"]

_LINES = ("#1f6fb5", "#2a8f4f", "#b5721f", "#8a4fb0")  # of what a map draws, by class
_INNER = (1 / 4, 3 / 4)  # of a picture twice as wide as its cell


class Drawn(NamedTuple):
    """A map's class about a cell: its rings (x, y) in the picture's frame, 0 to 1, y downward."""

    name: str
    rings: tuple[npt.NDArray[np.float64], ...]


@dataclass(frozen=True)
class PseudoCard:
    """What the page shows of one pseudo-label.

    Attributes
    ----------
    city, cell : whose.
    code, confidence : of the head.
    neighbour : code of the nearest label.
    votes : share of the nearest labels for its class.
    distance : mean distance of the nearest labels.
    picture : uint8 (y, x, 3) of twice the cell's width, None where no imagery is known.
    doubts : reasons to check it.
    neighbour_city : of the nearest label.
    neighbour_picture : as `picture`, of the nearest label.
    drawn : what OpenStreetMap draws there.
    told : what OpenStreetMap says of the cell, "" where it was not asked.
    """

    city: str
    cell: int
    code: int
    confidence: float
    neighbour: int
    votes: float
    distance: float
    picture: npt.NDArray[np.uint8] | None
    doubts: tuple[str, ...]
    neighbour_city: str = ""
    neighbour_picture: npt.NDArray[np.uint8] | None = None
    drawn: tuple[Drawn, ...] = ()
    told: str = ""


def audit_page(
    title: str,
    labels: Mapping[int, int],
    pseudo: Mapping[int, int],
    undetectable: Sequence[int],
    cards: Sequence[PseudoCard],
    notes: Sequence[str],
) -> str:
    """The page as HTML.

    Parameters
    ----------
    title : of the propagation.
    labels, pseudo : how many of each class.
    undetectable : classes whose cells would not be detected as novel if no label had them.
    cards : in any order.
    notes : about the whole.
    """
    rows = []
    for zone in LCZ:
        told = "<span class=doubt>not detectable</span>" if zone.code in undetectable else ""
        many = labels.get(zone.code, 0), pseudo.get(zone.code, 0)
        if any(many):
            rows.append(f"<tr><td>{class_name(zone.code)}<td>{many[0]}<td>{many[1]}<td>{told}")
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{sum(labels.values())} labels, {sum(pseudo.values())} pseudo-labels.</p>",
        f"<table><tr><th>class<th>labels<th>pseudo-labels<th>{''.join(rows)}</table>",
    ]
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        body.append(f"<h2>Notes</h2><ul>{items}</ul>")
    doubtful = [c for c in cards if c.doubts]
    fine = [c for c in cards if not c.doubts]
    for name, some in (("To check", doubtful), ("Random sample", fine)):
        if some:
            order = sorted(some, key=lambda c: (c.code, -c.confidence))
            body.append(f"<h2>{name}</h2><div class=cards>{''.join(map(_card, order))}</div>")
    return page(title, body)


def _card(shown: PseudoCard) -> str:
    low, high = _INNER
    ring = np.array([[low, low], [high, low], [high, high], [low, high]])
    words = (
        f"{shown.city} {shown.cell} · confidence {shown.confidence:.2f} · votes "
        f"{shown.votes:.2f} · distance {shown.distance:.2f}"
    )
    if shown.told:
        words += f" · {shown.told}"
    nearest = f"nearest label: {LCZ[shown.neighbour - 1].label}"
    if shown.neighbour_city:
        nearest += f", {shown.neighbour_city}"
    lines = [(_LINES[k % len(_LINES)], one.rings) for k, one in enumerate(shown.drawn)]
    beside = Beside(shown.neighbour, shown.neighbour_picture, (ring,), nearest)
    return card(shown.code, shown.picture, (ring,), words, shown.doubts, lines, beside)
