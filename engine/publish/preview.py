"""preview.png: the map at a glance, with legend, scale bar, date and licence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_preview"]

_INK, _SOFT, _PAPER, _VOID = "#1f2430", "#6b7280", "#ffffff", "#eef0f3"
_MAP, _LEGEND, _MARGIN = 1000, 320, 36


def draw_preview(
    path: Path,
    classes: npt.NDArray[np.uint8],
    metres: float,
    legend: Sequence[tuple[int, str, str, str]],
    *,
    title: str,
    subtitle: str,
    licence: str,
) -> None:
    """Draw a map.

    Parameters
    ----------
    path : of the PNG.
    classes : uint8 (y, x)
        Codes, 0 nodata; already at the size of a picture or below.
    metres : side of a pixel.
    legend : (code, label, title, RRGGBB) in order; only classes on the map are drawn strong.
    title, subtitle, licence : lines of text.
    """
    height, width = classes.shape
    zoom = _MAP / max(height, width)
    size = max(round(width * zoom), 1), max(round(height * zoom), 1)
    colours = np.full((256, 3), [int(_VOID[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    for code, _, _, colour in legend:
        colours[code] = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
    picture = Image.fromarray(colours[classes]).resize(size, Image.Resampling.NEAREST)

    top = _MARGIN + 84
    total = (_MARGIN * 3 + size[0] + _LEGEND, max(top + size[1] + 92, top + 30 * len(legend) + 110))
    sheet = Image.new("RGB", total, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN - 6), title, _INK, _font(34))
    pen.text((_MARGIN, _MARGIN + 40), subtitle, _SOFT, _font(19))
    sheet.paste(picture, (_MARGIN, top))
    pen.rectangle(
        (_MARGIN - 1, top - 1, _MARGIN + size[0], top + size[1]), outline="#c9ced6", width=1
    )
    _draw_legend(pen, (_MARGIN * 2 + size[0], top), classes, legend)
    _draw_scale(pen, (_MARGIN, top + size[1] + 22), metres / zoom)
    pen.text((_MARGIN, total[1] - 32), licence, _SOFT, _font(15))
    x, y = _MARGIN + size[0] - 14, top + size[1] + 18
    pen.polygon([(x, y), (x - 8, y + 22), (x, y + 16), (x + 8, y + 22)], fill=_INK)
    pen.text((x - 30, y + 2), "N", _INK, _font(17))
    sheet.save(path, optimize=True)


def _draw_legend(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    classes: npt.NDArray[np.uint8],
    legend: Sequence[tuple[int, str, str, str]],
) -> None:
    x, y = at
    total = max(int((classes > 0).sum()), 1)
    for code, label, title, colour in legend:
        share = 100.0 * float((classes == code).sum()) / total
        ink = _INK if share else "#b6bcc6"
        pen.rectangle((x, y + 2, x + 26, y + 20), fill=f"#{colour}", outline="#9aa1ac")
        pen.text((x + 36, y), label, ink, _font(18))
        pen.text((x + 66, y), title, ink, _font(18))
        text = f"{share:.1f} %" if share >= 0.05 else ("< 0.1 %" if share else "")
        pen.text((x + _LEGEND - 4, y), text, ink, _font(16), anchor="ra")
        y += 30
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


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
