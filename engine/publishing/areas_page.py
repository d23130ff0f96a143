"""A page of training areas for a reviewer: a card each, the doubtful first; no scripts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.legend import LCZ
from engine.publishing.page_kit import card, class_name, page

__all__ = ["AreaCard", "areas_page"]

_LEAST = 3  # polygons of a class, below which neither splits nor accuracies mean much


@dataclass(frozen=True)
class AreaCard:
    """What the page shows of one training area.

    Attributes
    ----------
    id, lcz : of the area.
    square_km, circularity, vertices : of its outline.
    outline : rings of (x, y) in the picture's frame, 0 to 1, y downward.
    picture : uint8 (y, x, 3) of the ground about it, None where none is known.
    doubts : what a reviewer should look at.
    """

    id: str
    lcz: int
    square_km: float
    circularity: float
    vertices: int
    outline: tuple[npt.NDArray[np.float64], ...]
    picture: npt.NDArray[np.uint8] | None
    doubts: tuple[str, ...]


def areas_page(title: str, cards: Sequence[AreaCard], notes: Sequence[str]) -> str:
    """The page as HTML.

    Parameters
    ----------
    title : of the file, say.
    cards : in any order.
    notes : about the file as a whole.
    """
    doubtful = [card for card in cards if card.doubts]
    fine = [card for card in cards if not card.doubts]
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{len(cards)} training areas of {len({c.lcz for c in cards})} classes, "
        f"{sum(c.square_km for c in cards):.1f} km²; {len(doubtful)} to look at.</p>",
        _table(cards),
    ]
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        body.append(f"<h2>About the file</h2><ul>{items}</ul>")
    for name, some in (("To look at", doubtful), ("Without doubts", fine)):
        if some:
            order = sorted(some, key=lambda c: (c.lcz, c.id))
            body.append(f"<h2>{name}</h2><div class=cards>{''.join(map(_card, order))}</div>")
    return page(title, body)


def _table(cards: Sequence[AreaCard]) -> str:
    rows = []
    for zone in LCZ:
        mine = [card for card in cards if card.lcz == zone.code]
        few = "" if len(mine) >= _LEAST else "<span class=doubt>few</span>" if mine else "none"
        size = sum(card.square_km for card in mine)
        doubts = sum(bool(card.doubts) for card in mine)
        rows.append(
            f"<tr><td>{class_name(zone.code)}<td>{len(mine)}<td>{size:.2f}<td>{doubts}<td>{few}"
        )
    head = "<tr><th>class<th>areas<th>km²<th>doubtful<th>"
    return f"<table>{head}{''.join(rows)}</table>"


def _card(area: AreaCard) -> str:
    words = (
        f"{area.id} · {area.square_km:.3f} km² · circularity {area.circularity:.1f} · "
        f"{area.vertices} vertices"
    )
    return card(area.lcz, area.picture, area.outline, words, area.doubts)
