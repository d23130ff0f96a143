"""Both products of one place, side by side: how green each local climate zone is."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import from_bounds

from engine.compare.folder import ProductFolder, read_folder
from engine.compare.report import write_table
from engine.errors import MetricError, first_line
from engine.files import together
from engine.labels.rasters import TOLERANCE
from engine.legend import LCZ, UGS
from engine.publishing.preview import Panel, draw_beside
from engine.runs.fold import Fold
from engine.runs.layers import RasterLayer, fold_layers
from engine.runs.tables import Block, Column, Table

__all__ = ["Beside", "ZoneGreen", "beside"]

_PICTURE = 1000  # pixels of a map's longer side
_UNKNOWN = 255


@dataclass(frozen=True)
class ZoneGreen:
    """A local climate zone's green space.

    Attributes
    ----------
    code : of the zone.
    square_km : of its cells whose green space is known.
    percent : of these that is green.
    """

    code: int
    square_km: float
    percent: float


@dataclass(frozen=True)
class Beside:
    """What both maps say together.

    Attributes
    ----------
    zones : those that both maps have in common ground, by code.
    folder : where picture and table were written, None if nowhere.
    """

    zones: tuple[ZoneGreen, ...]
    folder: Path | None


def beside(lcz: str | Path, ugs: str | Path, *, out: str | Path | None = None) -> Beside:
    """Set a map of local climate zones beside one of green space.

    A cell's zone is that of the nearest cell of the other map, where they lie on other grids.

    Parameters
    ----------
    lcz, ugs : product folders.
    out : folder for ``beside.png`` and ``green-by-zone.csv``; by default nowhere.

    Raises
    ------
    MetricError
        Where one of them is not such a product, or they have no ground in common.
    """
    lcz, ugs = Path(lcz), Path(ugs)
    climate = _folder(lcz, "lcz", "first", "local climate zones")
    green = _folder(ugs, "ugs", "second", "green space")
    zone_map, green_map = climate.layer("map"), green.layer("map")
    try:
        with ExitStack() as files:
            whole = files.enter_context(rasterio.open(green_map))
            shares = files.enter_context(rasterio.open(green.layer("green")))
            theirs = files.enter_context(rasterio.open(zone_map))
            zones = files.enter_context(
                WarpedVRT(
                    theirs,
                    crs=shares.crs,
                    transform=shares.transform,
                    height=shares.height,
                    width=shares.width,
                    resampling=Resampling.nearest,
                    nodata=0,
                    tolerance=TOLERANCE,
                )
            )
            cells = abs(shares.transform.a * shares.transform.e) / 1e6
            found = _count(zones, shares, cells)
            if not found:
                raise MetricError(
                    "the maps have no ground in common",
                    got=f"{lcz} and {ugs}",
                    expected="cells that have a zone on one and known green space on the other",
                )
            folder = None if out is None else Path(out)
            if folder is not None:
                names = {c.code: c for c in LCZ}
                rows = [
                    (zone.label, zone.title, f"{z.square_km:.2f}", f"{z.percent:.1f}")
                    for z in found
                    if (zone := names[z.code])
                ]
                title = f"{zone_map.stem} beside {green_map.stem}"
                with together(folder, mark="green-by-zone.csv") as part:
                    _draw(part / "beside.png", zones, whole, title)
                    header = ("zone", "title", "km2", "green_percent")
                    write_table(part / "green-by-zone.csv", header, rows)
    except (RasterioError, CPLE_BaseError) as error:
        raise MetricError("a map cannot be read", got=first_line(error)) from error
    return Beside(found, folder)


def _folder(path: Path, product: str, which: str, words: str) -> ProductFolder:
    found = read_folder(path)
    if found is None or found.product_name != product:
        raise MetricError(
            f"the {which} map is not a product of {words}",
            got=str(path),
            expected=f"a folder that natmap published from a recipe of `product: {product}`",
        )
    return found


def _by_zone(block: Block) -> Table:
    zone, share = block.read("zones"), block.read("shares")
    both = (zone > 0) & (share != _UNKNOWN) & block.inside("shares")
    percent = np.bincount(zone[both], weights=share[both], minlength=256)
    return {
        "known": np.bincount(zone[both], minlength=256),
        "percent": percent.astype(np.int64),  # whole numbers below 2^53: exact
    }


_CODES = ("code", tuple(range(256)))
_GREEN = Fold(
    "green-by-zone",
    (),
    (Column("known", "int64", (_CODES,)), Column("percent", "int64", (_CODES,))),
    _by_zone,
)
"""Cells of each zone whose green space is known, and the sum of their percentages."""


def _count(zones: Any, shares: Any, cell: float) -> tuple[ZoneGreen, ...]:
    found = fold_layers(_GREEN, {"zones": RasterLayer(zones), "shares": RasterLayer(shares)})
    known, percent = found["known"], found["percent"]
    return tuple(
        ZoneGreen(c.code, float(known[c.code] * cell), float(percent[c.code] / known[c.code]))
        for c in LCZ
        if known[c.code]
    )


def _draw(path: Path, zones: Any, green: Any, title: str) -> None:
    """Both maps of the ground that the green one covers."""
    side = max(green.height, green.width) / _PICTURE
    size = max(round(green.height / side), 1), max(round(green.width / side), 1)
    at = from_bounds(*green.bounds, zones.transform)
    left = zones.read(1, window=at, out_shape=size, resampling=Resampling.nearest)
    # the overviews of classes are of the commonest, so a large map keeps its look
    right: npt.NDArray[np.uint8] = green.read(1, out_shape=size, resampling=Resampling.nearest)
    draw_beside(
        path,
        [
            Panel("Local climate zones", left, [(c.code, c.label, c.title, c.colour) for c in LCZ]),
            Panel(
                f"Urban green space at {green.transform.a:g} m",
                right,
                [(c.code, c.label, c.title, c.colour) for c in UGS],
                _UNKNOWN,
            ),
        ],
        metres=float(green.transform.a) * side,
        title=title,
    )
