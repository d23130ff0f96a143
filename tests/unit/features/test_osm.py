"""An extract on a grid: real Helsinki, and made-up ground whose shares are known."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import shapely
from odc.geo.geobox import GeoBox
from pydantic import TypeAdapter, ValidationError
from pyproj import Transformer
from support.osm_files import CRS, SOUTH, WEST, Osm

from engine.errors import ReadError, RecipeError
from engine.features.opening import open_features
from engine.features.osm import (
    ATTRIBUTION,
    LICENCE,
    OsmSource,
    codes_of_cells,
    open_osm,
    water_of_cells,
)
from engine.features.osm_reading import read_extract
from engine.features.source import FeatureReader, FeatureSource, band_names
from engine.grid.area import Area
from engine.products.features import GroundSource
from engine.publishing.rights import rights_of
from engine.recipes.features import Features
from engine.recipes.sections import GridChoice

BOUNDS = WEST, SOUTH, WEST + 3200, SOUTH + 3200
ANCHOR = (WEST, SOUTH + 3200)

HELSINKI = "EPSG:3067"
CITY = 385_000.0, 6_671_300.0, 386_600.0, 6_673_540.0  # of the extract, and some ground about it
CORNER = (CITY[0], CITY[3])


def window(
    side: float, bounds: tuple[float, float, float, float] = BOUNDS, crs: str = CRS
) -> GeoBox:
    return GeoBox.from_bbox(bounds, crs, resolution=side, tight=True)


def opened(made: Osm, folder: Path, *classes: str) -> OsmSource:
    return open_osm(made.write(folder), classes or ("water",), CRS, BOUNDS)


@pytest.fixture(scope="module")
def helsinki(data: Path) -> OsmSource:
    return open_osm(data / "osm" / "Helsinki.osm.pbf", ("water",), HELSINKI, CITY, year=2017)


def test_helsinkis_water_areas(data: Path) -> None:
    """Sixteen tags of water on 13 ways: three ponds have two. Each way counts once here."""
    found = read_extract(data / "osm" / "Helsinki.osm.pbf", ("water",))
    move = Transformer.from_crs("EPSG:4326", HELSINKI, always_xy=True)

    def metres(shape: shapely.Geometry) -> float:
        return float(
            shapely.transform(
                shape, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1]))
            ).area
        )

    shapes = found.areas["water"]
    areas = np.array([metres(shape) for shape in shapes])
    assert len(shapes) == 13
    assert areas.sum() == pytest.approx(3917.7, abs=0.1)
    ponds = [round(area, 1) for area in areas if round(area, 1) in (60.5, 103.5, 127.4)]
    assert len(ponds) == 3  # natural=water with landuse=pond
    assert areas.sum() + sum(ponds) == pytest.approx(4209, abs=0.2)
    assert len(shapes) + len(ponds) == 16
    assert [*found.dropped.values()] == [["w122872049"]]  # a lake that the border cuts


def test_helsinkis_sea_lies_right_of_its_coastlines(helsinki: OsmSource) -> None:
    values, known = helsinki.reader.read(window(2, CITY, HELSINKI), CORNER)
    move = Transformer.from_crs("EPSG:4326", HELSINKI, always_xy=True)

    def at(lon: float, lat: float) -> float:
        x, y = move.transform(lon, lat)
        return float(values[0, int((CITY[3] - y) // 2), int((x - CITY[0]) // 2)])

    assert at(24.9440, 60.1780) == 1  # Kaisaniemenlahti
    assert at(24.9505, 60.1763) == 1  # under Pitkäsilta, where it narrows
    assert at(24.9533, 60.1658) == 1  # the South Harbour
    assert at(24.9455, 60.1750) == 0  # Kaisaniemi park
    assert at(24.9500, 60.1785) == 0  # Siltasaari, north of the bay
    assert at(24.9414, 60.1710) == 0  # the central station
    assert np.isnan(at(24.9362, 60.1785))  # Töölönlahti, which the extract cuts
    sea = float(np.nansum(values[0] * known) * 4) - 3917.7
    assert sea == pytest.approx(104_400, rel=0.01)
    assert helsinki.facts["coastlines"] == {
        "lines": 4,
        "islands": 0,
        "ends drawn on to the border": 8,
        "unclosed": [],
        "backward": [],
        "faces that are not known": 0,
    }


def test_outside_of_an_extract_nothing_is_known(helsinki: OsmSource) -> None:
    values, known = helsinki.reader.read(window(10, CITY, HELSINKI), CORNER)
    assert np.isnan(values[:, known == 0]).all()
    assert not np.isnan(values[:, known > 0]).any()
    assert (known[:, :2] == 0).all()
    box = shapely.box(24.9351762, 60.1641550, 24.9534145, 60.1791130)
    move = Transformer.from_crs("EPSG:4326", HELSINKI, always_xy=True)
    ground = shapely.transform(
        shapely.segmentize(box, 0.001),
        lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])),
    )
    seen = float(known.sum() * 100)
    assert 0.95 * ground.area < seen < ground.area  # all but Töölönlahti


def test_helsinkis_windows_have_the_bytes_of_the_whole(helsinki: OsmSource) -> None:
    whole = helsinki.reader.read(window(10, CITY, HELSINKI), CORNER)
    parts = np.full_like(whole.values, 7), np.full_like(whole.known, 7)
    for top in range(0, 224, 56):
        for left in range(0, 160, 32):
            west, north = CITY[0] + 10 * left, CITY[3] - 10 * top
            part = window(10, (west, north - 560, west + 320, north), HELSINKI)
            found = pickle.loads(pickle.dumps(helsinki.reader)).read(part, CORNER)
            for into, given in zip(parts, found, strict=True):
                into[..., top : top + 56, left : left + 32] = given
    assert parts[0].tobytes() == whole.values.tobytes()
    assert parts[1].tobytes() == whole.known.tobytes()


def test_what_helsinkis_extract_lacks_is_told(helsinki: OsmSource) -> None:
    notes = "\n".join(helsinki.notes)
    assert "is of 2019-04-16, and 2017 is wanted" in notes
    assert "1 objects are left out" in notes
    assert "w122872049" in notes
    assert "osmium extract -s smart" in notes
    origin = helsinki.origins[0]
    assert (origin.licence, origin.attribution) == (LICENCE, ATTRIBUTION)
    assert origin.year == 2019
    assert helsinki.stamp(CITY) == bytes.fromhex(origin.stamp)


def test_a_source_is_what_the_protocol_says(helsinki: OsmSource) -> None:
    source: FeatureSource = helsinki
    reader: FeatureReader = source.reader
    assert reader.channels == ("water",)
    assert source.parameters["osm"] == ["water"]


def test_shares_of_a_lake_a_road_and_the_sea(tmp_path: Path) -> None:
    made = Osm()
    made.area([made.square(405, 405, 1000)], [made.square(700, 700, 300)], natural="water")
    made.square(405, 405, 200, natural="water")  # a part of it once more
    made.line([(2000, -100), (2000, 3300)], highway="primary", width="20")
    made.line([(3300, 3100), (-100, 3100)], natural="coastline")  # westward: the sea is north
    source = opened(made, tmp_path, "water", "road")
    (water, road), known = source.reader.read(window(10), ANCHOR)
    inside = known == 1
    assert inside[2:-2, 2:-2].all()
    expected = 1000**2 - 300**2 + 3200 * 100
    assert float(np.nansum(water * known) * 100) == pytest.approx(expected, rel=2e-3)
    assert float(np.nansum(road * known) * 100) == pytest.approx(20 * 3200, rel=5e-3)
    np.testing.assert_allclose(water[319 - 40, 41:140], 0.5, atol=3e-3)  # the lake's edge
    assert (water[5, 5:-5] == 1).all()
    assert (water[15, 5:-5] == 0).all()


def test_the_polygon_of_an_extract_is_its_border(tmp_path: Path) -> None:
    made = Osm(bounds=None)
    made.square(100, 100, 50, natural="water")
    path = made.write(tmp_path)
    with pytest.raises(RecipeError, match="which ground it covers"):
        open_osm(path, ("water",), CRS, BOUNDS)
    back = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    ring = [(0, 0), (1600, 0), (1600, 3200), (0, 3200)]
    lines = (" ".join(map(str, back.transform(WEST + x, SOUTH + y))) for x, y in ring)
    extent = tmp_path / "half.poly"
    extent.write_text("\n".join(["half", "1", *lines, "END", "END"]))
    source = open_osm(path, ("water",), CRS, BOUNDS, extent=extent)
    known = source.reader.read(window(320), ANCHOR).known
    np.testing.assert_allclose(known[:, :5], 1, atol=1e-3)
    np.testing.assert_allclose(known[:, 5:], 0, atol=1e-3)
    assert any("covers 50.0%" in note for note in source.notes)


def test_ground_of_what_is_left_out_is_not_known(tmp_path: Path) -> None:
    made = Osm()
    made.square(2000, 2000, 100, natural="water")
    made.ring([(320, 320), (640, 640), (640, 320), (320, 640)], natural="water")
    known = opened(made, tmp_path).reader.read(window(320), ANCHOR).known
    assert known[8, 1] == pytest.approx(0, abs=1e-3)
    assert known[7, 3] == 1


def test_a_cell_is_of_a_class_that_covers_four_fifths_of_it(tmp_path: Path) -> None:
    made = Osm()
    heights = [255.0, 257.0]  # of 320: .797 and .803
    for k, height in enumerate(heights):
        west = 320 * k
        made.ring([(west, 0), (west + 320, 0), (west + 320, height), (west, height)],
                  natural="water")  # fmt: skip
    for tags in ({"natural": "water"}, {"landuse": "forest"}):
        made.square(960, 0, 320, **tags)  # both: nobody knows
    made.square(1600, 0, 320, landuse="meadow")
    made.square(1600, 0, 320, landuse="farmland")  # both are D
    made.square(2240, 0, 320, building="yes")
    source = opened(made, tmp_path, "water", "wood", "grass", "farmland", "building")
    codes = codes_of_cells(source.reader, window(320), ANCHOR)
    assert codes[9].tolist() == [0, 17, 0, 0, 0, 14, 0, 0, 0, 0]
    assert not codes[:9].any()
    share = water_of_cells(source.reader, window(320), ANCHOR)
    np.testing.assert_allclose(share[9, :4], [255 / 320, 257 / 320, 0, 1], atol=2e-3)


def test_a_recipe_has_it_as_a_kind_of_feature_and_products_name_it(tmp_path: Path) -> None:
    made = Osm()
    made.square(0, 0, 640, natural="water")
    path = made.write(tmp_path)
    told = {"name": "osm", "kind": "osm", "years": {2017: path.name, 2024: "none.osm"}}
    (wanted,) = TypeAdapter(Features).validate_python([told | {"classes": ["water", "road"]}])
    area = Area(shapely.box(*BOUNDS), CRS)
    (source,) = open_features([wanted], tmp_path, area, 2018, anchor=ANCHOR, resolution=10.0)
    values = source.reader.read(window(320), ANCHOR).values
    assert band_names("osm", source.reader.channels) == ("osm.water", "osm.road", "osm.known")
    np.testing.assert_allclose(values[0, 8:, :2], 1, atol=1e-3)
    assert "osm: of 2017, wanted 2018, there is 2017, 2024" in source.notes
    ground = GroundSource((wanted,), tmp_path, area, 2018, GridChoice(crs=CRS, origin=ANCHOR))
    rights = rights_of("map", None, ground.find()["features"].items, None, {})
    assert any("OpenStreetMap contributors, licence ODbL-1.0" in text for text in rights.credits)
    for wrong in ({"classes": []}, {"classes": ["lava"]}, {"classes": ["water", "water"]}):
        with pytest.raises(ValidationError):
            TypeAdapter(Features).validate_python([told | wrong])


def test_bad_input_is_refused_before_work(tmp_path: Path) -> None:
    made = Osm()
    made.square(0, 0, 100, natural="water")
    path = made.write(tmp_path)
    far = WEST + 50_000, SOUTH, WEST + 53_200, SOUTH + 3200
    with pytest.raises(RecipeError, match="of another place"):
        open_osm(path, ("water",), CRS, far)
    with pytest.raises(RecipeError, match="no classes"):
        open_osm(path, ("water", "lava"), CRS, BOUNDS)
    with pytest.raises(RecipeError, match="no classes"):
        open_osm(path, ("water", "water"), CRS, BOUNDS)
    with pytest.raises(RecipeError, match="no such extract"):
        open_osm(tmp_path / "none.osm.pbf", ("water",), CRS, BOUNDS)


def test_an_extract_over_the_180th_meridian_is_refused(tmp_path: Path) -> None:
    made = Osm()
    made.square(0, 0, 100, natural="water")
    text = made.text()
    start, end = text.index("<bounds"), text.index("/>") + 2
    crossing = '<bounds minlon="170" minlat="50" maxlon="-170" maxlat="70"/>'
    path = tmp_path / "made.osm"
    path.write_text(text[:start] + crossing + text[end:])
    with pytest.raises(RecipeError, match="180th meridian"):
        open_osm(path, ("water",), CRS, BOUNDS)


def test_a_file_that_changes_during_a_run_is_refused(tmp_path: Path) -> None:
    made = Osm()
    made.square(0, 0, 100, natural="water")
    source = opened(made, tmp_path)
    other = pickle.loads(pickle.dumps(source.reader))
    os.utime(made.write(tmp_path), ns=(1, 1))
    changed = type(other)(other.path, ("water", "wood"), CRS, BOUNDS, None, other.stamp)
    with pytest.raises(ReadError, match="has changed"):
        changed.read(window(320), ANCHOR)
