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
#bar { position: sticky; top: 0; background: #fff; padding: .5rem 0; border-bottom: 1px solid #bbb;
  z-index: 1; display: flex; gap: .3rem .7rem; align-items: center; white-space: nowrap; }
#bar input, #bar button { font: inherit; } #bar input { width: 9rem; }
#bar progress { width: 6rem; accent-color: #06c; } #bar #told { flex: none; }
#bar small { color: #555; margin-left: auto; overflow: hidden; text-overflow: ellipsis; }
.site { border: 2px solid #ddd; border-radius: 6px; padding: .7rem; margin: 1rem 0;
  scroll-margin-top: 4.5rem; display: grid; grid-template-columns: 1fr auto; gap: .2rem 1.5rem; }
.site.done { background: #f4f8f1; } .site.here { border-color: #06c; }
.site:focus, .site :focus-visible, #bar :focus-visible { outline: 3px solid #06c;
  outline-offset: 1px; }
.site h3, .site .shown { grid-column: 1; } .site h3 { margin: 0; font-size: 1rem; }
.site h3 small { font-weight: normal; color: #555; }
.shown { display: grid; grid-template-columns: repeat(3, minmax(0, 16rem)); gap: .8rem; }
.shown svg { width: 100%; display: block; background: #dedede; } .shown figure { margin: 0; }
figcaption { color: #555; font-size: .85rem; } .site ul { margin: .2rem 0; padding-left: 1.2rem; }
.site table { grid-column: 2; grid-row: 1 / span 3; align-self: start; font-size: .9rem;
  width: 12.5rem; }
.site td { padding: 0 0 0 1rem; } .site td:first-child { padding: 0; }
.told { grid-column: 1; display: grid; grid-template-columns: 2fr 3fr; gap: .8rem;
  margin-top: .3rem; }
.told p { margin: .5rem 0 0; }
.keys { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .2rem;
  align-content: start; }
.keys button { font: inherit; font-size: .82rem; text-align: left; padding: .1rem .25rem;
  border: 1px solid #aaa; border-radius: 4px; background: #fff; color: inherit; cursor: pointer; }
.keys button[aria-pressed=true] { background: #06c; border-color: #06c; color: #fff; }
.keys kbd, p kbd { border: 1px solid #aaa; border-radius: 3px; padding: 0 .3em;
  background: #f7f7f7; color: #222; } .keys .chip { margin: 0 .25em; }
@media (max-width: 60rem) { .site { grid-template-columns: minmax(0, 1fr); }
  .site table { grid-column: 1; grid-row: auto; order: 1; width: auto; }
  .told { grid-template-columns: 1fr; }
  #bar { flex-wrap: wrap; white-space: normal; } #bar small { display: none; }
  #bar #told { flex: auto; } }
@media (max-width: 34rem) { body { margin-top: 1rem; } .site { padding: .5rem; }
  .shown { grid-template-columns: 1fr 1fr; } .keys { grid-template-columns: 1fr 1fr; }
  .site { scroll-margin-top: 6.5rem; } }
"""
_HELP = (
    "<p><kbd>1</kbd> to <kbd>9</kbd>, <kbd>0</kbd> for 10, and <kbd>A</kbd> to <kbd>G</kbd> "
    "answer with a class. <kbd>Enter</kbd> accepts the proposal. <kbd>U</kbd> marks an answer as "
    "not sure, <kbd>X</kbd> removes it, <kbd>Z</kbd> undoes the last change. <kbd>J</kbd> and "
    "<kbd>K</kbd>, or the arrows, go to the next site and back; <kbd>N</kbd> skips to the next "
    "one without an answer. <kbd>S</kbd> saves a file. Until then the answers stay in this "
    "browser.</p>"
)
_HINT = "Enter accept · U not sure · X remove · Z undo · J K move · N skip · S save"
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
    undecided : that the rule cannot decide, "" where it can.
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
    undecided: str = ""

    @property
    def doubtful(self) -> bool:
        """Whether sources contradict each other, or the rule cannot decide."""
        return bool(self.conflicts or self.undecided)


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
    order = sorted(cards, key=lambda c: (not c.doubtful, c.confidence, c.id))
    sites = [{"id": c.id, "geometry": c.geometry, "lcz": None if blind else c.lcz} for c in order]
    stamp = _stamp(city, cards)
    labels = [f"{zone.label} {zone.title}" for zone in LCZ]
    data = {"page": stamp, "city": city, "labels": labels, "sites": sites}
    doubtful = sum(c.doubtful for c in cards)
    body = [
        f"<h1>{html.escape(city)}: sites to label</h1><p>{_sites(len(cards))}. Give each one the "
        f"local climate zone of the ground within its outline; grey is ground without data. "
        f"{_first(doubtful)}</p>{_HELP}",
        "<div id=bar><label>your name <input id=who autocomplete=off></label>"
        f"<button id=save type=button>save</button><progress id=done max={len(cards)} value=0 "
        "aria-label='sites answered'></progress><span id=told role=status></span>"
        f"<small>{_HINT}</small></div>",
    ]
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        body.append(f"<details><summary>What the rule looks at</summary><ul>{items}</ul></details>")
    for number, card in enumerate(order, 1):
        body.append(_card(card, number, len(order), blind))
    body.append(_data(data))
    body.append(f"<script>{SCRIPT}</script>")
    return page(f"{city}: labels", body, head=_NO_SERVER, style=_STYLE)


def _sites(number: int) -> str:
    return "1 site" if number == 1 else f"{number} sites"


def _first(doubtful: int) -> str:
    if not doubtful:
        return ""
    return (
        f"{_sites(doubtful)} come{'s' if doubtful == 1 else ''} first: there the sources "
        "contradict each other, or the rule cannot decide."
    )


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
        f"<button type=button tabindex=-1 value={zone.code} aria-pressed=false><kbd>{key}</kbd>"
        f"<span class=chip style='background:#{zone.colour}'></span>"
        f"{'' if key == zone.label else f'{zone.label} '}{zone.title}</button>"
        for key, zone in zip(_KEYS, LCZ, strict=True)
    )
    return (
        f"<section class=site tabindex=0 aria-label='site {html.escape(card.id, quote=True)}'>"
        f"<h3>{html.escape(card.id)} <small>{number} of {of}</small> · "
        f"<span class=said>no answer yet</span></h3><div class=shown>{pictures}</div>"
        f"<table>{rows}</table><div class=told><div>{told}{doubts}{said}"
        f"<p>{_links(lon, lat)}</p></div><div class=keys>{keys}</div></div></section>"
    )


def _proposal(card: LabelCard) -> str:
    first = "no proposal"
    if card.lcz is not None:
        others = [LCZ[c - 1].label for c in card.candidates if c != card.lcz]
        also = f", or {' or '.join(others)}" if others else ""
        first = f"proposed: {class_name(card.lcz)} ({card.confidence:.0%}){also}"
    doubt = f"<span class=doubt>{html.escape(card.undecided)}</span>" if card.undecided else ""
    return f"<div>{first}</div>{doubt}{_list(card.reasons)}"


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
