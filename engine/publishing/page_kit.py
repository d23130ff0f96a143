"""What pages for reviewers share: one file that asks no server, with cards that have pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib.image
import numpy as np
import numpy.typing as npt

from engine.legend import LCZ

__all__ = ["Beside", "card", "class_name", "outlined", "page", "picture_of"]

_MOST = 240  # pixels of a picture's side: a file of hundreds of cards should still open
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
.pair { display: grid; grid-template-columns: 3fr 2fr; gap: .4rem; align-items: start; }
.pair figure { margin: 0; line-height: 1.2; }
.card small { color: #666; } .doubt { color: #a33; display: block; }
"""


def page(title: str, parts: Iterable[str], *, head: str = "", style: str = "") -> str:
    """A page as HTML.

    Parameters
    ----------
    title : of the page; escaped here.
    parts : of its body, HTML.
    head : more of its head, HTML.
    style : more of its style, CSS.
    """
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width, initial-scale=1'>{head}"
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style>"
        f"{''.join(parts)}</html>\n"
    )


def class_name(code: int) -> str:
    """A local climate zone with its colour, HTML."""
    zone = LCZ[code - 1]
    return f"<span class=chip style='background:#{zone.colour}'></span>{zone.label} {zone.title}"


def picture_of(pixels: npt.NDArray[np.uint8]) -> str:
    """A picture (y, x, 3) as the address of an image that lies in the page itself."""
    held = io.BytesIO()
    matplotlib.image.imsave(held, np.ascontiguousarray(pixels), format="jpg")
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"


class Beside(NamedTuple):
    """What a card is to be compared with: a smaller picture, as of `card`, with a line below."""

    code: int
    picture: npt.NDArray[np.uint8] | None
    rings: Sequence[npt.NDArray[np.float64]]
    words: str


def card(
    code: int,
    picture: npt.NDArray[np.uint8] | None,
    rings: Sequence[npt.NDArray[np.float64]],
    words: str,
    doubts: Sequence[str] = (),
    lines: Sequence[tuple[str, Sequence[npt.NDArray[np.float64]]]] = (),
    beside: Beside | None = None,
) -> str:
    """A card, HTML.

    Parameters
    ----------
    code : of its class, whose colour its outline has.
    picture : uint8 (y, x, 3) of the ground, or None.
    rings : of the outline, (x, y) in the picture's frame, 0 to 1, y downward.
    words : below the class; escaped here.
    doubts : what a reviewer should look at.
    lines : colour (#rrggbb) and rings of what else is drawn.
    beside : what it is to be compared with.
    """
    told = "".join(f"<span class=doubt>{html.escape(doubt)}</span>" for doubt in doubts)
    shown = outlined(picture, rings, f"#{LCZ[code - 1].colour}", lines)
    if beside is not None:
        small = outlined(beside.picture, beside.rings, f"#{LCZ[beside.code - 1].colour}")
        words_ = html.escape(beside.words)
        shown = f"<div class=pair>{shown}<figure>{small}<small>{words_}</small></figure></div>"
    return (
        f"<div class=card>{shown}{class_name(code)}<br>"
        f"<small>{html.escape(words)}</small>{told}</div>"
    )


def outlined(
    picture: npt.NDArray[np.uint8] | None,
    rings: Sequence[npt.NDArray[np.float64]],
    colour: str,
    lines: Sequence[tuple[str, Sequence[npt.NDArray[np.float64]]]] = (),
    most: int = _MOST,
) -> str:
    """A picture with its outline over what else is drawn, SVG.

    Parameters
    ----------
    picture, rings, lines : as of `card`.
    colour : of the outline, #rrggbb.
    most : pixels of a side; a larger picture is thinned.
    """
    image = ""
    if picture is not None:
        thin = -(-picture.shape[0] // most)
        image = (
            f"<image href='{picture_of(picture[::thin, ::thin])}' width=100 height=100 "
            "preserveAspectRatio=none style='image-rendering:pixelated'/>"
        )
    paths = [(_path(some), other, 1.0) for other, some in lines]
    outline = _path(rings)
    paths += [(outline, "#fff", 2.2), (outline, colour, 1.2)]
    drawn = "".join(
        f"<path d='{path}' fill=none stroke='{stroke}' stroke-width={width} />"
        for path, stroke, width in paths
    )
    return f"<svg viewBox='0 0 100 100'>{image}{drawn}</svg>"


def _path(rings: Sequence[npt.NDArray[np.float64]]) -> str:
    return " ".join(
        "M" + " L".join(f"{100 * x:.2f},{100 * y:.2f}" for x, y in ring) + "Z" for ring in rings
    )
