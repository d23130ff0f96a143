"""Scenes of noise over a country: cheap where a test counts bytes and tiles, not what is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.features import geometry_mask

from engine.grid.area import reproject
from engine.items import SCL, common_name
from engine.synthetic.country import Country, to_degrees
from engine.synthetic.materials import BANDS
from engine.synthetic.scene import CRS, FINE, Overpass

_UTM, _BEYOND, _VEGETATION = 32633, 2_000, 4


def write_noise(country: Country, folder: Path) -> None:
    """One item in the form of Earth Search for each overpass, its files and its swath."""
    folder.mkdir(parents=True)
    ground = shapely.box(*country.bounds).buffer(_BEYOND, join_style="mitre")
    bounds = np.array(reproject(ground, CRS, f"EPSG:{_UTM}").bounds)
    left, bottom, right, top = (np.round(bounds / 20) * 20).tolist()
    for overpass in country.overpasses:
        _write(overpass, shapely.box(left, bottom, right, top), folder)


def _write(overpass: Overpass, frame: shapely.Polygon, folder: Path) -> None:
    name = f"S2A_33UUR_{overpass.when:%Y%m%d}_0_L2A"
    rng = np.random.default_rng(overpass.day)
    seen = shapely.intersection(reproject(frame, f"EPSG:{_UTM}", CRS), overpass.swath)
    left, bottom, right, top = frame.bounds
    assets: dict[str, Any] = {}
    for band in (*BANDS, SCL):
        side = 10 if band in FINE else 20
        place = Affine(side, 0, left, 0, -side, top)
        shape = round((top - bottom) / side), round((right - left) / side)
        values = rng.integers(300, 3000, shape).astype(np.uint16) + np.uint16(overpass.shift)
        if band == SCL:
            values = np.full(shape, _VEGETATION, np.uint8)
        beyond = geometry_mask([reproject(seen, CRS, f"EPSG:{_UTM}")], shape, place)
        form = {"height": shape[0], "width": shape[1], "count": 1, "dtype": values.dtype}
        file = f"{name}_{'scl' if band == SCL else common_name(band)}.tif"
        with rasterio.open(
            folder / file, "w", driver="GTiff", crs=f"EPSG:{_UTM}", transform=place, nodata=0,
            tiled=True, blockxsize=64, blockysize=64, compress="deflate", **form,
        ) as out:  # fmt: skip
            out.write(np.where(beyond, 0, values).astype(values.dtype), 1)
        offset = {"scale": 0.0001, "offset": -0.1 if overpass.shift else 0.0}
        assets[file.removeprefix(f"{name}_").removesuffix(".tif")] = {
            "href": f"./{file}",
            "proj:shape": list(shape),
            "proj:transform": list(place)[:6],
            "raster:bands": [{"nodata": 0} | (offset if band != SCL else {})],
        }
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "bbox": list(to_degrees(seen).bounds),
        "geometry": json.loads(shapely.to_geojson(to_degrees(seen))),
        "properties": {
            "datetime": f"{overpass.when:%Y-%m-%dT%H:%M:%SZ}",
            "created": f"{overpass.when:%Y-%m-%dT%H:%M:%SZ}",
            "proj:epsg": _UTM,
            "s2:processing_baseline": overpass.baseline,
            "earthsearch:boa_offset_applied": False,
        },
        "links": [],
        "assets": assets,
    }
    (folder / f"{name}.json").write_text(json.dumps(item))
