"""Slope from elevation, against planes whose slope is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from support.ground import ANCHOR, NORTH, UTM, WEST, cells, opened, write_raster

from engine.features.slope import slope_of

EAST, SOUTH = 0.3, 0.1  # metres that the plane rises in a metre
WANTED = np.degrees(np.arctan(np.hypot(EAST, SOUTH)))


def plane(at: Affine, shape: tuple[int, int], crs: str = UTM) -> np.ndarray:
    """A plane of the grid's CRS on the pixels of a file in another."""
    rows, cols = np.mgrid[: shape[0], : shape[1]] + 0.5
    x, y = at * (cols, rows)
    if crs != UTM:
        x, y = Transformer.from_crs(crs, UTM, always_xy=True).transform(x, y)
    return 500 + EAST * (x - WEST) - SOUTH * (y - NORTH)


@pytest.mark.parametrize(
    ("crs", "at", "shape", "off"),
    [
        (UTM, Affine(10, 0, WEST - 100, 0, -10, NORTH + 100), (80, 80), 1e-4),
        (UTM, Affine(1, 0, WEST - 50, 0, -1, NORTH + 50), (500, 500), 1e-4),
        (UTM, Affine(30, 0, WEST - 157, 0, -30, NORTH + 143), (40, 40), 1e-4),
        (UTM, Affine(25, 0, WEST - 100, 0, 25, NORTH - 900), (50, 50), 1e-4),
        ("EPSG:32634", Affine(12, 0, 90_000, 0, -12, 5_830_000), None, 0.02),
        ("EPSG:4326", Affine(0.0004, 0, 14.99, 0, -0.00025, 52.36), (80, 80), 0.02),
    ],
)
def test_a_plane_has_its_slope(
    tmp_path: Path, crs: str, at: Affine, shape: tuple[int, int] | None, off: float
) -> None:
    box = cells(30, 30)
    if shape is None:
        x, y = Transformer.from_crs(UTM, crs, always_xy=True).transform(WEST, NORTH)
        at, shape = Affine(12, 0, x - 200, 0, -12, y + 250), (80, 80)
    path = write_raster(tmp_path / "dem.tif", plane(at, shape, crs).astype(np.float32), at, crs)
    told = {"name": "s", "kind": "slope", "path": str(path), "year": 2015}
    for more in ({}, {"resolution": 10}, {"resolution": 50}, {"resolution": 5}):
        (source,) = opened(box, told | more)
        found = source.reader.read(box, ANCHOR)
        assert (found.known == 1).all()
        assert np.abs(found.values[0] - WANTED).max() <= off


def test_a_slope_is_known_where_all_about_it_is(tmp_path: Path) -> None:
    at = Affine(10, 0, WEST, 0, -10, NORTH)
    values = plane(at, (20, 20)).astype(np.float32)
    values[10, 10] = -9999
    path = write_raster(tmp_path / "dem.tif", values, at, nodata=-9999)
    box = cells(22, 22)
    (source,) = opened(box, {"name": "s", "kind": "slope", "path": str(path), "year": 2015})
    known = source.reader.read(box, ANCHOR).known
    wanted = np.zeros((22, 22))
    wanted[1:19, 1:19] = 1
    wanted[9:12, 9:12] = 0
    np.testing.assert_array_equal(known, wanted)


def test_whole_numbers_with_a_scale_make_no_steps(tmp_path: Path) -> None:
    """Interpolated values are not rounded to the file's type."""
    at = Affine(30, 0, WEST - 150, 0, -30, NORTH + 150)
    values = np.rint(plane(at, (40, 40)) * 100).astype(np.int32)
    path = write_raster(tmp_path / "dem.tif", values, at)
    with rasterio.open(path, "r+") as file:
        file.scales = (0.01,)
    box = cells(30, 30)
    (source,) = opened(
        box, {"name": "s", "kind": "slope", "path": str(path), "year": 2015, "resolution": 10}
    )
    assert np.abs(source.reader.read(box, ANCHOR).values[0] - WANTED).max() < 0.1


def test_cells_have_the_statistics_of_their_slopes_in_any_tiling(tmp_path: Path) -> None:
    at = Affine(10, 0, WEST - 200, 0, -10, NORTH + 200)
    values = np.random.default_rng(2).uniform(0, 30, (140, 140)).astype(np.float32)
    path = write_raster(tmp_path / "dem.tif", values, at)
    told = {"name": "s", "kind": "slope", "path": str(path), "year": 2015}
    box = cells(60, 60)
    (source,) = opened(box, told | {"statistics": ["mean", "std", "max"]})
    found = source.reader.read(box, ANCHOR)
    wanted = slope_of(values[19:81, 19:81].astype(np.float64), 10.0)
    np.testing.assert_allclose(found.values[0], wanted, rtol=1e-6)
    part = source.reader.read(box[13:41, 5:58], ANCHOR)
    assert part.values.tobytes() == found.values[:, 13:41, 5:58].tobytes()
    coarse = source.reader.read(cells(6, 6, 100.0), ANCHOR)
    parts = wanted.reshape(6, 10, 6, 10)
    np.testing.assert_allclose(coarse.values[0], parts.mean((1, 3)), rtol=1e-6)
    np.testing.assert_allclose(coarse.values[1], parts.std((1, 3)), rtol=1e-5)
    np.testing.assert_allclose(coarse.values[2], parts.max((1, 3)), rtol=1e-6)


def test_a_resolution_that_does_not_fit(tmp_path: Path) -> None:
    at = Affine(10, 0, WEST, 0, -10, NORTH)
    path = write_raster(tmp_path / "dem.tif", np.ones((9, 9), np.float32), at)
    told = {"name": "s", "kind": "slope", "path": str(path), "year": 2015, "resolution": 15}
    with pytest.raises(Exception, match="do not fit the grid"):
        opened(cells(5, 5), told)
