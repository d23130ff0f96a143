"""Read the items of one day onto the grid: signed, warped in anchored blocks, merged, encoded.

GDAL takes the kernel of a warp from each window it is asked for, so the same pixel differs with
the window. Here every read is of whole blocks that are anchored to the grid, with the kernel's
scale pinned; a tile takes what it needs of them, and gets what any other layout would get.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS
from shapely.geometry import shape

from engine.cube.clouds import NO_SCL, READ_FAILED
from engine.cube.gdal import classify, cores, gdal_settings
from engine.cube.radiometry import encode
from engine.cube.source import Source, open_source
from engine.errors import ReadError
from engine.grid.area import reproject
from engine.items import SCL, Item

__all__ = ["BLOCK", "Day", "Failure", "item_key", "read_asset", "read_day", "sample_item"]

BLOCK = 400
"""Side of a warp block, in pixels."""

Sign = Callable[[str], str]
Plane = tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]


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
    """

    bands: npt.NDArray[np.uint16]
    scl: npt.NDArray[np.uint8]
    source: npt.NDArray[np.uint32]
    failures: tuple[Failure, ...]


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
    sign: Sign = str,
    retries: int = 2,
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
    sign : callable
        Makes an address ready for reading, just before it is opened.
    retries : int
        Further tries of a transient failure, with growing pauses.

    Returns
    -------
    Day; an item that cannot be read is a recorded failure, not an error.
    """
    items = sorted(items, key=lambda item: item.id)
    height, width = geobox.shape
    day = Day(
        np.zeros((len(bands), height, width), np.uint16),
        np.zeros((height, width), np.uint8),
        np.zeros((height, width), np.uint32),
        (),
    )
    failures: list[Failure] = []
    wanted = [(item, name) for item in items for name in (*bands, SCL) if name in item.assets]

    def read(job: tuple[Item, str]) -> Plane | ReadError:
        item, name = job
        try:
            return read_asset(item, name, geobox, anchor, sign=sign, retries=retries)
        except ReadError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(cores(), 1)) as pool:
        planes = dict(zip([(i.id, n) for i, n in wanted], pool.map(read, wanted), strict=True))
    open_pixels = np.ones((height, width), bool)
    lost = np.zeros((height, width), bool)
    for item in items:
        missing = [name for name in bands if name not in item.assets]
        errors = [
            plane
            for name in (*bands, SCL)
            if isinstance(plane := planes.get((item.id, name)), ReadError)
        ]
        if missing or errors:
            text = str(errors[0]) if errors else f"the item has no {', '.join(missing)}"
            transient = bool(errors) and all(error.transient for error in errors)
            failures.append(Failure(item.id, text, transient))
            lost |= _footprint(item, geobox)
            continue
        found = {name: plane for (i, name), plane in planes.items() if i == item.id}
        _lay(day, item, bands, found, open_pixels)
    day.scl[open_pixels & lost] = READ_FAILED
    return Day(day.bands, day.scl, day.source, tuple(failures))


def _lay(
    day: Day,
    item: Item,
    bands: Sequence[str],
    planes: Mapping[str, Plane | ReadError],
    open_pixels: npt.NDArray[np.bool_],
) -> None:
    """Put an item's pixels where no earlier one has data; takes them from `open_pixels`."""
    clean = {name: plane for name, plane in planes.items() if not isinstance(plane, ReadError)}
    if SCL in clean:
        scl, inside = clean[SCL]
        classes = np.where(inside, scl, 0).astype(np.uint8)
    else:
        classes = np.full(day.scl.shape, NO_SCL, np.uint8)
    take = open_pixels & (classes != 0)
    for name in bands:
        take &= clean[name][1]
    for position, name in enumerate(bands):
        dn, valid = clean[name]
        asset = item.assets[name]
        stored = encode(dn, asset.scale, asset.offset, valid)
        np.copyto(day.bands[position], stored, where=take)
    np.copyto(day.scl, classes, where=take)
    day.source[take] = item_key(item.id)
    open_pixels &= ~take


def read_asset(
    item: Item,
    name: str,
    geobox: GeoBox,
    anchor: tuple[float, float],
    *,
    sign: Sign = str,
    retries: int = 2,
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
    asset = item.assets[name]
    for tried in range(retries + 1):
        href = sign(asset.href)
        what = f"{name} of {item.id}"
        try:
            with (
                rasterio.Env(**gdal_settings(href, again=tried > 0)),
                open_source(href, asset, item) as source,
            ):
                return _read_blocks(source, geobox, anchor, nearest=name == SCL)
        except ReadError as error:
            failure = error
        except Exception as error:
            failure = classify(error, href, what)
            failure.__cause__ = error
        if not failure.transient or tried == retries:
            raise failure
        time.sleep((0.5 * 2**tried) * (0.5 + random.random()))
    raise AssertionError("unreachable")


def _read_blocks(
    source: Source, geobox: GeoBox, anchor: tuple[float, float], *, nearest: bool
) -> Plane:
    height, width = geobox.shape
    resolution = geobox.resolution.x
    transform = geobox.transform
    col0 = round((transform.c - anchor[0]) / resolution)
    row0 = round((anchor[1] - transform.f) / resolution)
    values = np.zeros((height, width), source.dtype)
    valid = np.zeros((height, width), bool)
    for row in range(row0 // BLOCK * BLOCK, row0 + height, BLOCK):
        for col in range(col0 // BLOCK * BLOCK, col0 + width, BLOCK):
            corner = Affine(
                resolution,
                0,
                anchor[0] + col * resolution,
                0,
                -resolution,
                anchor[1] - row * resolution,
            )
            block = source.read(GeoBox((BLOCK, BLOCK), corner, geobox.crs), nearest=nearest)
            if block is None:
                continue
            top, left = max(row, row0), max(col, col0)
            bottom, right = min(row + BLOCK, row0 + height), min(col + BLOCK, col0 + width)
            here = np.s_[top - row0 : bottom - row0, left - col0 : right - col0]
            there = np.s_[top - row : bottom - row, left - col : right - col]
            values[here], valid[here] = block[0][there], block[1][there]
    return values, valid


def sample_item(
    item: Item, bands: Sequence[str], *, sign: Sign = str, spacing: float = 320.0
) -> dict[str, npt.NDArray[np.generic]]:
    """Decimated digital numbers of whole assets, of one shape, for the radiometry guard.

    Parameters
    ----------
    item, bands : what to read; bands that the item lacks are left out.
    spacing : float
        Metres between samples.

    Raises
    ------
    ReadError
    """
    found: dict[str, npt.NDArray[np.generic]] = {}
    size: tuple[int, int] | None = None
    for name in bands:
        asset = item.assets.get(name)
        if asset is None:
            continue
        href = sign(asset.href)
        try:
            with (
                rasterio.Env(**gdal_settings(href)),
                open_source(href, asset, item) as source,
            ):
                size = size or source.decimated_shape(spacing)
                found[name] = source.decimate(size)
        except ReadError:
            raise
        except Exception as error:
            raise classify(error, href, f"{name} of {item.id}") from error
    return found


def _footprint(item: Item, geobox: GeoBox) -> npt.NDArray[np.bool_]:
    """Where an item claims to have data, bool (y, x), by pixel centre."""
    crs = CRS.from_user_input(str(geobox.crs))
    polygon = reproject(shape(item.geometry), "EPSG:4326", crs)
    shapely.prepare(polygon)
    height, width = geobox.shape
    transform = geobox.transform
    x = transform.c + (np.arange(width) + 0.5) * transform.a
    y = transform.f + (np.arange(height) + 0.5) * transform.e
    inside: npt.NDArray[np.bool_] = shapely.intersects_xy(polygon, x[None, :], y[:, None])
    return inside
