"""A made-up country on disk: scenes, items, truth, boundaries, training areas."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from shapely.geometry.base import BaseGeometry

from engine.errors import RecipeError
from engine.grid.area import reproject
from engine.items import SCL, common_name
from engine.synthetic.districts import World
from engine.synthetic.materials import BANDS
from engine.synthetic.scene import CRS, FINE, Overpass, View, see

__all__ = ["AUTUMN", "Country", "to_degrees", "write_scenes"]

_BLOCK = 256  # pixels of 10 m that are made at once
_BEYOND = 2_000  # metres of imagery about the country, so that its edge has a halo
_SQUARE, _OVERLAP = 100_000, 9_800  # of MGRS-like tiles, in metres
_LAP = 0.02  # degrees by which tiles reach into the next zone
_ASSETS = {**{name: common_name(name) for name in BANDS}, SCL: "scl"}
_COARSE = tuple(name for name in BANDS if name not in FINE)

AUTUMN: tuple[Overpass, ...] = (
    Overpass(datetime(2021, 9, 26, 10, 10, tzinfo=UTC), "03.01", 0.10, 0.014),
    Overpass(datetime(2021, 10, 1, 10, 10, tzinfo=UTC), "05.00", 0.25, 0.020),
    Overpass(datetime(2021, 10, 6, 10, 10, tzinfo=UTC), "03.01", 0.15, 0.010),
    Overpass(datetime(2021, 10, 11, 10, 10, tzinfo=UTC), "05.00", 0.20, 0.016),
)
"""Four dates with clouds, of two baselines; the sun stands 32 to 38 degrees high."""


@dataclass(frozen=True)
class Country:
    """A piece of a world, about the border of two UTM zones.

    Attributes
    ----------
    world : World
    width, height : metres, multiples of 1600.
    overpasses : of the satellite, in any order.
    inset : metres from the bounds to the area that is mapped; 800 leave room for patches and the
        class filter, so that they need no further tiles.
    """

    world: World
    width: int = 24_000
    height: int = 16_000
    overpasses: tuple[Overpass, ...] = AUTUMN
    inset: int = 800

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("height", self.height)):
            if value <= 0 or value % 1600:
                raise RecipeError(
                    f"the {name} of a made-up country must be whole tiles",
                    got=f"{value} m",
                    expected="a multiple of 1600 m",
                )

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Left, bottom, right, top in `CRS`, on multiples of 1600 m."""
        # 12 degrees east, 49.5 north: between zones 32 and 33
        left = round((4_465_600 - self.width / 2) / 1600) * 1600
        bottom = round((2_932_800 - self.height / 2) / 1600) * 1600
        return left, bottom, left + self.width, bottom + self.height

    @property
    def outline(self) -> BaseGeometry:
        """The area to be mapped, in EPSG:4326."""
        return to_degrees(shapely.box(*self.bounds).buffer(-self.inset, join_style="mitre"))


def to_degrees(geometry: BaseGeometry, crs: str = CRS) -> BaseGeometry:
    """A geometry in EPSG:4326, its edges bent as the projection bends them."""
    return reproject(shapely.segmentize(geometry, 1000.0), crs, "EPSG:4326")


@dataclass(frozen=True)
class _Granule:
    """What one item shows: a window of a zone's grid inside an MGRS-like square."""

    zone: int
    name: str
    left: int
    top: int
    rows: int  # of 10 m
    cols: int


def write_scenes(country: Country, folder: Path) -> Path:
    """Write scenes as COGs with their items, in the form of Earth Search, and a catalogue.

    Returns
    -------
    Path of ``catalog.json``. What is there already stays: a date more is one call more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for granule in _granules(country):
        missing = []
        for overpass in country.overpasses:
            if not _ground(granule).intersects(overpass.swath):
                continue
            name = _item_name(granule, overpass)
            names.append(name)
            if not (folder / f"{name}.json").exists():
                missing.append(overpass)
        if missing:
            _write_granule(country, granule, missing, folder)
    known = sorted({*names, *(path.stem for path in folder.glob("S2?_*.json"))})
    catalog = {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "made-up-country",
        "description": "Scenes of a made-up country: no place on Earth looks like this.",
        "links": [{"rel": "item", "href": f"./{name}.json"} for name in known],
    }
    path = folder / "catalog.json"
    path.write_text(json.dumps(catalog, indent=1) + "\n")
    return path


def _granules(country: Country) -> Iterator[_Granule]:
    left, bottom, right, top = country.bounds
    area = shapely.box(left, bottom, right, top).buffer(_BEYOND, join_style="mitre")
    degrees = to_degrees(area)
    west, _, east, _ = degrees.bounds
    for zone in range(int((west + 180) // 6) + 1, int((east + 180) // 6) + 2):
        meridian = zone * 6 - 186  # its western border
        belt = shapely.box(meridian - _LAP, -80, meridian + 6 + _LAP, 84)  # tiles lap over it
        part = shapely.intersection(degrees, belt)
        if part.is_empty:
            continue
        inside = reproject(part, "EPSG:4326", f"EPSG:{32600 + zone}")
        x0, y0, x1, y1 = inside.bounds
        for i in range(int(x0 // _SQUARE), int(x1 // _SQUARE) + 1):
            for j in range(int(y0 // _SQUARE), int(y1 // _SQUARE) + 1):
                cut = shapely.intersection(
                    inside,
                    shapely.box(
                        i * _SQUARE,
                        j * _SQUARE,
                        (i + 1) * _SQUARE + _OVERLAP,
                        (j + 1) * _SQUARE + _OVERLAP,
                    ),
                )
                if cut.is_empty:
                    continue
                a, b, c, d = cut.bounds
                a, b = math.floor(a / 60) * 60, math.floor(b / 60) * 60
                c, d = math.ceil(c / 60) * 60, math.ceil(d / 60) * 60
                letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
                name = f"{zone}U{letters[i % 24]}{letters[j % 20]}"
                yield _Granule(zone, name, a, d, (d - b) // 10, (c - a) // 10)


def _ground(granule: _Granule) -> BaseGeometry:
    """What a granule shows, in the world's CRS."""
    right, bottom = granule.left + granule.cols * 10, granule.top - granule.rows * 10
    window = shapely.box(granule.left, bottom, right, granule.top)
    return reproject(window, f"EPSG:{32600 + granule.zone}", CRS)


def _item_name(granule: _Granule, overpass: Overpass) -> str:
    return f"S2A_{granule.name}_{overpass.when:%Y%m%d}_0_L2A"


def _write_granule(
    country: Country, granule: _Granule, overpasses: Sequence[Overpass], folder: Path
) -> None:
    """Make a granule block by block, write each where it belongs, then make COGs of the files."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as part, ExitStack() as stack:
        files = {
            (n, name): stack.enter_context(_open(Path(part), n, name, granule))
            for n in range(len(overpasses))
            for name in (*BANDS, SCL)
        }
        corners = [
            (row, col)
            for row in range(0, granule.rows, _BLOCK)
            for col in range(0, granule.cols, _BLOCK)
        ]

        def make(corner: tuple[int, int]) -> list[View]:
            row, col = corner
            return see(
                country.world,
                granule.zone,
                granule.left + col * 10,
                granule.top - row * 10,
                min(_BLOCK, granule.rows - row),
                min(_BLOCK, granule.cols - col),
                overpasses,
            )

        clouds = np.zeros(len(overpasses))
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            for (row, col), views in zip(corners, pool.map(make, corners), strict=True):
                for n, view in enumerate(views):
                    _put(files, n, row, col, view)
                    clouds[n] += np.isin(view.scl, (8, 9, 10)).sum()
        for file in files.values():
            file.close()
        for n, overpass in enumerate(overpasses):
            name = _item_name(granule, overpass)
            for band in (*BANDS, SCL):
                rasterio.shutil.copy(
                    str(Path(part) / f"{n}-{band}.tif"),
                    str(folder / f"{name}_{_ASSETS[band]}.tif"),
                    driver="COG",
                    compress="deflate",
                    predictor="standard" if band != SCL else "no",
                    blocksize=512,
                    overview_resampling="nearest" if band == SCL else "average",
                )
            share = 400 * float(clouds[n]) / (granule.rows * granule.cols * 100)
            item = _item(country, granule, overpass, share)
            (folder / f"{name}.json").write_text(json.dumps(item, indent=1) + "\n")


def _open(folder: Path, n: int, name: str, granule: _Granule) -> Any:
    step = 10 if name in FINE else 20
    return rasterio.open(
        folder / f"{n}-{name}.tif",
        "w",
        driver="GTiff",
        height=granule.rows * 10 // step,
        width=granule.cols * 10 // step,
        count=1,
        dtype="uint8" if name == SCL else "uint16",
        crs=f"EPSG:{32600 + granule.zone}",
        transform=Affine(step, 0, granule.left, 0, -step, granule.top),
        nodata=0,
        tiled=True,
        blockxsize=_BLOCK * 10 // step,
        blockysize=_BLOCK * 10 // step,
    )


def _put(files: dict[tuple[int, str], Any], n: int, row: int, col: int, view: View) -> None:
    planes = {
        **dict(zip(FINE, view.ten, strict=True)),
        **dict(zip(_COARSE, view.twenty, strict=True)),
        SCL: view.scl,
    }
    for name, values in planes.items():
        step = 1 if name in FINE else 2
        window = rasterio.windows.Window(col // step, row // step, *values.shape[::-1])
        files[n, name].write(values, 1, window=window)


def _item(country: Country, granule: _Granule, overpass: Overpass, cloudy: float) -> dict[str, Any]:
    """An item as Earth Search v1 would give it."""
    name = _item_name(granule, overpass)
    shape = to_degrees(shapely.intersection(_ground(granule), overpass.swath))
    sun = overpass.sun
    stamp = f"{overpass.when:%Y%m%dT%H%M%S}"
    offset = -0.1 if overpass.shift else 0.0
    assets = {}
    for band, key in _ASSETS.items():
        step = 10 if band in FINE else 20
        raster: dict[str, Any] = {"nodata": 0, "data_type": "uint8" if band == SCL else "uint16"}
        if band != SCL:
            raster |= {"scale": 0.0001, "offset": offset}
        assets[key] = {
            "href": f"./{name}_{key}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data", "reflectance"] if band != SCL else ["data"],
            "proj:shape": [granule.rows * 10 // step, granule.cols * 10 // step],
            "proj:transform": [step, 0, granule.left, 0, -step, granule.top],
            "raster:bands": [raster],
        }
    version = overpass.baseline.replace(".", "")
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "bbox": list(shape.bounds),
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": {
            "datetime": overpass.when.isoformat().replace("+00:00", "Z"),
            "created": overpass.when.isoformat().replace("+00:00", "Z"),
            "license": "CC0-1.0",  # nobody's ground
            "platform": "sentinel-2a",
            "constellation": "sentinel-2",
            "eo:cloud_cover": round(cloudy, 2),
            "view:sun_elevation": round(sun.elevation, 2),
            "view:sun_azimuth": round(sun.azimuth, 2),
            "proj:epsg": 32600 + granule.zone,
            "grid:code": f"MGRS-{granule.name}",
            "s2:processing_baseline": overpass.baseline,
            "s2:product_uri": f"S2A_MSIL2A_{stamp}_N{version}_R022_T{granule.name}_{stamp}.SAFE",
            "earthsearch:boa_offset_applied": False,
        },
        "links": [],
        "assets": assets,
    }
