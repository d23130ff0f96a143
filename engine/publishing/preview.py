"""The map at a glance, with legend and scale bar: alone, or beside another of the same ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Panel", "draw_beside", "draw_preview"]

_INK, _SOFT, _PAPER, _VOID = "#1f2430", "#6b7280", "#ffffff", "#eef0f3"
_MAP, _LEGEND, _MARGIN, _ROW = 1000, 320, 36, 30
_PANEL, _COLUMN = 760, 250  # a map of two; a column of its legend

Legend = Sequence[tuple[int, str, str, str]]
"""(code, label, title, RRGGBB) in order."""


@dataclass(frozen=True)
class Panel:
    """One map of several.

    Attributes
    ----------
    title : str
    classes : uint8 (y, x), already at the size of a picture or below.
    legend : of what is on the map.
    nodata : code of pixels without a class.
    """

    title: str
    classes: npt.NDArray[np.uint8]
    legend: Legend
    nodata: int = 0


def draw_preview(
    path: Path,
    classes: npt.NDArray[np.uint8],
    metres: float,
    legend: Legend,
    *,
    title: str,
    subtitle: str,
    licence: str,
    nodata: int = 0,
) -> None:
    """Draw a map.

    Parameters
    ----------
    path : of the PNG.
    classes : uint8 (y, x)
        Codes; already at the size of a picture or below.
    metres : side of a pixel.
    legend : (code, label, title, RRGGBB) in order; only classes on the map are drawn strong.
    title, subtitle, licence : lines of text.
    nodata : code of pixels without a class.
    """
    picture, zoom = _paint(classes, legend, _MAP)
    size = picture.size

    # The frame is as wide as ever and at least as high as the legend, so that a long and narrow
    # country leaves room for the words.
    frame = _MAP, max(size[1], _ROW * (len(legend) + 2))
    left, top = _MARGIN, _MARGIN + 84
    right, bottom = left + frame[0], top + frame[1]
    small = _wrap(licence, _font(15), _MAP + _MARGIN + _LEGEND)
    total = right + _MARGIN + _LEGEND + _MARGIN, bottom + 68 + 20 * len(small) + _MARGIN // 2
    sheet = Image.new("RGB", total, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((left, _MARGIN - 6), title, _INK, _fitted(title, 34, total[0] - 2 * _MARGIN))
    pen.text((left, _MARGIN + 40), subtitle, _SOFT, _font(19))
    pen.rectangle((left - 1, top - 1, right, bottom), fill=_VOID, outline="#c9ced6", width=1)
    sheet.paste(picture, (left + (frame[0] - size[0]) // 2, top + (frame[1] - size[1]) // 2))
    _draw_legend(pen, (right + _MARGIN, top), classes, legend, nodata)
    _draw_scale(pen, (left, bottom + 22), metres / zoom)
    x, y = right - 14, bottom + 18
    pen.polygon([(x, y), (x - 8, y + 22), (x, y + 16), (x + 8, y + 22)], fill=_INK)
    pen.text((x - 30, y + 2), "N", _INK, _font(17))
    pen.multiline_text((left, bottom + 62), "\n".join(small), _SOFT, _font(15), spacing=5)
    sheet.save(path, optimize=True)


def draw_beside(path: Path, panels: Sequence[Panel], *, metres: float, title: str) -> None:
    """Draw maps of the same ground side by side, each with the classes that are on it.

    Parameters
    ----------
    path : of the PNG.
    panels : of one shape.
    metres : side of a pixel.
    title : line of text.
    """
    pictures = [_paint(panel.classes, panel.legend, _PANEL) for panel in panels]
    height = max(picture.size[1] for picture, _ in pictures)
    shown = [
        [c for c in panel.legend if (panel.classes == c[0]).any()] or list(panel.legend)
        for panel in panels
    ]
    columns = _PANEL // _COLUMN
    rows = max(-(-len(legend) // columns) for legend in shown)
    top = _MARGIN + 92
    total = (
        _MARGIN + len(panels) * (_PANEL + _MARGIN),
        top + height + 16 + rows * _ROW + 60 + _MARGIN // 2,
    )
    sheet = Image.new("RGB", total, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN - 10), title, _INK, _fitted(title, 30, total[0] - 2 * _MARGIN))
    for k, (panel, (picture, _), legend) in enumerate(zip(panels, pictures, shown, strict=True)):
        left = _MARGIN + k * (_PANEL + _MARGIN)
        pen.text((left, top - 34), panel.title, _SOFT, _font(21))
        pen.rectangle((left - 1, top - 1, left + _PANEL, top + height), _VOID, "#c9ced6")
        sheet.paste(picture, (left + (_PANEL - picture.size[0]) // 2, top))
        known = max(int((panel.classes != panel.nodata).sum()), 1)
        for number, (code, label, text, colour) in enumerate(legend):
            column, row = divmod(number, rows)
            x, y = left + column * _COLUMN, top + height + 16 + row * _ROW
            share = 100 * float((panel.classes == code).sum()) / known
            pen.rectangle((x, y + 2, x + 22, y + 20), fill=f"#{colour}", outline="#9aa1ac")
            words = f"{label} {text} {share:.0f} %".strip()
            pen.text((x + 30, y), words, _INK, _fitted(words, 17, _COLUMN - 36))
    _draw_scale(pen, (_MARGIN, total[1] - 44), metres / pictures[0][1])
    sheet.save(path, optimize=True)


def _paint(classes: npt.NDArray[np.uint8], legend: Legend, side: int) -> tuple[Image.Image, float]:
    """A picture of classes whose longer side is `side`, and by how much it is larger."""
    height, width = classes.shape
    zoom = side / max(height, width)
    size = max(round(width * zoom), 1), max(round(height * zoom), 1)
    colours = np.full((256, 3), [int(_VOID[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    for code, _, _, colour in legend:
        colours[code] = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
    return Image.fromarray(colours[classes]).resize(size, Image.Resampling.NEAREST), zoom


def _draw_legend(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    classes: npt.NDArray[np.uint8],
    legend: Legend,
    nodata: int,
) -> None:
    x, y = at
    total = max(int((classes != nodata).sum()), 1)
    words = x + (66 if any(label for _, label, _, _ in legend) else 36)
    for code, label, title, colour in legend:
        share = 100.0 * float((classes == code).sum()) / total
        ink = _INK if share else "#b6bcc6"
        pen.rectangle((x, y + 2, x + 26, y + 20), fill=f"#{colour}", outline="#9aa1ac")
        pen.text((x + 36, y), label, ink, _font(18))
        pen.text((words, y), title, ink, _font(18))
        text = f"{share:.1f} %" if share >= 0.05 else ("< 0.1 %" if share else "")
        pen.text((x + _LEGEND - 4, y), text, ink, _font(16), anchor="ra")
        y += _ROW
    pen.rectangle((x, y + 10, x + 26, y + 28), fill=_VOID, outline="#9aa1ac")
    pen.text((x + 36, y + 8), "no data or outside", _SOFT, _font(18))


def _draw_scale(pen: ImageDraw.ImageDraw, at: tuple[int, int], metres: float) -> None:
    """A bar of a round length near 200 px."""
    want = 200 * metres
    unit = 10 ** math.floor(math.log10(want))
    length = max(n * unit for n in (1, 2, 5) if n * unit <= want)
    width = length / metres
    x, y = at
    pen.rectangle((x, y, x + width, y + 7), fill=_INK)
    pen.rectangle((x + width / 2, y + 1, x + width - 1, y + 6), fill=_PAPER)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    pen.text((x + width + 12, y - 7), text, _INK, _font(17))


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, size: int, width: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font at `size`, or the largest below it at which the text fits.

    Tried one by one: glyphs are hinted to whole pixels, so lengths do not scale.
    """
    fits = (s for s in range(size, 8, -1) if _font(s).getlength(text) <= width)
    return _font(next(fits, 8))


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
