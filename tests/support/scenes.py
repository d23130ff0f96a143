"""Small made-up scenes in the form of Earth Search, with real files; and a recipe for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine

NAMES = ["B02", "B04"]
SIDE, WEST, NORTH = 96, 500_000.0, 5_200_000.0


def write_band(path: Path, values: np.ndarray, **more: Any) -> None:
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": values.shape[0],
        "width": values.shape[1],
        "count": 1,
        "dtype": values.dtype,
        "crs": "EPSG:32633",
        "transform": Affine(10, 0, WEST, 0, -10, NORTH),
        **more,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)


def scene(folder: Path, day: str = "2023-05-01", **changes: Any) -> dict[str, Any]:
    """A small made-up item in Earth Search form with its files."""
    name = f"S2A_33TWM_{day.replace('-', '')}_0_L2A"
    rng = np.random.default_rng(0)
    assets = {}
    for key in ("blue", "red", "scl"):
        values = rng.integers(300, 3000, (SIDE, SIDE)).astype(np.uint16)
        if key == "scl":
            values = np.full((SIDE, SIDE), changes.pop("scl", 4), np.uint8)
        path = folder / f"{name}_{key}.tif"
        write_band(path, values * changes.get("factor", 1))
        assets[key] = {"href": f"./{path.name}", "raster:bands": [{"nodata": 0}]}
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "bbox": [15.0, 46.93, 15.02, 46.96],
        "geometry": json.loads(shapely.to_geojson(shapely.box(14.99, 46.93, 15.03, 46.96))),
        "properties": {
            "datetime": f"{day}T10:00:00Z",
            "proj:epsg": 32633,
            "s2:processing_baseline": "05.09",
            "earthsearch:boa_offset_applied": True,
        },
        "links": [],
        "assets": assets,
    }
    (folder / f"{name}.json").write_text(json.dumps(item))
    return item


def catalogue(folder: Path, *items: dict[str, Any]) -> str:
    for item in items:
        (folder / f"{item['id']}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./{item['id']}.json"} for item in items]
    path = folder / "catalog.json"
    path.write_text(json.dumps({"type": "Catalog", "id": "x", "links": links}))
    return str(path)


def make_recipe(folder: Path) -> dict[str, Any]:
    """A recipe for one scene in a folder."""
    return {
        "name": "bad",
        "product": "lcz",
        "area": {"bbox": [15.001, 46.9455, 15.009, 46.9505]},
        "grid": {"crs": "EPSG:32633", "resolution": 10, "tile": 80},
        "imagery": {
            "catalog": catalogue(folder, scene(folder)),
            "period": "2023-05-01/2023-05-31",
            "bands": NAMES,
        },
        "store": str(folder / "store"),
    }


def changed(recipe: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(recipe))
    *parents, last = path.split(".")
    place = found
    for parent in parents:
        place = place[parent]
    place[last] = value
    return found
