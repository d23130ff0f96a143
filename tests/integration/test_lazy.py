"""stackstac's lazy cube against the block reader; and the traps it is wrapped against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from maribor import BANDS, CORNER, items
from odc.geo.geobox import GeoBox

import engine
from engine.cube.lazy import _plain, lazy_cube
from engine.cube.read import read_asset
from engine.items import SCL

NAMES = list(BANDS)


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
            dn, valid = read_asset(item, name, box, (west, north))
            expected = np.where(valid, dn.astype(int) + 1000, 0)
            assert (cube.bands.values[t, b] == expected).all()
        scl, inside = read_asset(item, SCL, box, (west, north))
        assert (cube.scl.values[t] == np.where(inside, scl, 0)).all()


def test_elsewhere_it_deviates_and_says_so(data: Path) -> None:
    """Why runs do not use it: the same pixel differs from the pinned reader."""
    found = items(data, "33TWM")[:1]
    bounds = (4_740_000.0, 2_556_000.0, 4_776_000.0, 2_592_000.0)
    cube = lazy_cube(found, ["B02"], crs="EPSG:3035", resolution=120, bounds=bounds).compute()
    box = GeoBox((300, 300), Affine(120, 0, bounds[0], 0, -120, bounds[3]), "EPSG:3035")
    dn, valid = read_asset(found[0], "B02", box, (0.0, 0.0))
    both = valid & (cube.bands.values[0, 0] > 0)
    assert both.sum() > 10_000
    off = np.abs(cube.bands.values[0, 0][both].astype(int) - 1000 - dn[both])
    assert 0 < off.max() < 1000
    assert np.median(off) < 30


def test_items_are_said_in_stackstac_s_own_terms(data: Path) -> None:
    """proj:epsg, not proj:code; no scale or offset that it would ignore; a place for bare files."""
    plain = _plain(items(data, "33TWM")[0], ["B02"])
    asset = plain["assets"]["B02"]
    assert plain["properties"]["proj:epsg"] == asset["proj:epsg"] == 32633
    assert asset["raster:bands"] == [{"scale": 1.0, "offset": 0.0, "nodata": 0}]
    assert asset["href"].startswith("vrt://")


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
    with pytest.raises(engine.errors.GridError, match="EPSG code"):  # type: ignore[attr-defined]
        lazy_cube(
            items(data, "33TWM")[:1],
            ["B02"],
            crs="+proj=laea +lat_0=47 +lon_0=15.5 +units=m",
            resolution=120,
            bounds=(0, 0, 1200, 1200),
        )
