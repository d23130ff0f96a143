"""Rasters as features: every pixel against a look-up of its points one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.enums import ColorInterp
from support.ground import ANCHOR, NORTH, UTM, WEST, cells, opened, write_raster

from engine.features.files import check_raster

RNG = np.random.default_rng(4)


def looked_up(
    values: np.ndarray, at: Affine, crs: str, box: Any, parts: int, period: float = 0.0
) -> np.ndarray:
    """Values (y, x, parts * parts) of the pixels that hold the points, NaN where there is none."""
    height, width = box.shape
    move = Transformer.from_crs(str(box.crs), crs, always_xy=True)
    rows, cols = np.mgrid[: height * parts, : width * parts] + 0.5
    x, y = move.transform(*(box.transform * Affine.scale(1 / parts) * (cols, rows)))
    col, row = ~at * (x, y)
    if period:
        col = col % period
    inside = (col >= 0) & (col < values.shape[1]) & (row >= 0) & (row < values.shape[0])
    i, j = np.where(inside, row, 0).astype(int), np.where(inside, col, 0).astype(int)
    points = np.where(inside, values[i, j], np.nan)
    parted = points.reshape(height, parts, width, parts).transpose(0, 2, 1, 3)
    return parted.reshape(height, width, -1)


def require_statistics(read: Any, points: np.ndarray, most_off: float = 0.0) -> None:
    """Mean, deviation, maximum and what is known, of all pixels but a few: where projections are
    interpolated, a point on an edge may fall on its other side."""
    some = ~np.isnan(points)
    count = some.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(some, points, 0).sum(-1) / count
        std = np.sqrt((np.where(some, points - mean[..., None], 0) ** 2).sum(-1) / count)
    most = np.where(some, points, -np.inf).max(-1)
    most[count == 0] = np.nan
    wanted = np.stack([mean, std, most])
    right = np.isclose(read.values, wanted, rtol=1e-5, atol=1e-5, equal_nan=True).all(0)
    right &= np.isclose(read.known, some.mean(-1))
    assert (~right).mean() <= most_off
    assert count.astype(bool).mean() > 0


@pytest.mark.parametrize(
    ("resolution", "step", "shape", "parts"),
    [
        (10.0, 1.0, (330, 270), 10),
        (10.0, 30.0, (12, 9), 1),
        (10.0, 3.7, (90, 70), 6),
        (10.0, 23.0, (14, 12), 1),
        (320.0, 10.0, (96, 96), 32),
    ],
)
def test_statistics_of_any_pixel_on_odd_windows(
    tmp_path: Path, resolution: float, step: float, shape: tuple[int, int], parts: int
) -> None:
    values = RNG.uniform(0, 90, shape).astype(np.float32)
    values[RNG.random(shape) < 0.15] = -9999
    corner = WEST - 4 * step, NORTH + 2 * step
    at = Affine(step, 0, corner[0], 0, -step, corner[1])
    path = write_raster(tmp_path / "h.tif", values, at, nodata=-9999)
    # a window on the lattice of the grid, which the file's corner need not lie on
    north = NORTH // resolution * resolution
    box = cells(3 if resolution > 100 else 37, 2 if resolution > 100 else 29, resolution,
                WEST // resolution * resolution, north)  # fmt: skip
    told = {"name": "h", "kind": "heights", "path": str(path), "year": 2020}
    (source,) = opened(box, told | {"statistics": ["mean", "std", "max"]})
    assert source.reader.lookup.parts(resolution) == parts
    found = source.reader.read(box, ANCHOR)
    values[values == -9999] = np.nan
    points = looked_up(values, at, UTM, box, parts)
    require_statistics(found._replace(values=found.values[:3]), points)
    share = (points > 0).sum(-1) / np.maximum((~np.isnan(points)).sum(-1), 1)
    known = found.known > 0
    np.testing.assert_allclose(found.values[3][known], share[known], rtol=1e-6)


@pytest.mark.parametrize("kind", ["degrees", "south up", "rotated", "other zone", "feet"])
def test_any_crs_and_direction(tmp_path: Path, kind: str) -> None:
    box = cells(40, 40)
    shape = (150, 160)
    values = RNG.uniform(0, 90, shape).astype(np.float32)
    crs, at = {
        "degrees": ("EPSG:4326", Affine(5e-5, 0, 14.998, 0, -4e-5, 52.3525)),
        "south up": (UTM, Affine(4, 0, WEST - 30, 0, 4, NORTH - 450)),
        "rotated": (UTM, Affine.translation(WEST + 100, NORTH + 180) * Affine.rotation(-40)
                    * Affine.scale(4, -4)),
        "other zone": ("EPSG:32634", None),
        "feet": ("EPSG:2263", None),
    }[kind]  # fmt: skip
    if at is None:
        if kind == "feet":  # New York
            box = cells(40, 40, 10, 585_000, 4_510_000, "EPSG:32618")
        move = Transformer.from_crs(str(box.crs), crs, always_xy=True)
        x, y = move.transform(box.transform.c, box.transform.f)
        step = 4 if kind == "other zone" else 13
        at = Affine(step, 0, x - 20 * step, 0, -step, y + 30 * step)
    path = write_raster(tmp_path / "h.tif", values, at, crs)
    told = {"name": "h", "kind": "values", "path": str(path), "year": 2020, "range": [0, 100]}
    (source,) = opened(box, told)
    parts = source.reader.lookup.parts(10.0)
    assert parts >= 5
    points = looked_up(values, at, crs, box, parts)
    require_statistics(source.reader.read(box, ANCHOR), points, 0.01)


@pytest.mark.parametrize("first", [170.0, -180.0])
def test_about_180_degrees(tmp_path: Path, first: float) -> None:
    """A file that goes on beyond 180, and one of the globe that is cut there."""
    crs = "EPSG:32601"
    move = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = move.transform(180.0, -17.0)
    box = cells(20, 60, 10, round(x / 10) * 10 - 300, round(y / 10) * 10, "EPSG:32601")
    step = 0.0005 if first == 170.0 else 0.002
    width = round((20.0 if first == 170.0 else 360.0) / step)
    values = RNG.uniform(0, 9, (8, width)).astype(np.float32)
    at = Affine(step, 0, first, 0, -step, -16.998)
    path = write_raster(tmp_path / "h.tif", values, at, "EPSG:4326", tiled=True)
    told = {"name": "h", "kind": "values", "path": str(path), "year": 2020, "range": [0, 100]}
    (source,) = opened(box, told)
    found = source.reader.read(box, ANCHOR)
    parts = source.reader.lookup.parts(10.0)
    points = looked_up(values, at, "EPSG:4326", box, parts, 360 / step)
    require_statistics(found, points, 0.01)
    assert found.known[-1].all() == (~np.isnan(points[-1])).all()
    assert source.stamp(tuple(box.boundingbox.bbox)) != source.stamp((3e5, 9e6, 3.1e5, 9.1e6))


def test_what_a_file_says_of_no_data(tmp_path: Path) -> None:
    box = cells(6, 6)
    at = Affine(10, 0, WEST, 0, -10, NORTH)
    plain = np.arange(1, 37, dtype=np.float32).reshape(6, 6)
    hole = np.zeros((6, 6), bool)
    hole[2, 1:4] = True
    files: dict[str, tuple[Path, np.ndarray]] = {}
    for name, number in (("nodata", -1.0), ("nan", np.nan), ("inf", np.inf)):
        declared = {} if name == "inf" else {"nodata": number}
        path = write_raster(tmp_path / f"{name}.tif", np.where(hole, number, plain), at, **declared)
        files[name] = path, plain
    whole = np.where(hole, 255, plain).astype(np.uint8)
    files["bytes"] = write_raster(tmp_path / "b.tif", whole, at, nodata=255), plain
    path = write_raster(tmp_path / "mask.tif", plain, at)
    with rasterio.open(path, "r+") as file:
        file.write_mask(np.where(hole, 0, 255).astype(np.uint8))
    files["mask"] = path, plain
    alpha = np.stack([plain.astype(np.uint8), np.where(hole, 0, 255).astype(np.uint8)])
    path = write_raster(tmp_path / "alpha.tif", alpha, at)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    files["alpha"] = path, plain
    path = write_raster(tmp_path / "scale.tif", whole.astype(np.int16) * 2, at, nodata=510)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.25,), (3.0,)
    files["scale"] = path, plain / 2 + 3
    files["range"] = write_raster(tmp_path / "r.tif", np.where(hole, -9999, plain), at), plain
    for name, (path, wanted) in files.items():
        told = {"name": "h", "kind": "values", "path": str(path), "year": 2020, "range": [0, 100]}
        (source,) = opened(box, told)
        found = source.reader.read(box, ANCHOR)
        np.testing.assert_array_equal(found.known, ~hole, err_msg=name)
        np.testing.assert_allclose(found.values[0], np.where(hole, np.nan, wanted), err_msg=name)


def test_absent_is_said_and_never_guessed(tmp_path: Path) -> None:
    box = cells(4, 8)
    at = Affine(10, 0, WEST, 0, -10, NORTH)
    values = np.array([[-1, 3, -1, 9]] * 4, np.float32)
    path = write_raster(tmp_path / "h.tif", values, at, nodata=-1)
    told = {"name": "h", "kind": "heights", "path": str(path), "year": 2020, "above": 2}
    (unknown,), (none,) = opened(box, told), opened(box, told | {"absent": 0})
    found = unknown.reader.read(box, ANCHOR)
    assert found.known[0].tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    found = none.reader.read(box, ANCHOR)
    assert found.known[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]  # beyond the file nothing is known
    assert found.values[0, 0, :4].tolist() == [0, 3, 0, 9]
    assert found.values[3, 0, :4].tolist() == [0, 1, 0, 1]


def test_percentiles_are_those_of_numpy(tmp_path: Path) -> None:
    values = RNG.uniform(0, 90, (60, 60))
    values[RNG.random(values.shape) < 0.3] = np.nan
    values[:10, :10] = np.nan
    path = write_raster(tmp_path / "h.tif", values, Affine(2, 0, WEST, 0, -2, NORTH))
    told = {"name": "h", "kind": "values", "path": str(path), "year": 2020, "range": [0, 100]}
    box = cells(12, 12)
    (source,) = opened(box, told | {"statistics": ["p90", "mean", "p10", "p50"]})
    found = source.reader.read(box, ANCHOR).values
    parts = values.reshape(12, 5, 12, 5).transpose(0, 2, 1, 3).reshape(12, 12, 25)
    assert np.isnan(found[:, :2, :2]).all()
    known = np.isfinite(parts).any(-1)
    for plane, percent in zip(found[[0, 2, 3]], (90, 10, 50), strict=True):
        wanted = np.nanpercentile(parts[known], percent, axis=-1)
        np.testing.assert_allclose(plane[known], wanted, rtol=1e-6)


def test_shares_of_classes(tmp_path: Path) -> None:
    box = cells(11, 13)
    at = Affine(2, 0, WEST, 0, -2, NORTH)
    codes = RNG.choice([0, 10, 50, 80], (55, 65)).astype(np.uint8)
    path = write_raster(tmp_path / "c.tif", codes, at, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {10: (0, 90, 0), 50: (255, 0, 0)})
    told = {"name": "c", "kind": "classes", "path": str(path), "year": 2020}
    (source,) = opened(box, told | {"classes": {"built": 50, "green": [10, 30]}})
    assert source.reader.channels == ("built", "green")
    found = source.reader.read(box, ANCHOR)
    parts = codes.reshape(11, 5, 13, 5)
    known = (parts != 0).sum((1, 3))
    np.testing.assert_allclose(found.known, known / 25)
    np.testing.assert_allclose(found.values[0], (parts == 50).sum((1, 3)) / known, rtol=1e-6)
    np.testing.assert_allclose(found.values[1], (parts == 10).sum((1, 3)) / known, rtol=1e-6)


def test_files_side_by_side_and_any_tiling(tmp_path: Path) -> None:
    """Windows, strips and files leave no trace: the same bytes as of one file at once."""
    values = RNG.uniform(0, 50, (300, 400)).astype(np.float32)
    values[RNG.random(values.shape) < 0.1] = np.nan
    at = Affine(2.5, 0, WEST - 90.3, 0, -2.5, NORTH + 60.7)
    whole = write_raster(tmp_path / "whole.tif", values, at)
    parts = [
        write_raster(tmp_path / f"{i}{j}.tif", values[i : i + 150, j : j + 200],
                     at * Affine.translation(j, i))
        for i in (0, 150) for j in (0, 200)
    ]  # fmt: skip
    box = cells(60, 80)
    told = {"name": "h", "kind": "heights", "year": 2020}
    (one,) = opened(box, told | {"path": str(whole)})
    (four,) = opened(box, told | {"path": [str(path) for path in parts]})
    found, other = one.reader.read(box, ANCHOR), four.reader.read(box, ANCHOR)
    assert found.values.tobytes() == other.values.tobytes()
    assert found.known.tobytes() == other.known.tobytes()
    for rows in (slice(0, 7), slice(7, 60)):
        for cols in (slice(0, 33), slice(33, 80)):
            part = one.reader.read(box[rows, cols], ANCHOR)
            assert part.values.tobytes() == found.values[:, rows, cols].tobytes()
            assert part.known.tobytes() == found.known[rows, cols].tobytes()


def test_a_far_finer_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.uniform(0, 50, (200, 200)).astype(np.float32)
    path = write_raster(tmp_path / "h.tif", values, Affine(1, 0, WEST, 0, -1, NORTH))
    box = cells(20, 20)
    told = {"name": "h", "kind": "values", "path": str(path), "year": 2020, "range": [0, 100]}
    (source,) = opened(box, told)
    whole = source.reader.read(box, ANCHOR)
    monkeypatch.setattr("engine.features.rasters._WINDOW", 900)
    assert source.reader.read(box, ANCHOR).values.tobytes() == whole.values.tobytes()


def test_another_file_is_another_stamp_near_it_alone(tmp_path: Path) -> None:
    values = np.ones((10, 10), np.float32)
    paths = [
        write_raster(tmp_path / f"{k}.tif", values, Affine(10, 0, WEST + k * 100, 0, -10, NORTH))
        for k in range(2)
    ]
    box = cells(10, 20)
    told = {"name": "h", "kind": "heights", "path": list(map(str, paths)), "year": 2020}
    (before,) = opened(box, told)
    write_raster(paths[1], values * 2, Affine(10, 0, WEST + 100, 0, -10, NORTH), nodata=7)
    (after,) = opened(box, told)
    west, east = ((WEST + k, NORTH - 90, WEST + k + 60, NORTH - 10) for k in (10, 130))
    assert before.stamp(west) == after.stamp(west)
    assert before.stamp(east) != after.stamp(east)
    with pytest.raises(Exception, match="has changed since the run began"):
        before.reader.read(box, ANCHOR)


def test_files_that_are_no_rasters_of_ground(tmp_path: Path) -> None:
    values = np.ones((4, 4), np.float32)
    at = Affine(10, 0, WEST, 0, -10, NORTH)
    with pytest.raises(Exception, match="no such file"):
        check_raster(str(tmp_path / "none.tif"), 1, classes=False)
    with pytest.raises(Exception, match="this machine alone"):
        check_raster("https://example.com/h.tif", 1, classes=False)
    good = write_raster(tmp_path / "good.tif", values, at)
    with pytest.raises(Exception, match="no such band"):
        check_raster(str(good), 2, classes=False)
    with pytest.raises(Exception, match="where it lies"):
        check_raster(str(write_raster(tmp_path / "p.tif", values, at, None)), 1, classes=False)
    complex_ = write_raster(tmp_path / "z.tif", values.astype(np.complex64), at)
    with pytest.raises(Exception, match="complex"):
        check_raster(str(complex_), 1, classes=False)
    fine = write_raster(tmp_path / "f.tif", values, Affine(0.1, 0, WEST, 0, -0.1, NORTH))
    with pytest.raises(Exception, match="too fine"):
        check_raster(str(fine), 1, classes=False)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(Exception, match="cannot be read"):
        check_raster(str(tmp_path / "text.tif"), 1, classes=False)
    palette = write_raster(tmp_path / "pal.tif", values.astype(np.uint8), at)
    with rasterio.open(palette, "r+") as file:
        file.write_colormap(1, {1: (0, 90, 0)})
    with pytest.raises(Exception, match="palette"):
        check_raster(str(palette), 1, classes=False)
    check_raster(str(palette), 1, classes=True)
