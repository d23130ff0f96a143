"""Read 1 m images onto the grid: a mosaic of frames, 8 bits a band."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from rasterio.enums import Interleaving

from engine.cube.access import PLAIN, Access
from engine.cube.footprint import footprint, require_reach
from engine.cube.read import Cut, Failure, Plane, resample
from engine.cube.retry import attempt
from engine.cube.room import require_room
from engine.cube.source import Raster, Source
from engine.cube.validity import validity_of
from engine.cube.warp import Frame
from engine.errors import ReadError
from engine.items import Item
from engine.prefetch import ahead

__all__ = ["Image", "in_order", "read_image"]


@dataclass(frozen=True)
class Image:
    """Frames on a window of the grid.

    Attributes
    ----------
    bands : uint8 (band, y, x), 0 where there is none.
    valid : bool (y, x)
    lost : bool (y, x), invalid in the footprint of a frame that could not be read.
    failures : frames that could not be read.
    fetched : bytes of images that were read for it.
    """

    bands: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.bool_]
    lost: npt.NDArray[np.bool_]
    failures: tuple[Failure, ...]
    fetched: int


def in_order(items: Iterable[Item], order: str | Sequence[str] = "newest") -> list[Item]:
    """Frames as a mosaic prefers them, the best first.

    Parameters
    ----------
    items : in any order.
    order : ``newest``; ``nadir``, the least looked aside, those that do not say so last; or ids
        of frames that go before all others. Equals go by date, the newest first, then by id.
    """

    def key(item: Item) -> tuple[float, float, str]:
        if order == "newest":
            first = 0.0
        elif order == "nadir":
            first = math.inf if item.off_nadir is None else abs(item.off_nadir)
        else:
            first = order.index(item.id) if item.id in order else len(order)
        return first, -item.datetime.timestamp(), item.id

    return sorted(items, key=key)


def read_image(
    items: Sequence[Item],
    bands: Sequence[str],
    geobox: GeoBox,
    anchor: tuple[float, float],
    *,
    access: Access = PLAIN,
) -> Image:
    """Read frames onto a window, bilinear.

    Where frames overlap, the first with data wins. A pixel of a frame has data where
    its alpha or mask says so, else where not all bands equal the declared nodata.

    Parameters
    ----------
    items : as `in_order` gives them; each frame with its bands as assets.
    bands : B-names, in the order wanted.
    geobox : GeoBox
        The window; its corner lies on the grid's lattice.
    anchor : (x, y) of the grid, in metres.
    access : Access

    Returns
    -------
    Image; a frame that cannot be read, or has no 8 bits a band, is a recorded failure.
    """
    found = np.zeros((len(bands), *geobox.shape), np.uint8)
    valid, lost = np.zeros(geobox.shape, bool), np.zeros(geobox.shape, bool)
    failures: list[Failure] = []
    fetched = 0

    def load(item: Item) -> dict[str, Raster | None]:
        return _load(item, bands, geobox, anchor, access)

    for item, loaded in ahead(load, items):
        try:
            rasters = loaded.result()
            if not any(rasters.values()):
                require_reach(item, geobox)
        except ReadError as error:
            failures.append(Failure(item.id, str(error), error.transient))
            lost |= footprint(item, geobox)
            continue
        fetched += sum(raster.fetched for raster in rasters.values() if raster)
        resample(rasters, geobox, anchor, partial(_lay, found, valid, bands))
    return Image(found, valid, lost & ~valid, tuple(failures), fetched)


def _load(
    item: Item,
    bands: Sequence[str],
    geobox: GeoBox,
    anchor: tuple[float, float],
    access: Access,
) -> dict[str, Raster | None]:
    """What a window needs of a frame; each of its files is opened once."""
    missing = [name for name in bands if name not in item.assets]
    if missing:
        raise ReadError(f"the frame has no {', '.join(missing)}")
    files: dict[str, list[str]] = {}
    for name in bands:
        files.setdefault(item.assets[name].href, []).append(name)
    grids: dict[tuple[object, ...], list[_Part]] = {}
    for names in files.values():

        def use(source: Source, names: list[str] = names) -> _Part | None:
            return _cut(source, item, names, geobox, anchor)

        part = attempt(item, names[0], access, use)
        if part is not None:
            key = part.frame, part.corner, part.values.shape[1:]
            grids.setdefault(key, []).append(part)
    found: dict[str, Raster | None] = dict.fromkeys(bands)
    for parts in grids.values():
        seen = _seen(parts)
        for part in parts:
            # each one more than it is so that 0 can say: nothing here
            shifted = np.where(seen, part.values.astype(np.uint16) + 1, 0).astype(np.uint16)
            for name, band, fetched in zip(part.names, shifted, part.fetched, strict=True):
                found[name] = Raster(band, part.corner, part.frame, 0.0, False, fetched)
    return found


@dataclass(frozen=True)
class _Part:
    """What a window needs of one of a frame's files.

    Attributes
    ----------
    names : of its bands.
    values : uint8 (band, y, x)
    corner, frame : as of a `Raster`.
    fetched : bytes that were read for each band.
    opaque : bool (y, x), where alpha or mask shows data; None where there is neither.
    numbers : bool (y, x), where all bands have their number of no data.
    """

    names: list[str]
    values: npt.NDArray[np.uint8]
    corner: tuple[int, int]
    frame: Frame
    fetched: list[int]
    opaque: npt.NDArray[np.bool_] | None
    numbers: npt.NDArray[np.bool_]


def _cut(
    source: Source,
    item: Item,
    names: list[str],
    geobox: GeoBox,
    anchor: tuple[float, float],
) -> _Part | None:
    """Bands of one file; None where the window needs nothing of it."""
    file, indices = source.file, [item.assets[name].index for name in names]
    for index in indices:
        if not 1 <= index <= file.count:
            raise ReadError("the frame has no such band", got=index, expected=f"1 to {file.count}")
        if (kind := file.dtypes[index - 1]) != "uint8":
            raise ReadError(
                "the frame is not a plain image",
                got=kind,
                expected="uint8 bands of red, green and blue",
            )
    window = source.needed(geobox, anchor)
    if window is None:
        return None
    require_room(file, indices, (window.height, window.width))
    values = file.read(indices, window=window)
    rules = [validity_of(file, item.assets[name], item, name)[0] for name in names]
    masks = [
        shown
        for k, (rule, index) in enumerate(zip(rules, indices, strict=True))
        if (k == 0 or rule.apart) and (shown := rule.shown(file, index, window=window)) is not None
    ]
    if masks:
        opaque, numbers = np.logical_and.reduce(masks), np.zeros(values.shape[1:], bool)
    else:
        opaque = None
        numbers = np.logical_and.reduce(
            [rule.invalid(band) for rule, band in zip(rules, values, strict=True)]
        )
    together = file.interleaving == Interleaving.pixel  # blocks that hold all bands count once
    fetched = source.fetched(window, values.nbytes)
    return _Part(
        names,
        values,
        (int(window.row_off), int(window.col_off)),
        source.frame,
        [0 if together and k else fetched for k in range(len(names))],
        opaque,
        numbers,
    )


def _seen(parts: Sequence[_Part]) -> npt.NDArray[np.bool_]:
    """Where a frame has data, bool (y, x): what is opaque, else what is not nodata in all bands.

    Its bands may lie in files of their own: a colour is empty in one of them where it is pure.
    """
    opaque = [part.opaque for part in parts if part.opaque is not None]
    seen: npt.NDArray[np.bool_]
    if opaque:
        seen = np.logical_and.reduce(opaque)
    else:
        seen = np.logical_not(np.logical_and.reduce([part.numbers for part in parts]))
    return seen


def _lay(
    found: npt.NDArray[np.uint8],
    valid: npt.NDArray[np.bool_],
    bands: Sequence[str],
    planes: Mapping[str, Plane],
    here: Cut,
) -> None:
    """Put a frame's pixels where no earlier one has data."""
    takes = ~valid[here]
    for name in bands:
        takes &= planes[name][1]
    for position, name in enumerate(bands):
        shifted = planes[name][0].astype(np.int32) - 1
        np.copyto(found[position][here], shifted, where=takes, casting="unsafe")
    valid[here] |= takes
