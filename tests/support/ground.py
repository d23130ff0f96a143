"""Rasters of made-up ground, and features of them, opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import TypeAdapter

from engine.features.opening import open_features
from engine.grid.area import Area
from engine.recipes.features import Features

UTM = "EPSG:32633"
WEST, NORTH = 500_000.0, 5_800_000.0
ANCHOR = (0.0, 0.0)


def write_raster(path: Path, values: Any, at: Affine, crs: str | None = UTM, **more: Any) -> Path:
    """A GeoTIFF of one band, and of several where values have three dims."""
    values = np.asarray(values)
    bands = values[None] if values.ndim == 2 else values
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=values.dtype,
        crs=crs, transform=at, **more,
    ) as file:  # fmt: skip
        file.write(bands)
    return path


def area_of(box: GeoBox) -> Area:
    return Area(shapely.box(*box.boundingbox.bbox), str(box.crs))


def cells(
    rows: int, cols: int, side: float = 10.0, west: float = WEST, north: float = NORTH,
    crs: str = UTM,
) -> GeoBox:  # fmt: skip
    return GeoBox((rows, cols), Affine(side, 0, west, 0, -side, north), crs)


def opened(box: GeoBox, *told: dict[str, Any], year: int = 2020) -> tuple[Any, ...]:
    """The features of a recipe's section, for the area of a window."""
    wanted = TypeAdapter(Features).validate_python(list(told))
    return open_features(
        wanted, Path(), area_of(box), year, anchor=ANCHOR, resolution=box.resolution.x
    )
