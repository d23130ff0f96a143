"""The Maribor and Zagreb scenes, read straight: own georeference, numpy, no engine kernels."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import Transformer

from engine.items import SCL, Asset, Item

BANDS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
SOME = ["B02", "B08"]  # what CI reads of these: each file is decoded for each window
SIDE = 915  # px of 120 m
CORNER = {"33TWM": (499_980.0, 5_200_020.0), "33TWL": (499_980.0, 5_100_000.0)}


def items(data: Path, *tiles: str) -> list[Item]:
    """The items by hand, without the catalogue's normaliser."""
    found = []
    for path in sorted((data / "sentinel2-maribor" / "sentinel-2-l2a").glob("*/*.json")):
        raw = json.loads(path.read_text())
        tile = raw["properties"]["grid:code"].removeprefix("MGRS-")
        if tiles and tile not in tiles:
            continue
        assets = {}
        for name, key in {**BANDS, SCL: "scl"}.items():
            asset = raw["assets"][key]
            assets[name] = Asset(
                href=str(path.parent / asset["href"]),
                crs=f"EPSG:{raw['properties']['proj:epsg']}",
                transform=tuple(asset["proj:transform"][:6]),
                shape=tuple(asset["proj:shape"]),
            )
        west, south, east, north = _bbox(raw)
        found.append(
            Item(
                id=raw["id"],
                collection="sentinel-2-l2a",
                source="test",
                datetime=datetime.fromisoformat(raw["properties"]["datetime"]),
                bbox=(west, south, east, north),
                geometry=raw["geometry"],
                centroid_lon=(west + east) / 2,
                stamp=raw["properties"]["s2:product_uri"],
                assets=assets,
                baseline=raw["properties"]["s2:processing_baseline"],
                tile=tile,
            )
        )
    return found


def catalogue(data: Path, folder: Path, *tiles: str) -> Path:
    """A static catalogue of the items with the assets that are at hand.

    The rest lie in a bucket: without a network every run would wait for them, item by item, since
    the radiometry guard samples B11 and B12 where an item has them.
    """
    links = []
    for path in sorted((data / "sentinel2-maribor" / "sentinel-2-l2a").glob("*/*.json")):
        raw = json.loads(path.read_text())
        if tiles and raw["properties"]["grid:code"].removeprefix("MGRS-") not in tiles:
            continue
        here = {k: v for k, v in raw["assets"].items() if "://" not in v["href"]}
        raw["assets"] = {k: v | {"href": str(path.parent / v["href"])} for k, v in here.items()}
        raw["links"] = []
        copy = folder / path.name
        copy.write_text(json.dumps(raw))
        links.append({"rel": "item", "href": copy.name})
    found = folder / "catalog.json"
    found.write_text(json.dumps({"type": "Catalog", "id": "maribor", "links": links}))
    return found


def _bbox(raw: dict[str, Any]) -> tuple[float, float, float, float]:
    ring = np.array(raw["geometry"]["coordinates"][0])
    return ring[:, 0].min(), ring[:, 1].min(), ring[:, 0].max(), ring[:, 1].max()


def pixels(item: Item, name: str) -> np.ndarray:
    """A file's digital numbers, as rasterio gives them; not to be changed."""
    return _decoded(item.assets[name].href)


@cache
def _decoded(href: str) -> np.ndarray:
    """50 files of JPEG 2000 in all: to decode them is most of what tests of these scenes cost."""
    with rasterio.open(href) as file:
        values: np.ndarray = file.read(1)
    values.flags.writeable = False
    return values


def median(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Rounded median (band, y, x) of the days (day, band, y, x) that are seen (day, y, x); or 0."""
    count = seen.sum(axis=0)
    found = np.zeros(values.shape[1:])
    some, middle = count > 0, count[count > 0]
    ordered = np.sort(np.where(seen[:, None], values, np.nan)[:, :, some], axis=0)  # NaN last
    low, high = (
        np.take_along_axis(ordered, at[None, None], 0)[0] for at in ((middle - 1) // 2, middle // 2)
    )
    found[:, some] = np.rint((low + high) / 2)
    return found


def usable(scl: np.ndarray, radius: float) -> np.ndarray:
    """SCL allows it and no cloud within `radius` pixels; brute force over the disc."""
    good = ~np.isin(scl, (0, 1, 3, 8, 9, 10)) & (scl <= 11)
    cloud = np.isin(scl, (3, 8, 9, 10))
    reach = int(radius)
    padded = np.pad(cloud, reach)
    near = np.zeros_like(cloud)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= radius * radius:
                near |= padded[
                    reach + dy : reach + dy + scl.shape[0], reach + dx : reach + dx + scl.shape[1]
                ]
    return good & ~near


def of_scenes(x: np.ndarray, y: np.ndarray, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Grid centres in the scenes' own CRS, by pyproj."""
    px, py = Transformer.from_crs(crs, "EPSG:32633", always_xy=True).transform(x, y)
    return px, py


def bilinear(item: Item, name: str, px: np.ndarray, py: np.ndarray) -> np.ndarray:
    """Exact bilinear values by numpy at places `of_scenes`; NaN unless all 4 pixels are data."""
    values = pixels(item, name).astype(float)
    values[values == 0] = np.nan
    left, top = CORNER[str(item.tile)]
    col, row = (px - left) / 120 - 0.5, (top - py) / 120 - 0.5
    c, r = np.floor(col).astype(int), np.floor(row).astype(int)
    inside = (c >= 0) & (r >= 0) & (c < SIDE - 1) & (r < SIDE - 1)
    c, r = np.clip(c, 0, SIDE - 2), np.clip(r, 0, SIDE - 2)
    u, v = col - c, row - r
    exact = (
        values[r, c] * (1 - u) * (1 - v)
        + values[r, c + 1] * u * (1 - v)
        + values[r + 1, c] * (1 - u) * v
        + values[r + 1, c + 1] * u * v
    )
    return np.where(inside, exact, np.nan)
