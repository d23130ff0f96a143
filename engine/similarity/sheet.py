"""The contact sheet of scenes: for each the patches nearest to its middle, and its figures."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from engine.publishing.page_kit import page, picture_of
from engine.similarity.grouping import Grouped, Scenes
from engine.similarity.stability import STABLE, why_not

__all__ = ["SHOWN", "Strip", "draw_sheet", "scenes_page"]

SHOWN = 10
"""Patches of a scene at most."""

_TILE, _GAP, _WORDS = 112, 6, 220  # pixels
_INK, _SOFT = "#1f2430", "#6b7280"


@dataclass(frozen=True)
class Strip:
    """A scene as it is shown.

    Attributes
    ----------
    title, words : of the scene.
    pictures : uint8 (side, side, 3) each, the nearest to the middle first.
    """

    title: str
    words: str
    pictures: tuple[npt.NDArray[np.uint8], ...]


def draw_sheet(path: Path, strips: Sequence[Strip], title: str) -> None:
    """Draw a row of pictures for each scene as PNG.

    Parameters
    ----------
    path : of the picture.
    strips : in order.
    title : line of text.
    """
    width = _WORDS + SHOWN * (_TILE + _GAP) + 2 * _GAP
    sheet = Image.new("RGB", (width, 48 + len(strips) * (_TILE + _GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 12), title, _INK, ImageFont.load_default(20))
    for k, strip in enumerate(strips):
        top = 48 + k * (_TILE + _GAP)
        pen.text((_GAP, top + 8), strip.title, _INK, ImageFont.load_default(18))
        lines = "\n".join(strip.words.split(" · "))
        pen.multiline_text((_GAP, top + 36), lines, _SOFT, ImageFont.load_default(13), spacing=4)
        for column, picture in enumerate(strip.pictures):
            left = _WORDS + column * (_TILE + _GAP)
            sheet.paste(Image.fromarray(_sized(picture)), (left, top))
    sheet.save(path, optimize=True)


def scenes_page(title: str, strips: Sequence[Strip], found: Grouped) -> str:
    """The page as HTML: stability of scenes that were found, notes, pictures of each scene."""
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{len(found.scene)} patches in {len(found.modes)} scenes; "
        f"{int((found.scene < 0).sum())} in none.</p>",
    ]
    if isinstance(found, Scenes):
        body.append(_table(found))
    if found.notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in found.notes)
        body.append(f"<h2>To know</h2><ul>{items}</ul>")
    for strip in strips:
        if strip.pictures:
            row = np.concatenate([_sized(p) for p in strip.pictures], axis=1)
            image = f"<img src='{picture_of(row)}' style='max-width:100%' alt=''>"
        else:
            image = ""
        body.append(
            f"<h2>{html.escape(strip.title)}</h2><small>{html.escape(strip.words)}</small>"
            f"<div>{image}</div>"
        )
    return page(title, body)


def _table(found: Scenes) -> str:
    rows = []
    for trial in found.trials:
        mark = "<b>chosen</b>" if trial is found.chosen else html.escape(why_not(trial))
        rows.append(
            f"<tr><td>{trial.setting:.3g}<td>{trial.scenes}<td>{trial.largest:.0%}"
            f"<td>{trial.rare:.0%}<td>{trial.halves:.2f} ({trial.halves_least:.2f})"
            f"<td>{trial.seeds:.2f} ({trial.seeds_least:.2f})<td>{mark}"
        )
    head = "<tr><th>setting<th>scenes<th>largest<th>in none<th>halves (least)<th>seeds (least)<th>"
    told = f"Agreement is the adjusted Rand index; {STABLE:g} and more is stable."
    return f"<p>{told}</p><table>{head}{''.join(rows)}</table>"


def _sized(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """At the size of a tile, small patches pixel by pixel."""
    way = Image.Resampling.NEAREST if len(picture) < _TILE else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((_TILE, _TILE), way))
