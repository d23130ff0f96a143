"""Rasters of classes that are legal, odd, and cannot be read as what they show: refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import ColorInterp

from engine.compare.cells import evaluate
from engine.errors import LabelError, MetricError
from engine.labels.sampling import cells_of_raster

SIDE = 40
AT = Affine(100, 0, 400_000, 0, -100, 5_000_000)
CODES = np.random.default_rng(3).integers(1, 18, (SIDE, SIDE)).astype(np.uint8)


def write(path: Path, *bands: np.ndarray, transform: Affine = AT, **more: Any) -> Path:
    form = {"driver": "GTiff", "height": SIDE, "width": SIDE, "crs": "EPSG:32633"} | more
    kind = bands[0].dtype
    with rasterio.open(
        path, "w", **form, count=len(bands), dtype=kind, transform=transform
    ) as file:
        file.write(np.stack(bands))
    return path


def test_alpha_and_a_mask_together_are_refused(tmp_path: Path) -> None:
    """One of them would be passed over where the raster is moved to another grid."""
    shows = np.where(np.arange(SIDE) < 20, 255, 0).astype(np.uint8)
    path = write(tmp_path / "both.tif", CODES, np.broadcast_to(shows, CODES.shape))
    plain = write(tmp_path / "plain.tif", CODES)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = ColorInterp.gray, ColorInterp.alpha
    assert evaluate(plain, path).counts.sum() == evaluate(path, plain).counts.sum() == 800
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(np.broadcast_to(shows[:, None], CODES.shape))
    for one, other in ((plain, path), (path, plain)):
        with pytest.raises(MetricError, match="by alpha and by a mask"):
            evaluate(one, other)
    with pytest.raises(LabelError, match="by alpha and by a mask"):
        cells_of_raster(path, GeoBox((SIDE, SIDE), AT, "EPSG:32633"))


def test_complex_numbers_are_no_codes(tmp_path: Path) -> None:
    path = write(tmp_path / "complex.tif", CODES.astype(np.complex64))
    with pytest.raises(LabelError, match="complex"):
        cells_of_raster(path, GeoBox((SIDE, SIDE), AT, "EPSG:32633"))


def test_a_map_that_is_rotated_is_refused_and_a_reference_is_read(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.tif", CODES)
    turned = Affine(0, 100, AT.c, -100, 0, AT.f)  # rows run south
    path = write(tmp_path / "turned.tif", np.ascontiguousarray(CODES.T), transform=turned)
    assert np.trace(evaluate(plain, path).counts) == SIDE**2
    for odd in (turned, Affine.translation(AT.c, AT.f) * Affine.rotation(20) * Affine.scale(100)):
        write(path, CODES, transform=odd)
        with pytest.raises(MetricError, match="the map is rotated"):
            evaluate(path, plain)
    upside_down = Affine(100, 0, AT.c, 0, 100, AT.f - 100 * SIDE)
    write(path, CODES[::-1], transform=upside_down)
    assert np.trace(evaluate(path, plain).counts) == SIDE**2


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:3035"])
def test_the_pixel_that_holds_a_cell_s_centre_counts_in_any_system(
    tmp_path: Path, crs: str
) -> None:
    cells = GeoBox((SIDE, SIDE), AT, "EPSG:32633")
    move = Transformer.from_crs("EPSG:32633", crs, always_xy=True)
    west, south, east, north = move.transform_bounds(*cells.boundingbox.bbox)
    there = Affine((east - west) / SIDE, 0, west, 0, (south - north) / SIDE, north)
    path = write(tmp_path / "reference.tif", CODES, transform=there, crs=crs)
    found = cells_of_raster(path, cells)
    x, y = AT * (found["col"] + 0.5, found["row"] + 0.5)
    col, row = ~there * move.transform(x, y)
    at = [np.floor(k).astype(int).clip(0, SIDE - 1) for k in (row, col)]
    sure = (np.abs(row % 1 - 0.5) < 0.495) & (np.abs(col % 1 - 0.5) < 0.495)
    assert len(found) > 0.9 * SIDE**2
    np.testing.assert_array_equal(found["lcz"][sure], CODES[at[0], at[1]][sure])
