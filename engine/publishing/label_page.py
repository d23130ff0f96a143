"""The labelling page: a card for each site, conflicts first; it works offline and by keyboard."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.legend import LCZ
from engine.publishing.label_script import SCRIPT
from engine.publishing.page_kit import class_name, outlined, page

__all__ = ["LabelCard", "Shown", "label_page"]

_OUTLINE = "#00e5ff"  # of a site: no class has this colour
_MOST = 400  # pixels of a picture's side
_NO_SERVER = (
    "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">"
)
_STYLE = """
#bar { position: sticky; top: 0; background: #fff; padding: .5rem 0; border-bottom: 1px solid #ccc;
  z-index: 1; } #bar input { font: inherit; width: 10rem; }
.site { border: 2px solid #ddd; border-radius: 6px; padding: .7rem; margin: 1rem 0;
  scroll-margin-top: 4rem; } .site.done { background: #f4f8f1; }
.site.here { border-color: #06c; } .site:focus { outline: 3px solid #06c5; }
.site h3 { margin: 0 0 .4rem; font-size: 1rem; } .said { font-weight: 600; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem; }
.row svg { width: 100%; display: block; background: #f3f3f0; } figure { margin: 0; }
figcaption { color: #555; font-size: .85rem; } .site ul { margin: .2rem 0; padding-left: 1.2rem; }
.keys button { font: inherit; margin: .1rem; border: 1px solid #999; border-radius: 4px;
  background: #fff; } .keys button[aria-pressed=true] { background: #06c; color: #fff; }
kbd { border: 1px solid #aaa; border-radius: 3px; padding: 0 .3em; background: #f7f7f7; }
"""
_HELP = (
    "<p><kbd>1</kbd> to <kbd>9</kbd>, <kbd>0</kbd> (10), <kbd>A</kbd> to <kbd>G</kbd>: the class. "
    "<kbd>Enter</kbd>: as proposed. <kbd>U</kbd>: not sure. <kbd>X</kbd>: no answer. "
    "<kbd>J</kbd> <kbd>K</kbd> or arrows: next, previous. <kbd>N</kbd>: next without an answer. "
    "<kbd>S</kbd>: save. Answers stay in this browser until they are saved to a file.</p>"
)
_KEYS = "1234567890ABCDEFG"


@dataclass(frozen=True)
class Shown:
    """A picture of a site: what it is, uint8 (y, x, 3) or None, and rings as of `AreaCard`."""

    title: str
    picture: npt.NDArray[np.uint8] | None
    rings: tuple[npt.NDArray[np.float64], ...]


@dataclass(frozen=True)
class LabelCard:
    """What the page shows of one site.

    Attributes
    ----------
    id : of the site.
    place : longitude and latitude of its point.
    geometry : polygon in degrees, as GeoJSON, that an answer labels.
    lcz : class that the rule proposes, None where it cannot.
    confidence : of the proposal, 0 to 1.
    candidates : classes that may be meant, the likeliest first.
    reasons, conflicts : one line each.
    figures : names and values of what is known of its ground.
    shown : pictures.
    said : what interpreters answered before, one line each.
    """

    id: str
    place: tuple[float, float]
    geometry: dict[str, Any]
    lcz: int | None
    confidence: float
    candidates: tuple[int, ...]
    reasons: tuple[str, ...]
    conflicts: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    shown: tuple[Shown, ...]
    said: tuple[str, ...] = ()


def label_page(
    city: str, cards: Sequence[LabelCard], notes: Sequence[str] = (), *, blind: bool = False
) -> str:
    """The page as HTML.

    Parameters
    ----------
    city : name of the place.
    cards : in any order: those in conflict come first, then the least confident.
    notes : about all of it.
    blind : without the rule's proposal and its reasons, so that interpreters answer by themselves.
    """
    order = sorted(cards, key=lambda c: (not c.conflicts, c.confidence, c.id))
    sites = [{"id": c.id, "geometry": c.geometry, "lcz": None if blind else c.lcz} for c in order]
    stamp = _stamp(city, cards)
    labels = [f"{zone.label} {zone.title}" for zone in LCZ]
    data = {"page": stamp, "city": city, "labels": labels, "sites": sites}
    doubtful = sum(bool(c.conflicts) for c in cards)
    words = f"{len(cards)} sites, {doubtful} in conflict. Each is to get the local climate zone " \
        "of its ground within the outline."  # fmt: skip
    body = [
        f"<h1>{html.escape(city)}: sites to be labelled</h1><p>{words}</p>{_HELP}",
        "<div id=bar><label>interpreter <input id=who autocomplete=off></label> "
        "<button id=save type=button>save</button> <span id=told role=status></span></div>",
    ]
    if notes:
        body.append(f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>")
    for number, card in enumerate(order, 1):
        body.append(_card(card, number, len(order), blind))
    body.append(_data(data))
    body.append(f"<script>{SCRIPT}</script>")
    return page(f"{city}: labels", body, head=_NO_SERVER, style=_STYLE)


def _stamp(city: str, cards: Sequence[LabelCard]) -> str:
    """Of the sites and their ground, in whatever order they are shown."""
    told = sorted((card.id, json.dumps(card.geometry, sort_keys=True)) for card in cards)
    text = json.dumps([city, told])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _data(data: dict[str, Any]) -> str:
    # `<` cannot end the element, or begin a comment, when it is escaped
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="sites">{text}</script>'


def _card(card: LabelCard, number: int, of: int, blind: bool) -> str:
    lon, lat = card.place
    pictures = "".join(
        f"<figure>{outlined(one.picture, one.rings, _OUTLINE, most=_MOST)}"
        f"<figcaption>{html.escape(one.title)}"
        f"{'' if one.picture is not None else ': none here'}</figcaption></figure>"
        for one in card.shown
    )
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td>{html.escape(value)}" for name, value in card.figures
    )
    told = "" if blind else _proposal(card)
    doubts = "".join(f"<span class=doubt>{html.escape(one)}</span>" for one in card.conflicts)
    said = _list([f"answered: {one}" for one in card.said])
    keys = "".join(
        f"<button type=button tabindex=-1 value={zone.code} aria-pressed=false "
        f"title='{html.escape(zone.title)}'>{key}</button>"
        for key, zone in zip(_KEYS, LCZ, strict=True)
    )
    return (
        f"<section class=site tabindex=0 aria-label='site {html.escape(card.id, quote=True)}'>"
        f"<h3>{html.escape(card.id)} <small>{number} of {of}</small> · "
        f"<span class=said>no answer yet</span></h3><div class=row>{pictures}"
        f"<div><table>{rows}</table></div><div>{told}{doubts}{said}"
        f"<p>{_links(lon, lat)}</p><div class=keys>{keys}</div></div></div></section>"
    )


def _proposal(card: LabelCard) -> str:
    if card.lcz is None:
        named = ", ".join(LCZ[code - 1].label for code in card.candidates)
        first = f"no proposal{f'; it may be {named}' if named else ''}"
    else:
        first = f"{class_name(card.lcz)} <small>{card.confidence:.0%}</small>"
        others = [LCZ[c - 1].label for c in card.candidates if c != card.lcz]
        first += f" <small>or {', '.join(others)}</small>" if others else ""
    return f"<div>{first}</div>{_list(card.reasons)}"


def _list(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _links(lon: float, lat: float) -> str:
    """Web maps of a place: links only, nothing of them is loaded."""
    at, turned = f"{lat:.6f},{lon:.6f}", f"{lat:.6f}~{lon:.6f}"
    google = "https://www.google.com/maps/@?api=1"
    places = {
        "OpenStreetMap": "https://www.openstreetmap.org/"
        f"?mlat={lat:.6f}&mlon={lon:.6f}#map=17/{lat:.6f}/{lon:.6f}",
        "Google": f"{google}&map_action=map&center={at}&zoom=17&basemap=satellite",
        "Street View": f"{google}&map_action=pano&viewpoint={at}",
        "Bing": f"https://www.bing.com/maps?cp={turned}&lvl=17&style=a",
    }
    return " · ".join(
        f"<a href='{html.escape(address, quote=True)}' target=_blank "
        f"rel='noopener noreferrer'>{name}</a>"
        for name, address in places.items()
    )
