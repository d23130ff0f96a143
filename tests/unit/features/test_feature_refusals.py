"""Files of features that are not what they are taken for: refused before work, or as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.enums import ColorInterp
from support.ground import ANCHOR, NORTH, UTM, WEST, cells, opened, write_raster
from support.osm_files import Osm
from support.refusals import refused

from engine.errors import ReadError, RecipeError

AT = Affine(10, 0, WEST, 0, -10, NORTH)
BOX = cells(6, 6)
FLAT = np.full((6, 6), 9.0, np.float32)


def asked(path: Path, **more: Any) -> Callable[[], Any]:
    told = {"name": "h", "kind": "heights", "path": str(path), "year": 2020, **more}
    return lambda: opened(BOX, told)


@pytest.mark.parametrize("kind", ["heights", "elevation", "slope"])
@pytest.mark.parametrize("unit", ["ft", "foot", "US survey foot", "us-ft", "feet", "cm"])
def test_heights_that_say_they_are_in_something_else(tmp_path: Path, kind: str, unit: str) -> None:
    path = write_raster(tmp_path / "h.tif", FLAT, AT)
    with rasterio.open(path, "r+") as file:
        file.units = [unit]
    refused(
        RecipeError,
        asked(path, kind=kind),
        "heights of feature h are not in metres",
        f"h.tif: {unit}",
        "metres",
        "write them in metres: of feet, gdal_calc --calc 'A*0.3048' and gdal_edit -units m",
    )


def test_heights_above_a_level_in_feet(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "h.tif", FLAT, AT, "EPSG:32633+6360")  # NAVD88, US feet
    with pytest.raises(RecipeError, match="not in metres"):
        asked(path, kind="elevation")()


@pytest.mark.parametrize("unit", ["", "m", "metre", "metres", "meters", "m above ground"])
def test_heights_in_metres(tmp_path: Path, unit: str) -> None:
    path = write_raster(tmp_path / "h.tif", FLAT, AT)
    if unit:
        with rasterio.open(path, "r+") as file:
            file.units = [unit]
    (source,) = asked(path)()
    assert source.notes == ()
    assert (source.reader.read(BOX, ANCHOR).values[0] == 9).all()


def test_heights_in_a_system_of_feet_are_noted(tmp_path: Path) -> None:
    at = Affine(33, 0, 980_000, 0, -33, 200_000)
    path = write_raster(tmp_path / "h.tif", FLAT, at, "EPSG:2263")
    (source,) = asked(path)()
    assert any("does not say what its heights are in" in note for note in source.notes)


def test_numbers_of_any_unit_are_values(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "h.tif", FLAT, AT)
    with rasterio.open(path, "r+") as file:
        file.units = ["ft"]
    (source,) = asked(path, kind="values", range=[0, 100])()
    assert (source.reader.read(BOX, ANCHOR).values[0] == 9).all()


def test_several_bands_need_a_word_which(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "two.tif", np.stack([FLAT, FLAT + 1]), AT)
    refused(
        RecipeError,
        asked(path),
        "a raster of a feature has several bands",
        "two.tif: bands 1, 2",
        "band: the one that is meant",
        "set band in the feature, 1 for the first",
    )
    for band in (1, 2):
        (source,) = asked(path, band=band)()
        assert (source.reader.read(BOX, ANCHOR).values[0] == 8 + band).all()
    refused(ReadError, asked(path, band=3), f"{path} has no such band", 3, "1 to 2", None)


def test_opacity_is_no_band_of_data(tmp_path: Path) -> None:
    both = np.stack([FLAT, np.full_like(FLAT, 255)]).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", both, AT)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    (source,) = asked(path)()  # one band of data: nobody need say which
    assert (source.reader.read(BOX, ANCHOR).values[0] == 9).all()
    refused(
        ReadError,
        asked(path, band=2),
        f"{path} is opacity in that band",
        2,
        "a band of data",
        None,
    )


def test_minus_9999_that_nobody_declares_is_unknown(tmp_path: Path) -> None:
    """Heights cannot be that; with a scale, too, it is beyond what they can be."""
    hole = np.zeros((6, 6), bool)
    hole[2, 1:4] = True
    plain = write_raster(tmp_path / "h.tif", np.where(hole, -9999, FLAT), AT)
    scaled = write_raster(tmp_path / "s.tif", np.where(hole, -9999, 90).astype(np.int16), AT)
    with rasterio.open(scaled, "r+") as file:
        file.scales, file.offsets = (0.1,), (0.0,)
    for path in (plain, scaled):
        for kind in ("heights", "elevation"):
            (source,) = asked(path, kind=kind)()
            found = source.reader.read(BOX, ANCHOR)
            np.testing.assert_array_equal(found.known, ~hole)
            np.testing.assert_allclose(found.values[0], np.where(hole, np.nan, 9), rtol=1e-6)


def test_a_year_that_no_file_is_of(tmp_path: Path) -> None:
    """The nearest one is taken, and that is said."""
    path = write_raster(tmp_path / "h.tif", FLAT, AT)
    (source,) = asked(path, year=1999)()
    assert source.notes == ("h: of 1999, wanted 2020, there is 1999",)


# -- polygons -----------------------------------------------------------------------------------


def vectors(folder: Path, name: str, shapes: list[Any], crs: str = UTM) -> Path:
    frame = geopandas.GeoDataFrame({"use": ["a"] * len(shapes)}, geometry=shapes, crs=crs)
    frame.to_file(folder / name, engine="pyogrio")
    return folder / name


@pytest.mark.parametrize("name", ["p.gpkg", "p.geojson", "p.fgb"])
@pytest.mark.parametrize("kind", ["points", "lines", "nothing"])
def test_a_layer_without_polygons(tmp_path: Path, kind: str, name: str) -> None:
    here = [(WEST + 5, NORTH - 5), (WEST + 30, NORTH - 30)]
    crs = "EPSG:4326" if name.endswith("json") else UTM
    if kind == "nothing":
        frame = geopandas.GeoDataFrame({"use": np.array([], str)}, geometry=[], crs=crs)
        frame.to_file(tmp_path / name, engine="pyogrio", geometry_type="Polygon")
    else:
        shapes = [shapely.Point(here[0]) if kind == "points" else shapely.LineString(here)]
        frame = geopandas.GeoDataFrame({"use": ["a"]}, geometry=shapes, crs=UTM).to_crs(crs)
        frame.to_file(tmp_path / name, engine="pyogrio")
    refused(
        RecipeError,
        asked(tmp_path / name, kind="polygons"),
        f"{name} holds no polygons",
        "no features" if kind == "nothing" else "left out",
        "a polygon or more",
        "draw the ground that points and lines stand for as polygons (a buffer), or name another "
        "layer: FILE#LAYER",
    )


def test_polygons_beside_points_count_alone(tmp_path: Path) -> None:
    square = shapely.box(WEST, NORTH - 60, WEST + 60, NORTH)
    path = vectors(tmp_path, "p.gpkg", [square])
    points = geopandas.GeoDataFrame(geometry=[shapely.Point(WEST, NORTH)], crs=UTM)
    points.to_file(path, layer="points", engine="pyogrio")
    (source,) = asked(path, kind="polygons")()
    assert any("layer points of p.gpkg is left out" in note for note in source.notes)
    np.testing.assert_allclose(source.reader.read(BOX, ANCHOR).values[0], 1, atol=1e-6)


# -- OpenStreetMap ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["header alone", "nodes alone"])
def test_an_extract_with_nothing_in_it(tmp_path: Path, kind: str) -> None:
    made = Osm()
    if kind == "nodes alone":
        made.node(0, 0)
    path = made.write(tmp_path, "empty.osm")
    refused(
        RecipeError,
        asked(path, kind="osm"),
        "an extract of OpenStreetMap holds no way that has a place",
        "empty.osm: 0 ways, 0 of them with a node",
        "nodes, then ways, then relations",
        "it may be empty, without nodes, cut short or unsorted: get it again, or sort it (osmium "
        "sort); ids must be positive",
    )


def test_an_extract_of_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "none.osm").touch()
    refused(
        RecipeError,
        asked(tmp_path / "none.osm", kind="osm"),
        "a file is no extract of OpenStreetMap",
        "none.osm: 'empty'",
        ".osm.pbf, .osm, .osm.gz or .osm.bz2",
        None,
    )
