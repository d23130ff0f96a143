"""Orthophotos of a made-up world at 1 m, and where it is green."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
from affine import Affine
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from engine.jit import compiled
from engine.synthetic.country import to_degrees
from engine.synthetic.districts import World
from engine.synthetic.hashing import draws
from engine.synthetic.light import Sun, reach, shade
from engine.synthetic.materials import BANDS, SHADE, Material, spectra
from engine.synthetic.scene import CRS
from engine.synthetic.surface import paint

__all__ = ["FRAME", "GREEN", "JULY", "Light", "take_photo", "write_photos"]

FRAME, _LAP = 1000, 50
"""Metres of a frame's own ground; it shows `_LAP` more on each side, as its neighbours do."""


@dataclass(frozen=True)
class Light:
    """When photos are taken.

    Attributes
    ----------
    sun : Sun
    day : of the year; leaves and grass go by it.
    exposure : brightness, beside each city's own.
    haze : 0 clear, 1 a thick summer haze: contrast goes, and what comes is bluish.
    balance : of the camera, in red, green, blue and near infrared.
    """

    sun: Sun
    day: int
    exposure: float = 1.0
    haze: float = 0.0
    balance: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)


JULY = Light(Sun(56.0, 150.0), 190)
"""A July morning."""

_ORDER = ("B04", "B03", "B02", "B08")
_BANDS = np.array([BANDS.index(name) for name in _ORDER])
_AIR = np.array([0.09, 0.12, 0.17, 0.05], np.float32)
"""Reflectance of the air in a thick haze, which takes `_TAKEN` of the ground's."""
_TAKEN = 0.45
_SALT = 977  # of a city's tone curve and of a frame's light

GREEN = np.isin(
    np.arange(len(Material)),
    [
        Material.GRASS,
        Material.DRY_GRASS,
        Material.SCRUB,
        Material.BROADLEAF,
        Material.CONIFER,
    ],
)
"""Which materials are green space inside a city; farmland is none."""


def take_photo(
    world: World, left: int, top: int, rows: int, cols: int, light: Light = JULY
) -> npt.NDArray[np.uint8]:
    """A frame: red, green, blue and near infrared of a window, whole metres of the world.

    Each city has its tone curve, and each frame is a little brighter on one side, as mosaics of
    real frames are.

    Returns
    -------
    uint8 (4, rows, cols)
    """
    far = reach(light.sun)
    ground = paint(world, left - far, top + far, rows + 2 * far, cols + 2 * far)
    dark = shade(ground.height, ground.left, ground.top, light.sun)
    keys = ground.cities
    table = np.stack([spectra(world.seed, key, light.day)[:, _BANDS] for key in keys])
    curves = np.array([draws(world.seed, key, 0, _SALT)[:3] for key in keys])
    gain = (light.exposure * (2.1 + 0.8 * curves[:, 0])).astype(np.float32)
    gamma = (0.55 + 0.25 * curves[:, 1]).astype(np.float32)
    gains = gain[:, None] * np.array(light.balance, np.float32)
    clear, air = np.float32(1 - _TAKEN * light.haze), np.float32(light.haze) * _AIR
    shine = draws(world.seed, left, top, _SALT)
    slope = np.array([0.16 * (shine[0] - 0.5), 0.16 * (shine[1] - 0.5)], np.float32)
    found = np.empty((4, rows, cols), np.uint8)
    _expose(
        ground.material, ground.tone, ground.city, dark, table, SHADE[_BANDS], clear, air,
        gains, gamma, slope, far, found,
    )  # fmt: skip
    return found


@compiled
def _expose(
    material: Any, tone: Any, city: Any, dark: Any, table: Any, shaded: Any, clear: Any, air: Any,
    gains: Any, gamma: Any, slope: Any, far: int, out: Any,
) -> None:  # fmt: skip
    for i in range(out.shape[1]):
        down = i / out.shape[1] - 0.5
        for j in range(out.shape[2]):
            r, c = far + i, far + j
            here = city[r, c]
            light = (1 + slope[0] * down + slope[1] * (j / out.shape[2] - 0.5)) * tone[r, c] / 128.0
            for b in range(4):
                value = table[here, material[r, c], b] * light
                if dark[r, c]:
                    value *= shaded[b]
                value = min(max((value * clear + air[b]) * gains[here, b], 0.0), 1.0) ** gamma[here]
                out[b, i, j] = int(255 * value + 0.5)


def write_photos(
    world: World,
    bounds: tuple[int, int, int, int],
    folder: Path,
    towns: list[BaseGeometry],
    light: Light = JULY,
) -> int:
    """Write frames as JPEG-compressed GeoTIFFs, and what is green in them.

    Frames lie in ``folder``, named by column and row, with their items and ``catalog.json``;
    ``green.tif`` holds the same ground: 1 green, 0 not, 255 outside of the urban boundary.

    Parameters
    ----------
    world : World
    bounds : left, bottom, right, top of what they show, whole metres in the world's CRS.
    folder : Path
    towns : polygons of the urban boundary, in the world's CRS.
    light : Light

    Returns
    -------
    How many frames there are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left, bottom, right, top = bounds
    corners = [(x, y) for y in range(top, bottom, -FRAME) for x in range(left, right, FRAME)]
    side = FRAME + 2 * _LAP
    form: dict[str, Any] = {"driver": "GTiff", "crs": CRS, "dtype": "uint8", "tiled": True}
    lock = Lock()

    def frame(corner: tuple[int, int]) -> None:
        x, y = corner[0] - _LAP, corner[1] + _LAP
        transform = Affine(1, 0, x, 0, -1, y)
        name = f"photo_{corner[0] // FRAME}_{corner[1] // FRAME}.tif"
        own = {"height": side, "width": side, "transform": transform, "count": 4}
        with rasterio.open(
            folder / name, "w", compress="jpeg", jpeg_quality=85, **own, **form
        ) as file:
            file.write(take_photo(world, x, y, side, side, light))
        item = _item(name, transform, side, light)
        (folder / f"{item['id']}.json").write_text(json.dumps(item, indent=1) + "\n")
        rows, cols = min(FRAME, corner[1] - bottom), min(FRAME, right - corner[0])
        found = GREEN[paint(world, *corner, rows, cols).material].astype(np.uint8)
        here = Affine(1, 0, corner[0], 0, -1, corner[1])
        inside = np.zeros((rows, cols), np.uint8)
        if towns:
            rasterio.features.rasterize(towns, out=inside, transform=here)
        window = Window(corner[0] - left, top - corner[1], cols, rows)
        with lock:
            green.write(np.where(inside > 0, found, 255).astype(np.uint8), 1, window=window)

    whole = {"height": top - bottom, "width": right - left, "nodata": 255, "count": 1}
    with (
        rasterio.open(
            folder / "green.tif",
            "w",
            transform=Affine(1, 0, left, 0, -1, top),
            compress="deflate",
            **whole,
            **form,
        ) as green,
        ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool,
    ):
        list(pool.map(frame, corners))
    names = sorted(path.stem for path in folder.glob("photo_*.json"))
    catalog = {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "made-up-photos",
        "description": "Orthophotos of a made-up country: no place on Earth looks like this.",
        "links": [{"rel": "item", "href": f"./{name}.json"} for name in names],
    }
    (folder / "catalog.json").write_text(json.dumps(catalog, indent=1) + "\n")
    return len(corners)


def _item(name: str, transform: Affine, side: int, light: Light) -> dict[str, Any]:
    """A frame's item: one file, four bands."""
    left, top = transform.c, transform.f
    outline = to_degrees(shapely.box(left, top - side, left + side, top))
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name.removesuffix(".tif"),
        "collection": "made-up-photos",
        "bbox": list(outline.bounds),
        "geometry": json.loads(shapely.to_geojson(outline)),
        "properties": {
            "datetime": f"{date(2021, 1, 1) + timedelta(days=light.day - 1)}T10:00:00Z",
            "license": "CC0-1.0",
            "proj:code": CRS,
            "proj:shape": [side, side],
            "proj:transform": list(transform)[:6],
        },
        "links": [],
        "assets": {
            band: {"href": f"./{name}", "type": "image/tiff; application=geotiff", "natmap:band": k}
            for k, band in enumerate(_ORDER, 1)
        },
    }
