"""Read the items of one day onto the grid: signed, loaded, resampled, merged, encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from engine.accounting import Pool, spent
from engine.cube.access import PLAIN, Access
from engine.cube.clouds import NO_SCL, READ_FAILED
from engine.cube.footprint import footprint, require_reach
from engine.cube.gdal import cores
from engine.cube.radiometry import lay
from engine.cube.retry import attempt
from engine.cube.source import Raster, Source
from engine.cube.warp import Frame, Piece, Placed, pieces_of, place, take
from engine.errors import ReadError
from engine.items import SCL, Item
from engine.prefetch import ahead

__all__ = [
    "Cut",
    "Day",
    "Failure",
    "Plane",
    "item_key",
    "read_asset",
    "read_day",
    "read_days",
    "resample",
    "sample_item",
]

_READERS = 8  # assets asked for at once: on a network it is waiting that takes the time

Plane = tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]
Cut = tuple[slice, slice]


@dataclass(frozen=True)
class Failure:
    """An item that could not be read; nothing of it is used in this window."""

    item: str
    error: str
    transient: bool


@dataclass(frozen=True)
class Day:
    """One solar day on a window of the grid.

    Attributes
    ----------
    bands : uint16 (band, y, x)
        Stored convention; 0 where no item has data.
    scl : uint8 (y, x)
        Class of the item that supplied the pixel; 0 none, 254 read failed, 255 item without SCL.
    source : uint32 (y, x)
        `item_key` of that item, 0 none.
    failures : tuple of Failure
    fetched : int
        Bytes of images that were read for it.
    """

    bands: npt.NDArray[np.uint16]
    scl: npt.NDArray[np.uint8]
    source: npt.NDArray[np.uint32]
    failures: tuple[Failure, ...]
    fetched: int = 0


def item_key(item_id: str) -> int:
    """Four bytes that name an item in the source raster; never 0.

    A position in a list would change its meaning when the next search finds one item more.
    """
    key = int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=4).digest(), "little")
    return key or 1


def read_day(
    items: Sequence[Item],
    bands: Sequence[str],
    geobox: GeoBox,
    anchor: tuple[float, float],
    *,
    access: Access = PLAIN,
) -> Day:
    """Read one solar day.

    Where items overlap, the first with data wins, by item id: SCL not 0 and no band at its
    declared nodata, cloudy or not.

    Parameters
    ----------
    items : items of one solar day, in any order.
    bands : B-names, in the order wanted.
    geobox : GeoBox
        The window; its corner lies on the grid's lattice.
    anchor : (x, y) of the grid, in metres.
    access : Access
        How assets are opened.

    Returns
    -------
    Day; an item that cannot be read is a recorded failure, not an error.
    """
    return next(read_days([items], bands, geobox, anchor, access=access))


def read_days(
    days: Sequence[Sequence[Item]],
    bands: Sequence[str],
    geobox: GeoBox,
    anchor: tuple[float, float],
    *,
    access: Access = PLAIN,
) -> Iterator[Day]:
    """Read solar days one after the other; arguments as for `read_day`.

    While one item is resampled the next is already being loaded.
    """
    days = [sorted(items, key=lambda item: item.id) for items in days]
    height, width = geobox.shape

    def load(item: Item) -> dict[str, Raster | None]:
        return _load_item(item, bands, geobox, anchor, access)

    coming = ahead(load, (item for items in days for item in items))
    for items in days:
        day = Day(
            np.zeros((len(bands), height, width), np.uint16),
            np.zeros((height, width), np.uint8),
            np.zeros((height, width), np.uint32),
            (),
        )
        failures: list[Failure] = []
        fetched = 0
        open_pixels = np.ones((height, width), bool)
        lost = np.zeros((height, width), bool)
        for item, loaded in islice(coming, len(items)):
            try:
                rasters = loaded.result()
                if not any(rasters.values()):
                    require_reach(item, geobox)
            except ReadError as error:
                failures.append(Failure(item.id, str(error), error.transient))
                lost |= footprint(item, geobox)
                continue
            fetched += sum(raster.fetched for raster in rasters.values() if raster)
            resample(rasters, geobox, anchor, partial(_lay, day, item, bands, open_pixels))
        day.scl[open_pixels & lost] = READ_FAILED
        yield Day(day.bands, day.scl, day.source, tuple(failures), fetched)


def _load_item(
    item: Item,
    bands: Sequence[str],
    geobox: GeoBox,
    anchor: tuple[float, float],
    access: Access,
) -> dict[str, Raster | None]:
    """What a window needs of all assets of an item, or the error of one that cannot be read."""
    missing = [name for name in bands if name not in item.assets]
    if missing:
        raise ReadError(f"the item has no {', '.join(missing)}")
    names = [*bands, *([SCL] if SCL in item.assets else [])]

    def load(name: str) -> Raster | ReadError | None:
        try:
            return _load(item, name, geobox, anchor, access)
        except ReadError as error:
            return error

    with Pool(max_workers=_READERS) as pool:
        loaded = dict(zip(names, pool.map(load, names), strict=True))
    errors = [found for found in loaded.values() if isinstance(found, ReadError)]
    if errors:
        # one final error is final, whatever else a retry may heal
        raise next((error for error in errors if not error.transient), errors[0])
    return {name: r for name, r in loaded.items() if not isinstance(r, ReadError)}


def resample(
    rasters: Mapping[str, Raster | None],
    geobox: GeoBox,
    anchor: tuple[float, float],
    use: Callable[[Mapping[str, Plane], Cut], None],
) -> None:
    """Resample rasters of an item onto a window, piece by piece, in the worker's threads.

    `use` gets for each piece the planes by name, and the piece's pixels in the window. Pieces are
    handed on while they are in the cache; whole planes would be written and read once more.
    """
    with spent("warp"):
        aligned = {
            name: same
            for name, raster in rasters.items()
            if raster is not None and (same := raster.window(geobox)) is not None
        }

    def work(piece: Piece, here: Cut) -> None:
        with spent("warp"):
            warp(piece, here)

    def warp(piece: Piece, here: Cut) -> None:
        size = here[0].stop - here[0].start, here[1].stop - here[1].start
        placed: dict[Frame, Placed] = {}
        planes: dict[str, Plane] = {}
        for name, raster in rasters.items():
            if name in aligned:
                planes[name] = aligned[name][0][here], aligned[name][1][here]
            elif raster is None:
                planes[name] = np.zeros(size, np.uint8), np.zeros(size, bool)
            else:
                frame = raster.frame
                if frame not in placed:
                    placed[frame] = place(piece, frame)
                planes[name] = take(
                    raster.values,
                    raster.corner,
                    placed[frame],
                    frame,
                    piece.block.resolution,
                    nearest=raster.nearest,
                    nodata=raster.nodata,
                )
        use(planes, here)

    with Pool(max_workers=cores()) as pool:
        for job in [pool.submit(work, *piece) for piece in pieces_of(geobox, anchor)]:
            job.result()


def _lay(
    day: Day,
    item: Item,
    bands: Sequence[str],
    open_pixels: npt.NDArray[np.bool_],
    planes: Mapping[str, Plane],
    here: Cut,
) -> None:
    """Put an item's pixels where no earlier one has data; takes them from `open_pixels`."""
    free = open_pixels[here]
    if SCL in planes:
        scl, inside = planes[SCL]
        classes = np.where(inside, scl, 0).astype(np.uint8)
    else:
        classes = np.full(free.shape, NO_SCL, np.uint8)
    takes = free & (classes != 0)
    for name in bands:
        takes &= planes[name][1]
    for position, name in enumerate(bands):
        asset = item.assets[name]
        lay(planes[name][0], takes, asset.scale, asset.offset, day.bands[position][here])
    np.copyto(day.scl[here], classes, where=takes)
    np.copyto(day.source[here], np.uint32(item_key(item.id)), where=takes)
    free &= ~takes


def read_asset(
    item: Item,
    name: str,
    geobox: GeoBox,
    anchor: tuple[float, float],
    *,
    access: Access = PLAIN,
) -> Plane:
    """Read one asset onto a window: bilinear, the scene classification nearest.

    Returns
    -------
    (values, valid), both (y, x); values of the file's own type.

    Raises
    ------
    ReadError
        After the retries, or at once where a retry cannot help.
    """
    raster = _load(item, name, geobox, anchor, access)
    kind = np.dtype(np.uint8) if raster is None else raster.values.dtype
    values, valid = np.zeros(geobox.shape, kind), np.zeros(geobox.shape, bool)

    def keep(planes: Mapping[str, Plane], here: Cut) -> None:
        values[here], valid[here] = planes[name]

    resample({name: raster}, geobox, anchor, keep)
    return values, valid


def _load(
    item: Item,
    name: str,
    geobox: GeoBox,
    anchor: tuple[float, float],
    access: Access,
) -> Raster | None:
    """The part of an asset that a window needs; again after a pause where that may help."""
    return attempt(
        item, name, access, lambda source: source.load(geobox, anchor, nearest=name == SCL)
    )


def sample_item(
    item: Item,
    bands: Sequence[str],
    *,
    access: Access = PLAIN,
    again: bool = False,
    spacing: float = 320.0,
    tell: Callable[[str], None] = lambda note: None,
) -> dict[str, np.ma.MaskedArray[Any, Any]]:
    """Decimated digital numbers of whole assets, of one shape, for the radiometry guard.

    What says nothing is masked.

    Parameters
    ----------
    item, bands : what to read; bands that the item lacks are left out.
    access : how assets are opened.
    again : past every cache: what was read before is doubted.
    spacing : float
        Metres between samples.
    tell : hears where files and item contradict each other, and who was believed.

    Raises
    ------
    ReadError
    """
    found: dict[str, np.ma.MaskedArray[Any, Any]] = {}
    size: tuple[int, int] | None = None
    for name in bands:
        if name not in item.assets:
            continue

        def sample(source: Source) -> np.ma.MaskedArray[Any, Any]:
            nonlocal size
            size = size or source.decimated_shape(spacing)
            for note in source.notes:
                tell(note)
            return source.decimate(size)

        found[name] = attempt(item, name, access, sample, again=again)
    return found
