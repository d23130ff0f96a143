"""Resampling against GDAL with exact coordinates, and against a pixel-by-pixel reading."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from engine.cube.radiometry import encode, lay
from engine.cube.warp import BLOCK, Block, Frame, Piece, crs_text, extent, pieces_of, place, take

GRID = "EPSG:32632"
WEST, NORTH = 820_000.0, 5_120_000.0  # 10.1 and 4.1 degrees off the two zones' middles


def frame(step: float, side: int, crs: str = "EPSG:32633") -> Frame:
    x, y = Transformer.from_crs(GRID, crs, always_xy=True).transform(WEST, NORTH)
    # twice the piece, so that its turned corners lie inside
    corner = round(x) - 0.3 * side * step, round(y) + 0.3 * side * step
    return Frame(crs, (step, -step), corner, (side, side), True)


def block(resolution: float = 10.0, row: int = 0, col: int = 0) -> Block:
    return Block(GRID, resolution, (WEST, NORTH), row, col)


WHOLE = slice(0, BLOCK), slice(0, BLOCK)


def brute(values: np.ndarray, x: float, y: float, rx: float, ry: float, nodata: float) -> float:
    """A tent of the given radius over valid pixels; nan where the centre's pixel is not valid."""
    rows, cols = values.shape
    r, c = math.floor(y + 1e-6), math.floor(x + 1e-6)
    if not (0 <= r < rows and 0 <= c < cols) or values[r, c] == nodata:
        return math.nan
    total = weight = 0.0
    for i in range(math.floor(y - ry) - 1, math.ceil(y + ry) + 1):
        for j in range(math.floor(x - rx) - 1, math.ceil(x + rx) + 1):
            if 0 <= i < rows and 0 <= j < cols and values[i, j] != nodata:
                w = max(0, 1 - abs(i + 0.5 - y) / ry) * max(0, 1 - abs(j + 0.5 - x) / rx)
                total, weight = total + w * values[i, j], weight + w
    return total / weight


@pytest.mark.parametrize("step", [10.0, 20.0, 60.0, 4.0, 3.0])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_each_pixel_is_a_tent_over_the_valid_ones(step: float, dtype: str) -> None:
    rng = np.random.default_rng(int(step))
    source = frame(step, round(max(600 / step, 60)))
    values = rng.integers(1, 9000, source.shape).astype(dtype)
    values[rng.random(source.shape) < 0.1] = 0
    piece = Piece(block(), slice(0, 80), slice(0, 90))
    at = place(piece, source)
    x, y = at.x, at.y
    made, valid = take(values, (0, 0), at, source, 10.0, nearest=False, nodata=0.0)
    assert made.dtype == dtype
    rx, ry = source.radius(10.0)
    assert rx == ry == max(10.0 / step, 1.0)
    seen = 0
    for i, j in zip(rng.integers(0, 80, 1500), rng.integers(0, 90, 1500), strict=True):
        expected = brute(values, x[i, j], y[i, j], rx, ry, 0.0)
        assert valid[i, j] == (not math.isnan(expected))
        if valid[i, j]:
            assert abs(made[i, j] - expected) <= (0.501 if dtype != "float32" else 0.001)
            seen += 1
    assert seen > 100


def test_coordinates_are_exact_to_a_ten_thousandth_of_a_pixel() -> None:
    every = np.arange(BLOCK)
    for row, col in ((0, 0), (1200, 4400), (-400, -2000)):
        source = frame(10.0, 5000)
        at = place(Piece(block(row=row, col=col), *WHOLE), source)
        x, y = at.x, at.y
        xx, yy = np.meshgrid(WEST + (col + every + 0.5) * 10, NORTH - (row + every + 0.5) * 10)
        px, py = Transformer.from_crs(GRID, source.crs, always_xy=True).transform(xx, yy)
        assert np.abs(x - (px - source.corner[0]) / 10).max() < 1e-4
        assert np.abs(y - (source.corner[1] - py) / 10).max() < 1e-4


def test_where_interpolation_is_not_enough_every_pixel_is_projected() -> None:
    """Beside the pole degrees of longitude turn too fast for nodes 20 pixels apart."""
    polar = Block("EPSG:3413", 1000.0, (0.0, 0.0), -200, -200)
    degrees = Frame("EPSG:4326", (0.01, -0.01), (-180.0, 90.0), (18000, 36000), False)
    at = place(Piece(polar, *WHOLE), degrees)
    x, y = at.x, at.y
    every = np.arange(BLOCK)
    xx, yy = np.meshgrid((-200 + every + 0.5) * 1000.0, -(-200 + every + 0.5) * 1000.0)
    lon, lat = Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True).transform(xx, yy)
    assert np.abs(x - (lon + 180) * 100).max() < 1e-6
    assert np.abs(y - (90 - lat) * 100).max() < 1e-6


def test_a_block_outside_the_projection_s_domain_lies_nowhere() -> None:
    far = Block("EPSG:3035", 1000.0, (4_321_000.0 - 3e7, 3_210_000.0), 0, 0)
    world = Frame("EPSG:4326", (0.01, -0.01), (-180.0, 90.0), (18000, 36000), False)
    at = place(Piece(far, *WHOLE), world)
    assert (at.x < -1e8).all()
    assert extent(far, world) is None
    for nearest in (False, True):
        _, valid = take(np.ones((9, 9)), (0, 0), at, world, 1000.0, nearest=nearest)
        assert not valid.any()


@pytest.mark.parametrize("step", [10.0, 20.0])
def test_gdal_agrees(tmp_path: Path, step: float) -> None:
    """Up to GDAL's own approximation and its rounding of weights."""
    side = 900
    source = frame(step, side)
    smooth = np.add.outer(np.arange(side) * 7, np.arange(side) * 5) % 4000
    values = (smooth + 500).astype(np.uint16)
    path = tmp_path / "source.tif"
    at = Affine(step, 0, source.corner[0], 0, -step, source.corner[1])
    with rasterio.open(
        path, "w", "GTiff", side, side, 1, source.crs, at, "uint16", nodata=0
    ) as file:
        file.write(values, 1)
    piece = Piece(block(), *WHOLE)
    for nearest in (False, True):
        placed = place(piece, source)
        made, valid = take(values, (0, 0), placed, source, 10.0, nearest=nearest, nodata=0.0)
        with (
            rasterio.open(path) as file,
            WarpedVRT(
                file,
                crs=GRID,
                transform=Affine(10, 0, WEST, 0, -10, NORTH),
                width=BLOCK,
                height=BLOCK,
                resampling=Resampling.nearest if nearest else Resampling.bilinear,
                tolerance=0.0001,
                XSCALE=str(step / 10),
                YSCALE=str(step / 10),
                src_nodata=0,
                nodata=0,
            ) as warped,
        ):
            theirs = warped.read(1)
        assert ((theirs != 0) == valid).mean() > 0.9999
        both = valid & (theirs != 0)
        off = np.abs(made[both].astype(int) - theirs[both])
        # a coordinate on the very edge of two pixels may fall to either side
        assert np.quantile(off, 0.999) <= 1


def test_the_window_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    source = frame(20.0, 400)
    values = rng.integers(0, 3000, source.shape).astype(np.uint16)
    at = place(Piece(block(), *WHOLE), source)
    whole, valid = take(values, (0, 0), at, source, 10.0, nearest=False, nodata=0.0)
    for _ in range(10):
        top, left = rng.integers(0, 350, 2)
        bottom, right = top + rng.integers(1, 50), left + rng.integers(1, 50)
        part = Piece(block(), slice(top, bottom), slice(left, right))
        made, seen = take(
            values, (0, 0), place(part, source), source, 10.0, nearest=False, nodata=0.0
        )
        assert (made[seen] == whole[top:bottom, left:right][seen]).all()
        assert (seen == valid[top:bottom, left:right]).all()


def test_pieces_tile_a_window_once() -> None:
    box = GeoBox((733, 1010), Affine(10, 0, WEST + 3170, 0, -10, NORTH + 5550), GRID)
    seen = np.zeros((733, 1010), int)
    for piece, here in pieces_of(box, (WEST, NORTH)):
        seen[here] += 1
        assert piece.block.row % BLOCK == piece.block.col % BLOCK == 0
        assert 0 <= piece.rows.start < piece.rows.stop <= BLOCK
        assert here[1].stop - here[1].start == piece.cols.stop - piece.cols.start
        row0 = round((NORTH - box.transform.f) / 10)
        assert piece.block.row + piece.rows.start == row0 + here[0].start
    assert (seen == 1).all()


def test_a_crs_has_one_text() -> None:
    wkt = rasterio.crs.CRS.from_epsg(32633).to_wkt()
    assert crs_text(wkt) == crs_text("EPSG:32633") == crs_text(rasterio.crs.CRS.from_epsg(32633))


def test_a_part_of_the_source_is_enough() -> None:
    """What is loaded for a piece gives the piece that the whole file gives."""
    rng = np.random.default_rng(4)
    source = frame(20.0, 400)
    values = rng.integers(0, 3000, source.shape).astype(np.uint16)
    part = Piece(block(), slice(150, 260), slice(130, 300))
    at = place(part, source)
    x, y = at.x, at.y
    top, left = int(y.min()) - 2, int(x.min()) - 2
    cut = values[top : int(y.max()) + 3, left : int(x.max()) + 3]
    how = {"nearest": False, "nodata": 0.0}
    made, seen = take(cut, (top, left), at, source, 10.0, **how)
    whole, valid = take(values, (0, 0), at, source, 10.0, **how)
    assert valid.all() == (values > 0).all()
    assert (made == whole).all()
    assert (seen == valid).all()


@pytest.mark.parametrize("nodata", [None, math.nan, -9999.0, 70000.0, 0.5])
def test_nodata_that_a_type_cannot_hold_marks_nothing(nodata: float | None) -> None:
    source = frame(10.0, 60)
    at = place(Piece(block(), slice(5, 20), slice(5, 20)), source)
    x, y = at.x, at.y
    values = np.zeros(source.shape, np.uint16)
    _, valid = take(values, (0, 0), at, source, 10.0, nearest=False, nodata=nodata)
    inside = (x >= 0) & (y >= 0) & (x < 60) & (y < 60)
    assert inside.any()
    assert (valid == inside).all()
    floats = np.full(source.shape, np.nan, np.float32)
    _, valid = take(floats, (0, 0), at, source, 10.0, nearest=True, nodata=nodata)
    assert not valid.any()


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1e-4, -0.1), (2e-4, 0.05), (1.0, 0)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_one_pass_encodes_as_encode_does(scale: float, offset: float, dtype: str) -> None:
    rng = np.random.default_rng(5)
    dn = rng.integers(0, 250 if dtype == "uint8" else 30_000, (60, 70)).astype(dtype)
    where = rng.random(dn.shape) < 0.7
    into = np.full(dn.shape, 77, np.uint16)
    lay(dn, where, scale, offset, into)
    assert (into[where] == encode(dn, scale, offset, where)[where]).all()
    assert (into[~where] == 77).all()
