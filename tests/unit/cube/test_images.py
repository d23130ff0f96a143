"""1 m frames onto the grid: which pixels are data, which frame wins, what is no image."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from rasterio.enums import ColorInterp
from rasterio.warp import transform_geom
from shapely.geometry import box, mapping

from engine.cube.images import Image, in_order, read_image
from engine.cube.source import open_source
from engine.errors import ReadError
from engine.items import Asset, Item

CRS = "EPSG:32633"
LEFT, TOP, SIDE = 400_000, 5_000_400, 60
BANDS = ("B04", "B03", "B02")
rng = np.random.default_rng(0)
PIXELS = rng.integers(1, 255, (4, SIDE, SIDE)).astype(np.uint8)


def frame(
    folder: Path,
    values: np.ndarray = PIXELS,
    name: str = "a",
    left: float = LEFT,
    bands: tuple[str, ...] = BANDS,
    alpha: bool = False,
    **more: Any,
) -> Item:
    """A frame on disk and its item, one file for all bands."""
    path = folder / f"{name}.tif"
    form = {
        "driver": "GTiff",
        "height": values.shape[1],
        "width": values.shape[2],
        "count": len(values),
        "dtype": values.dtype,
        "crs": CRS,
        "transform": Affine(1, 0, left, 0, -1, TOP),
        **more,
    }
    with rasterio.open(path, "w", **form) as file:
        file.write(values)
        if alpha:
            file.colorinterp = [
                ColorInterp.red,
                ColorInterp.green,
                ColorInterp.blue,
                ColorInterp.alpha,
            ]
    return Item(
        id=name,
        collection="photos",
        source="own",
        datetime=datetime(2021, 7, 9, tzinfo=UTC),
        bbox=(-180.0, -90.0, 180.0, 90.0),
        geometry=transform_geom(
            CRS, "EPSG:4326", mapping(box(left, TOP - SIDE, left + SIDE, TOP)), precision=9
        ),
        centroid_lon=0.0,
        stamp=name,
        assets={band: Asset(str(path), nodata=None, index=k) for k, band in enumerate(bands, 1)},
    )


def read(*items: Item, left: float = LEFT, side: int = SIDE, step: float = 1.0) -> Image:
    box = GeoBox((side, side), Affine(step, 0, left, 0, -step, TOP), CRS)
    return read_image(items, BANDS, box, (0.0, 0.0))


def test_pixels_come_as_they_are(tmp_path: Path) -> None:
    found = read(frame(tmp_path))
    np.testing.assert_array_equal(found.bands, PIXELS[:3])
    assert found.valid.all()
    assert not found.failures
    assert found.fetched > 0


def test_beyond_the_frame_there_is_nothing_and_the_first_frame_wins(tmp_path: Path) -> None:
    other = PIXELS[::-1].copy()
    items = [frame(tmp_path), frame(tmp_path, other, "b", LEFT + 40)]
    found = read(*items, side=120)
    assert found.valid[:60, :100].all()
    assert not found.valid[60:].any()
    assert not found.valid[:, 100:].any()
    np.testing.assert_array_equal(found.bands[:, :60, :60], PIXELS[:3])
    np.testing.assert_array_equal(found.bands[:, :60, 60:100], other[:3, :, 20:])
    assert not found.bands[:, ~found.valid].any()


def test_the_order_of_a_mosaic_is_told(tmp_path: Path) -> None:
    day = datetime(2021, 7, 9, tzinfo=UTC)
    frames = [
        replace(frame(tmp_path, name=name), datetime=day.replace(year=year), off_nadir=aside)
        for name, year, aside in [("a", 2019, 2.0), ("b", 2021, None), ("c", 2020, -1.0)]
    ] + [replace(frame(tmp_path, name="d"), datetime=day.replace(year=2021))]
    assert [f.id for f in in_order(frames)] == ["b", "d", "c", "a"]
    assert [f.id for f in in_order(frames, "nadir")] == ["c", "a", "b", "d"]
    assert [f.id for f in in_order(frames, ("a", "d"))] == ["a", "d", "b", "c"]


def test_black_in_one_band_is_no_gap_and_nodata_in_all_is(tmp_path: Path) -> None:
    values = PIXELS[:3].copy()
    values[0, 5, 5] = 0
    values[:, 7, 7] = 0
    plain = read(frame(tmp_path, values))
    assert plain.valid.all()  # nothing is declared: zeros are data
    declared = read(frame(tmp_path, values, nodata=0))
    assert declared.valid[5, 5]
    assert not declared.valid[7, 7]
    assert declared.valid.sum() == SIDE**2 - 1


def test_an_alpha_band_says_where_data_is_unless_the_item_calls_it_a_band(tmp_path: Path) -> None:
    values = PIXELS.copy()
    values[3] = 255
    values[3, 10:20] = 0
    masked = read(frame(tmp_path, values, alpha=True))
    assert not masked.valid[10:20].any()
    assert masked.valid[:10].all()
    band = read(frame(tmp_path, values, alpha=True, bands=(*BANDS, "B08")))
    assert band.valid.all()


@pytest.mark.parametrize("of", ["nobody", "file", "item"])
@pytest.mark.parametrize("kind", ["alpha", "mask"])
def test_alpha_and_mask_go_before_nodata(tmp_path: Path, kind: str, of: str) -> None:
    values = PIXELS[:3].copy()
    values[0, 5] = 0  # opaque and without red: data
    values[:, 7] = 0  # opaque and black: data all the same
    opaque = np.full((SIDE, SIDE), 255, np.uint8)
    opaque[10:20] = 0  # transparent and coloured: none
    nodata = {"nodata": 0} if of == "file" else {}
    if kind == "alpha":
        item = frame(tmp_path, np.concatenate([values, opaque[None]]), alpha=True, **nodata)
    else:
        item = frame(tmp_path, values, **nodata)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(tmp_path / "a.tif", "r+") as file,
        ):
            file.write_mask(opaque)
    if of == "item":
        assets = {band: replace(asset, nodata=0.0) for band, asset in item.assets.items()}
        item = replace(item, assets=assets)
    found = read(item)
    np.testing.assert_array_equal(found.valid, opaque > 0)
    np.testing.assert_array_equal(found.bands, np.where(opaque > 0, values, 0))


def test_nodata_of_all_bands_together_gives_way_to_the_item_s(tmp_path: Path) -> None:
    values = PIXELS[:3].copy()
    values[:, 5], values[:, 7] = [[1], [2], [3]], 255
    item = frame(tmp_path, values)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.update_tags(NODATA_VALUES="1 2 3")
    assert [*np.flatnonzero(~read(item).valid.any(axis=1))] == [5]
    assets = {band: replace(asset, nodata=255.0) for band, asset in item.assets.items()}
    assert [*np.flatnonzero(~read(replace(item, assets=assets)).valid.any(axis=1))] == [7]


def test_a_band_of_another_file_is_no_claim_on_alpha(tmp_path: Path) -> None:
    values = PIXELS.copy()
    values[3] = 255
    values[3, 10:20] = 0
    item = frame(tmp_path, values, alpha=True)
    other = frame(tmp_path, PIXELS, "b", bands=(*BANDS, "B08"))
    found = read(replace(item, assets={**item.assets, "B08": other.assets["B08"]}))
    assert not found.valid[10:20].any()
    assert found.valid[:10].all()


def test_nodata_never_bleeds_into_its_neighbours(tmp_path: Path) -> None:
    values = np.full((3, SIDE, SIDE), 200, np.uint8)
    values[:, :, 30:] = 0
    item = frame(tmp_path, values, nodata=0)
    found = read(item, left=LEFT + 0.5, side=SIDE - 2)  # off the file's lattice: bilinear
    assert set(np.unique(found.bands[:, found.valid])) == {200}
    assert 28 <= found.valid[0].sum() <= 31


@pytest.mark.parametrize(
    ("values", "more", "words"),
    [
        (PIXELS.astype(np.uint16), {}, "uint16"),
        (PIXELS[:1], {}, "no such band"),
        (PIXELS[:3], {"colours": True}, "palette"),
        (PIXELS[:3], {"crs": None, "transform": None}, "no georeference"),
        (PIXELS[:3], {"cut": 0}, "cannot be read"),
        (PIXELS[:3], {"cut": 2000}, "cannot be read"),
    ],
)
def test_what_is_no_plain_image_is_a_recorded_failure(
    tmp_path: Path, values: np.ndarray, more: dict[str, Any], words: str
) -> None:
    if "colours" in more:
        item = frame(tmp_path, values[:1], bands=("B04",), photometric="palette")
        with rasterio.open(tmp_path / "a.tif", "r+") as file:
            file.write_colormap(1, {k: (k, 0, 0, 255) for k in range(256)})
        item = replace(item, assets=dict.fromkeys(BANDS, item.assets["B04"]))
    elif "cut" in more:  # a copy that broke off
        item = frame(tmp_path, values)
        os.truncate(tmp_path / "a.tif", more["cut"])
    else:
        item = frame(tmp_path, values, **more)
    found = read(item, frame(tmp_path, name="b", left=LEFT + 20))
    assert [f.item for f in found.failures] == ["a"]
    assert words in found.failures[0].error
    assert not found.failures[0].transient
    assert found.valid[:, 20:].all()  # the others are used all the same
    assert found.lost[1:-1, 1:19].all()
    assert not (found.lost & found.valid).any()


@pytest.mark.parametrize(("datum", "apart"), [("EPSG:4269", 0.0), ("EPSG:4314", 50.0)])
def test_frames_in_degrees_of_another_datum_are_no_special_case(
    tmp_path: Path, datum: str, apart: float
) -> None:
    step = 1 / 108_000  # a thirtieth of a second: about 1 m north
    move = Transformer.from_crs(CRS, datum, always_xy=True)
    west, north = move.transform(LEFT - 30.0, TOP + 30.0)
    same = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(LEFT - 30.0, TOP + 30.0)
    assert Geod(ellps="WGS84").inv(*same, west, north)[2] >= apart  # else the datum shows nothing
    rows, cols = np.mgrid[:160, :240]

    def wave(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        turn = 2 * np.pi / (40 * step)
        return 128 + 60 * np.sin(turn * (lon - west)) + 60 * np.cos(turn * (lat - north) / 1.3)

    values = wave(west + (cols + 0.5) * step, north - (rows + 0.5) * step)
    item = frame(
        tmp_path,
        np.repeat(values[None].round().astype(np.uint8), 3, 0),
        crs=datum,
        transform=Affine(step, 0, west, 0, -step, north),
    )
    found = read(item)
    assert found.valid.all()
    centres = np.arange(SIDE) + 0.5
    x, y = np.meshgrid(LEFT + centres, TOP - centres)
    truth = wave(*move.transform(x, y))
    assert np.abs(found.bands[0] - truth).max() < 3  # rounded, and a wave is no straight line


def test_a_turned_frame_is_a_recorded_failure(tmp_path: Path) -> None:
    turned = frame(tmp_path, transform=Affine(0.9, 0.4, LEFT, 0.4, -0.9, TOP))
    found = read(turned, frame(tmp_path, name="b"))
    assert [f.item for f in found.failures] == ["a"]
    assert "rotated" in found.failures[0].error
    assert found.valid.all()


def test_a_frame_that_is_there_twice_shows_once(tmp_path: Path) -> None:
    first, again = frame(tmp_path), frame(tmp_path, 255 - PIXELS, "b")
    np.testing.assert_array_equal(read(first, again).bands, PIXELS[:3])
    np.testing.assert_array_equal(read(again, first).bands, 255 - PIXELS[:3])


def sparse(path: Path, side: int, pixel: float, **more: Any) -> None:
    """A file of a few kilobytes that states any size: blocks that were never written are empty."""
    form = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint8"}
    at = Affine(pixel, 0, LEFT, 0, -pixel, TOP)
    with rasterio.open(path, "w", **form, crs=CRS, transform=at, SPARSE_OK=True, **more):
        pass
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("side", "pixel", "block", "said"),
    [
        (40_000, 1.0, 40_000, "a block of the file is too large"),
        (400_000, 1e-4, 8_192, "what is to be read of the file is too large"),
    ],
)
def test_a_small_file_of_a_huge_size_is_refused_before_memory_is_taken(
    tmp_path: Path, side: int, pixel: float, block: int, said: str
) -> None:
    item = frame(tmp_path)
    sparse(tmp_path / "a.tif", side, pixel, tiled=True, blockxsize=block, blockysize=block)
    item = replace(item, assets={"B04": item.assets["B04"]})
    tracemalloc.start()
    grid = GeoBox((60, 60), Affine(1, 0, LEFT, 0, -1, TOP), CRS)
    found = read_image([item], BANDS[:1], grid, (0.0, 0.0))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any(said in str(failure) for failure in found.failures), found.failures
    assert not found.valid.any()
    assert most < 100e6


def test_a_smaller_copy_of_a_huge_file_is_bounded(tmp_path: Path) -> None:
    item = frame(tmp_path)
    sparse(tmp_path / "a.tif", 400_000, 10.0, tiled=True, blockxsize=8_192, blockysize=8_192)
    with open_source(str(tmp_path / "a.tif"), "B04", item) as source:
        assert source.decimate((10, 10)).shape == (10, 10)
        with pytest.raises(ReadError, match="to be read of the file is too large"):
            source.decimate((40_000, 40_000))


@pytest.mark.parametrize(
    ("media", "noted"),
    [
        (None, False),
        ("image/tiff; application=geotiff; profile=cloud-optimized", False),
        ("image/vnd.stac.geotiff", False),
        ("application/octet-stream", False),
        ("image/jp2", True),
        ("image/jpeg", True),
        ("application/x-hdf5", True),
    ],
)
def test_a_type_that_is_not_the_file_s_is_noted(
    tmp_path: Path, media: str | None, noted: bool
) -> None:
    item = frame(tmp_path)
    asset = replace(item.assets["B04"], media=media)
    with open_source(asset.href, "B04", replace(item, assets={"B04": asset})) as source:
        said = [note for note in source.notes if "of format GTiff" in note]
    assert len(said) == noted
    assert not noted or str(media) in said[0]


def test_a_pure_colour_in_files_of_their_own_is_data(tmp_path: Path) -> None:
    """Only where all bands have the number there is none, however many files they lie in."""
    values = np.zeros((3, SIDE, SIDE), np.uint8)
    values[0, :, 5:] = 200  # red beside black
    assets = {}
    for k, name in enumerate(BANDS):
        one = frame(tmp_path, values[k : k + 1], name, bands=(name,), nodata=0)
        assets[name] = one.assets[name]
    whole = replace(one, id="a", assets=assets)
    image = read(whole)
    assert image.valid[:, 5:].all()
    assert not image.valid[:, :5].any()
    np.testing.assert_array_equal(image.bands[0][:, 5:], 200)
