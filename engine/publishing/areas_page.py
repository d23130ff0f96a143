"""A page of training areas for a reviewer: a card each, the doubtful first; no scripts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.image
import numpy as np
import numpy.typing as npt

from engine.legend import LCZ

__all__ = ["AreaCard", "areas_page"]

_MOST = 240  # pixels of a picture's side: a file of hundreds of areas should still open
_LEAST = 3  # polygons of a class, below which neither splits nor accuracies mean much
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 74rem; color: #222;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
.chip { display: inline-block; width: .9em; height: .9em; border: 1px solid #0003;
  vertical-align: -.1em; margin-right: .4em; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #ddd; border-radius: 6px; padding: .6rem; }
.card svg { width: 100%; display: block; background: #f3f3f0; border-radius: 4px; }
.card small { color: #666; } .doubt { color: #a33; display: block; }
"""


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
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(body)}</html>\n"
    )


def _name(code: int) -> str:
    zone = LCZ[code - 1]
    return f"<span class=chip style='background:#{zone.colour}'></span>{zone.label} {zone.title}"


def _table(cards: Sequence[AreaCard]) -> str:
    rows = []
    for zone in LCZ:
        mine = [card for card in cards if card.lcz == zone.code]
        few = "" if len(mine) >= _LEAST else "<span class=doubt>few</span>" if mine else "none"
        size = sum(card.square_km for card in mine)
        doubts = sum(bool(card.doubts) for card in mine)
        rows.append(f"<tr><td>{_name(zone.code)}<td>{len(mine)}<td>{size:.2f}<td>{doubts}<td>{few}")
    head = "<tr><th>class<th>areas<th>km²<th>doubtful<th>"
    return f"<table>{head}{''.join(rows)}</table>"


def _card(card: AreaCard) -> str:
    picture = ""
    if card.picture is not None:
        held = io.BytesIO()
        thin = -(-card.picture.shape[0] // _MOST)
        pixels = np.ascontiguousarray(card.picture[::thin, ::thin])
        matplotlib.image.imsave(held, pixels, format="jpg")
        data = base64.b64encode(held.getvalue()).decode()
        picture = (
            f"<image href='data:image/jpeg;base64,{data}' width=100 height=100 "
            "preserveAspectRatio=none style='image-rendering:pixelated'/>"
        )
    path = " ".join(
        "M" + " L".join(f"{100 * x:.2f},{100 * y:.2f}" for x, y in ring) + "Z"
        for ring in card.outline
    )
    colour = LCZ[card.lcz - 1].colour
    lines = "".join(
        f"<path d='{path}' fill=none stroke='{stroke}' stroke-width={width} />"
        for stroke, width in (("#fff", 2.2), (f"#{colour}", 1.2))
    )
    doubts = "".join(f"<span class=doubt>{html.escape(doubt)}</span>" for doubt in card.doubts)
    return (
        f"<div class=card><svg viewBox='0 0 100 100'>{picture}{lines}</svg>{_name(card.lcz)}<br>"
        f"<small>{html.escape(card.id)} · {card.square_km:.3f} km² · circularity "
        f"{card.circularity:.1f} · {card.vertices} vertices</small>{doubts}</div>"
    )
