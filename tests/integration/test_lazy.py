"""stackstac's lazy cube against the block reader; and the traps it is wrapped against."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import stackstac
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from stackstac.raster_spec import RasterSpec
from support.maribor import BANDS, CORNER, items

import engine
from engine.catalog.cards import SourceCard
from engine.catalog.normalise import normalise
from engine.cube.lazy import BlockReader, lazy_cube
from engine.cube.radiometry import encode
from engine.cube.read import read_asset
from engine.errors import CatalogError, GridError
from engine.items import SCL, Item, unsigned

NAMES = list(BANDS)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def expected(item: Item, name: str, box: GeoBox, anchor: tuple[float, float]) -> Any:
    dn, valid = read_asset(item, name, box, anchor)
    if name == SCL:
        return np.where(valid, dn, 0)
    return encode(dn, item.assets[name].scale, item.assets[name].offset, valid)


def test_bit_equal_on_an_aligned_grid(data: Path) -> None:
    west, north = CORNER["33TWM"]
    found = items(data, "33TWM")[:2]
    bounds = (west + 12_000, north - 48_000, west + 60_000, north - 12_000)
    cube = lazy_cube(
        found, NAMES, crs="EPSG:32633", resolution=120, bounds=bounds, chunk=200
    ).compute()
    box = GeoBox((300, 400), Affine(120, 0, bounds[0], 0, -120, bounds[3]), "EPSG:32633")
    assert cube.bands.dtype == np.uint16
    for t, item in enumerate(found):
        for b, name in enumerate(NAMES):
            assert (cube.bands.values[t, b] == expected(item, name, box, (west, north))).all()
        assert (cube.scl.values[t] == expected(item, SCL, box, (west, north))).all()


LAEA = (4_740_000.0, 2_556_000.0, 4_776_000.0, 2_592_000.0)


def test_bit_equal_on_any_other_grid_whatever_the_chunks(data: Path) -> None:
    found = items(data, "33TWM", "33TWL")[4:6]
    box = GeoBox((300, 300), Affine(120, 0, LAEA[0], 0, -120, LAEA[3]), "EPSG:3035")
    for chunk in (300, 110):
        cube = lazy_cube(
            found,
            ["B02", "B08"],
            crs="EPSG:3035",
            resolution=120,
            bounds=LAEA,
            anchor=(0, 0),
            chunk=chunk,
        ).compute()
        for t, id_ in enumerate(cube.id.values):
            item = next(item for item in found if item.id == id_)
            for b, name in enumerate(("B02", "B08")):
                assert (cube.bands.values[t, b] == expected(item, name, box, (0, 0))).all()
            assert (cube.scl.values[t] == expected(item, SCL, box, (0, 0))).all()
    assert cube.bands.values.any(axis=(1, 2, 3)).any()


def test_stackstac_s_own_reader_deviates(data: Path) -> None:
    """Why it has ours: same pixels through GDAL's warp, by chunk and by our pinned coordinates."""
    item = items(data, "33TWM")[0]
    box = GeoBox((300, 300), Affine(120, 0, LAEA[0], 0, -120, LAEA[3]), "EPSG:3035")
    ours, valid = read_asset(item, "B02", box, (0, 0))
    asset = item.assets["B02"]
    assert asset.shape
    west, north = CORNER["33TWM"]
    corners = f"{west},{north},{west + asset.shape[1] * 10},{north - asset.shape[0] * 10}"
    plain = {
        "type": "Feature",
        "id": item.id,
        "bbox": list(item.bbox),
        "properties": {"datetime": item.datetime.isoformat(), "proj:epsg": 32633},
        "assets": {
            "B02": {"href": f"vrt://{asset.href}?a_srs={asset.crs}&a_ullr={corners}&a_nodata=0"}
        },
        "links": [],
    }
    how = {**HOW, "epsg": 3035, "resolution": 120, "bounds": LAEA}
    stock = stackstac.stack([plain], ["B02"], resampling=Resampling.bilinear, **how)
    theirs = stock.compute().values[0, 0]
    both = valid & (theirs > 0)
    assert both.sum() > 10_000
    off = np.abs(theirs[both].astype(int) - ours[both])
    assert 0 < off.max() < 1000
    assert off.mean() < 30


def test_the_reader_travels_with_one_item_only(data: Path) -> None:
    """A cube of a thousand items must not send all of them with each chunk."""
    found = items(data, "33TWM")
    reader = BlockReader(
        url=f"{found[3].id}/B02",
        spec=RasterSpec(32633, (0.0, 0.0, 1200.0, 1200.0), (120.0, 120.0)),
        items={item.id: item for item in found},
        anchor=(0.0, 0.0),
        sign=unsigned,
    )
    assert len(pickle.dumps(reader)) < 2 * len(pickle.dumps(found[3]))


def test_items_beside_the_cube_and_bands_of_some_items(data: Path) -> None:
    """stackstac drops items and bands without a word, and everything behind them moves up."""
    near, far = items(data, "33TWM")[0], items(data, "33TWL")[0]
    west, north = CORNER["33TWM"]
    bounds = (west + 12_000, north - 36_000, west + 36_000, north - 12_000)
    bare = copy.deepcopy(items(data, "33TWM")[1])
    bare.assets.pop("B03")
    cube = lazy_cube(
        [far, near, bare], ["B02", "B03", "B08"], crs="EPSG:32633", resolution=120, bounds=bounds
    ).compute()
    assert list(cube.id.values) == [near.id, bare.id]
    box = GeoBox((200, 200), Affine(120, 0, bounds[0], 0, -120, bounds[3]), "EPSG:32633")
    for b, name in enumerate(("B02", "B03", "B08")):
        assert (cube.bands.values[0, b] == expected(near, name, box, (west, north))).all()
    assert not cube.bands.values[1, 1].any()
    assert (cube.bands.values[1, 2] == expected(bare, "B08", box, (west, north))).all()
    with pytest.raises(CatalogError, match="no item has B05"):
        lazy_cube([near], ["B05"], crs="EPSG:32633", resolution=120, bounds=bounds)
    with pytest.raises(CatalogError, match="no item meets"):
        lazy_cube([far], ["B02"], crs="EPSG:32633", resolution=120, bounds=bounds)


def test_open_cube_searches_and_views(data: Path) -> None:
    cube = engine.open_cube(
        data / "sentinel2-maribor" / "catalog.json",
        (15.6, 46.3, 15.7, 46.4),
        ("2023-08-01", "2023-08-31"),
        ("blue", "B08"),
        crs="EPSG:32633",
        resolution=120,
    )
    assert cube.sizes["time"] == 5
    assert list(cube.band.values) == ["B02", "B08"]
    assert (cube.bands.isel(time=0).values > 0).any()


def test_a_crs_without_a_code_is_refused(data: Path) -> None:
    with pytest.raises(GridError, match="EPSG code"):
        lazy_cube(
            items(data, "33TWM")[:1],
            ["B02"],
            crs="+proj=laea +lat_0=47 +lon_0=15.5 +units=m",
            resolution=120,
            bounds=(0, 0, 1200, 1200),
        )


# -- the traps, one by one: what stackstac does when it is called straight, and what we give -------

HOW: dict[str, Any] = {
    "dtype": np.dtype("uint16"),
    "fill_value": np.uint16(0),
    "rescale": False,
    "snap_bounds": False,
}
CARD = SourceCard(
    name="own",
    title="own",
    licence="none",
    offset="flag-then-asset",
    assets={"B02": "B02", "SCL": "SCL"},
)
BOX = (500_000.0, 5_190_000.0, 500_400.0, 5_190_400.0)


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    """An item of STAC 1.1 with real files: 40 x 40 px of 10 m, B02 stripes, two SCL classes."""
    stripes = np.tile(np.array([2000, 3000], "uint16"), (40, 20))
    classes = np.where(np.arange(40) < 20, 4, 8).astype("uint8") * np.ones((40, 1), "uint8")
    at = Affine(10, 0, BOX[0], 0, -10, BOX[3])
    for name, values in {"B02": stripes, "SCL": classes}.items():
        with rasterio.open(
            tmp_path / f"{name}.tif",
            "w",
            driver="GTiff",
            width=40,
            height=40,
            count=1,
            dtype=values.dtype,
            crs="EPSG:32633",
            transform=at,
            nodata=0,
        ) as file:
            file.write(values, 1)
    place = {"proj:shape": [40, 40], "proj:transform": list(at)[:6]}
    ring = [[14.9, 46.8], [15.1, 46.8], [15.1, 46.9], [14.9, 46.9], [14.9, 46.8]]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "S2A_33TWM_20230801_0_L2A",
        "bbox": [14.9, 46.8, 15.1, 46.9],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": "2023-08-01T10:00:00Z",
            "proj:code": "EPSG:32633",
            "s2:processing_baseline": "05.09",
        },
        "assets": {
            "B02": {
                "href": str(tmp_path / "B02.tif"),
                "type": "image/tiff",
                "raster:scale": 1e-4,
                "raster:offset": -0.1,
                **place,
            },
            "SCL": {"href": str(tmp_path / "SCL.tif"), "type": "image/tiff", **place},
        },
        "links": [],
    }


@pytest.fixture
def epsg(raw: dict[str, Any]) -> dict[str, Any]:
    """The same item with the old field."""
    old = copy.deepcopy(raw)
    old["properties"]["proj:epsg"] = 32633
    return old


@pytest.fixture
def ours(raw: dict[str, Any]) -> Any:
    item = normalise(raw, CARD)
    return lazy_cube([item], ["B02"], crs="EPSG:32633", resolution=10, bounds=BOX).compute()


def test_trap_proj_code(raw: dict[str, Any], ours: Any) -> None:
    with pytest.raises(ValueError, match="Cannot pick a common CRS"):
        stackstac.stack([raw], ["B02"], **HOW)
    assert (ours.bands.values[0, 0, 0, :2] == [2000, 3000]).all()


def test_trap_explicit_epsg_forgets_shape_and_transform(raw: dict[str, Any], ours: Any) -> None:
    theirs = stackstac.stack([raw], ["B02"], epsg=32633, resolution=10, **HOW)
    assert theirs.sizes["x"] > 1000  # the footprint's bounds, not the file's 40 px
    assert (ours.sizes["y"], ours.sizes["x"]) == (40, 40)
    assert (float(ours.x[0]), float(ours.y[0])) == (BOX[0] + 5, BOX[3] - 5)


def test_trap_scale_and_offset_of_stac_1_1(epsg: dict[str, Any], ours: Any) -> None:
    theirs = stackstac.stack([epsg], ["B02"], resolution=10, rescale=True, snap_bounds=False)
    assert theirs.values[0, 0, 0, 0] == 2000  # not 0.1
    assert ours.bands.values[0, 0, 0, 0] * 1e-4 - 0.1 == pytest.approx(0.1)


def test_trap_fill_value(epsg: dict[str, Any], ours: Any) -> None:
    with pytest.raises(ValueError, match="fill_value 0 is incompatible"):
        stackstac.stack([epsg], ["B02"], resolution=10, **{**HOW, "fill_value": 0})
    assert ours.bands.dtype == np.uint16
    assert ours.scl.dtype == np.uint8


def test_trap_float32_with_rescale(epsg: dict[str, Any]) -> None:
    epsg["assets"]["B02"]["raster:bands"] = [{"scale": 1e-4, "offset": -0.1}]
    how = {"dtype": np.dtype("float32"), "fill_value": np.float32("nan"), "rescale": True}
    with pytest.raises(ValueError, match="safe casting cannot be completed"):
        stackstac.stack([epsg], ["B02"], resolution=10, **how)


def test_trap_epsg_is_an_int(epsg: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        stackstac.stack([epsg], ["B02"], epsg="EPSG:32633", resolution=10, **HOW)


def test_trap_one_resampling_for_all_assets(epsg: dict[str, Any], ours: Any) -> None:
    half = tuple(v + 5 for v in BOX)  # between pixels, so that classes are mixed
    how = {**HOW, "resolution": 10, "bounds": half, "resampling": Resampling.bilinear}
    theirs = stackstac.stack([epsg], ["B02", "SCL"], **how).compute()
    assert set(np.unique(theirs.values[0, 1])) - {0, 4, 8}
    assert set(np.unique(ours.scl.values)) == {4, 8}


def test_between_pixels_classes_stay_classes(raw: dict[str, Any]) -> None:
    half = (BOX[0] + 5, BOX[1] + 5, BOX[2] + 5, BOX[3] + 5)
    cube = lazy_cube([normalise(raw, CARD)], ["B02"], crs="EPSG:32633", resolution=10, bounds=half)
    assert set(np.unique(cube.scl.values)) <= {0, 4, 8}
    assert cube.bands.values[0, 0, 20, 20] == 2500
