"""Which bands a file of one's own has, where they lie, and what their numbers are.

Told by the file or its user, and never guessed; docs/assets.md says who is believed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from engine.catalog.names import understand
from engine.errors import RecipeError
from engine.items import BANDS

__all__ = ["RGB", "forms_of", "names_of", "places_of", "require_whole"]

RGB = ("B04", "B03", "B02")
_TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_LOOK = 256  # pixels along a side of what is looked at
_LEAST, _MOST = -0.2, 1.6  # reflectances that the median of a band may be


def names_of(
    path: Path,
    descriptions: Sequence[str | None],
    colours: Sequence[ColorInterp],
    kind: str,
    note: Callable[[str], None],
) -> tuple[str, ...]:
    told = [
        str(text).strip()
        for text, use in zip(descriptions, colours, strict=True)
        if use != ColorInterp.alpha and text and str(text).strip()
    ]
    if told and not _counted(told):
        bands = [name for text in told if (name := understand(text)) in BANDS]
        if len(set(bands)) == len(told) == len(colours) - colours.count(ColorInterp.alpha):
            return tuple(name for name in bands if name is not None)
        if tuple(colours[:3]) != _COLOURS:
            raise RecipeError(
                "a file's bands have names that are not understood",
                got=f"{', '.join(told[:12])} in {path.name}",
                expected=f"names of {', '.join(BANDS)} in a usual spelling, each once",
                remedy="name them with --bands",
            )
    if len(colours) <= 4 and tuple(colours[:3]) == _COLOURS:
        if kind != "uint8":
            raise RecipeError(
                "an image has no 8 bits a band",
                got=f"{path.name}: {kind}",
                expected="uint8, as images of red, green and blue are read",
                remedy="write it in 8 bits (gdal_translate -ot Byte -scale …); bands of "
                "reflectance are named with --bands",
            )
        if len(colours) == 4 and colours[3] != ColorInterp.alpha:
            note("the fourth band beside red, green and blue is taken as near infrared")
            return (*RGB, "B08")
        return RGB
    if len(descriptions) == len(_TEN):
        note(f"ten unnamed bands are taken as {' '.join(_TEN)}")
        return _TEN
    expected = f"names of {', '.join(BANDS)}, or exactly ten bands in the order of So2Sat"
    remedy = "name them with --bands"
    if len(descriptions) == 1:
        expected = "all bands of a scene in one file: files of one band each are not described"
        remedy = "put them together (gdalbuildvrt -separate …), and name them with --bands"
    raise RecipeError(
        "a file's bands have no names",
        got=f"{len(descriptions)} bands in {path.name}",
        expected=expected,
        remedy=remedy,
    )


def _counted(told: Sequence[str]) -> bool:
    """Whether names only count the bands, as many a program's do: Band 1, band_2, Layer_3."""
    plain = [re.sub(r"[^a-z0-9]", "", text.lower()) for text in told]
    return any(
        plain == [f"{word}{k}" for k in range(1, len(told) + 1)] for word in ("band", "layer")
    )


def places_of(colours: Sequence[ColorInterp], count: int) -> list[int] | None:
    """Where so many named bands lie in a file, from 1: alpha is none unless all are named."""
    every = [*range(1, len(colours) + 1)]
    data = [k for k in every if colours[k - 1] != ColorInterp.alpha]
    return next((places for places in (every, data) if len(places) == count), None)


def forms_of(
    path: Path,
    file: Any,
    places: Sequence[int],
    scale: float | None,
    offset: float | None,
    nodata: float | None,
    note: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Scale and offset of each band: as the user says, else the file's own, else 1e-4 and 0."""
    forms = []
    for place in places:
        own = file.scales[place - 1], file.offsets[place - 1]
        plain = own == (1.0, 0.0)
        found = (
            scale if scale is not None else 1e-4 if plain else own[0],
            offset if offset is not None else 0.0 if plain else own[1],
        )
        if not all(map(math.isfinite, found)) or found[0] <= 0:
            raise RecipeError(
                "a file's scale cannot be",
                got=f"scale {found[0]:g} and offset {found[1]:g} of band {place} of {path.name}",
                expected="reflectance = number x scale + offset",
                remedy="say them with --scale and --offset",
            )
        if not plain:
            whose = "files'" if found == own else "command's, not the files'"
            note(f"scale and offset are the {whose}: {found[0]:g} and {found[1]:g}")
            if found == own:
                _require_reflectance(path, file, place, nodata)
        forms.append({"raster:scale": found[0], "raster:offset": found[1]})
    return forms


def _require_reflectance(path: Path, file: Any, place: int, nodata: float | None) -> None:
    """Refuse a file's scale that makes no reflectance of its numbers: they may be percent."""
    size = tuple(min(side, _LOOK) for side in file.shape)
    values = file.read(place, out_shape=size, masked=True)
    known = np.ma.compressed(np.ma.masked_invalid(values) if values.dtype.kind == "f" else values)
    known = known[known != nodata] if nodata is not None else known
    if not known.size:
        return
    middle = float(np.median(known)) * file.scales[place - 1] + file.offsets[place - 1]
    if not _LEAST <= middle <= _MOST:
        raise RecipeError(
            "a file's scale makes no reflectance of its numbers",
            got=f"scale {file.scales[place - 1]:g} and offset {file.offsets[place - 1]:g} of band "
            f"{place} of {path.name} make {middle:g} of the median",
            expected="reflectance, 0 to 1",
            remedy="say what they are with --scale and --offset",
        )


def require_whole(path: Path, file: Any, nodata: float | None, places: Sequence[int]) -> None:
    """Floats must be whole digital numbers, 0 to 65535: anything else wants a scale."""
    for index in places:
        if (file.scales[index - 1], file.offsets[index - 1]) != (1.0, 0.0):
            continue
        none = [n for n in (nodata, file.nodatavals[index - 1]) if n is not None]
        for _, window in file.block_windows(index):
            values = file.read(index, window=window)
            values = values[np.isfinite(values) & ~np.isin(values, none)]
            if ((values != np.rint(values)) | (values < 0) | (values > 65535)).any():
                raise RecipeError(
                    "a file's floats are not whole digital numbers",
                    got=f"band {index} of {path.name}: {values.min():g} to {values.max():g}",
                    expected="whole numbers, reflectance x 10000",
                    remedy="say how they become reflectance with --scale (1 for reflectance)",
                )
