"""Frames of sites, and patches about them: against footprints and pixels read straight."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window
from scipy import ndimage
from typer.testing import CliRunner

import engine
from engine.catalog.ingest import ingest
from engine.cli.app import app
from engine.datasets.chips import open_chips
from engine.datasets.site_chips import frames, read_mapping
from engine.datasets.site_frames import read_sites
from engine.errors import CatalogError, LabelError, NatmapError

CRS, WEST, NORTH, SIDE = "EPSG:32633", 640_000, 5_200_000, 300


def write(path: Path, values: np.ndarray, west: float = WEST, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"driver": "GTiff", "dtype": values.dtype, "count": len(values), "crs": CRS, **more}
    form |= {"height": values.shape[1], "width": values.shape[2]}
    form |= {"transform": Affine(1, 0, west, 0, -1, NORTH)}
    with rasterio.open(path, "w", **form) as file:
        file.write(values)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two overlapping frames of different days, a raster of codes, five sites, a recipe."""
    folder = tmp_path_factory.mktemp("town")
    rng = np.random.default_rng(0)
    for k, day in enumerate(("2020-06-01", "2021-07-01")):
        image = rng.integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8)
        write(folder / "photos" / f"town_{day}.tif", image, WEST + 200 * k, photometric="rgb")
    catalog = ingest(folder / "photos", when="*_{year}-{month}-{day}", nodata=0).catalog
    codes = np.repeat(np.repeat(rng.integers(11, 14, (1, 50, 50)), 10, 1), 10, 2)
    codes[0][rng.random((500, 500)) < 0.02] = 21
    write(folder / "codes.tif", codes.astype(np.uint16)[:, :300], nodata=0)
    points = [(50, 50), (250.4, 100.6), (450, 250), (199, 290), (2000, 100)]
    ground = [shapely.Point(WEST + x, NORTH - y) for x, y in points]
    ground[1] = ground[1].buffer(3)
    table = geopandas.GeoDataFrame({"id": list("abcde")}, geometry=ground, crs=CRS)
    table.to_crs("EPSG:4326").to_file(folder / "sites.geojson")
    area = shapely.box(WEST, NORTH - 300, WEST + 500, NORTH)
    geopandas.GeoSeries([area], crs=CRS).to_file(folder / "area.geojson")
    recipe = {
        "name": "town", "product": "ugs", "area": {"file": "area.geojson"},
        "grid": {"crs": CRS}, "model": {"card": "model"}, "store": "store",
        "images": {"catalog": str(catalog)},
    }  # fmt: skip
    (folder / "town.yaml").write_text(json.dumps(recipe))
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_site_has_the_frames_that_show_it_the_newest_first(town: Path, tmp_path: Path) -> None:
    found = frames(town / "sites.geojson", town / "town.yaml", tmp_path / "out")
    told = [(row["site"], row["rank"], row["date"][:10]) for row in rows(tmp_path / "out")]
    assert told == [
        ("a", "1", "2020-06-01"),
        ("b", "1", "2021-07-01"),
        ("b", "2", "2020-06-01"),
        ("c", "1", "2021-07-01"),
        ("d", "1", "2020-06-01"),
    ]
    assert all(float(row["resolution"]) == 1 for row in rows(tmp_path / "out"))
    assert found.without == ("e",)
    items = pystac.ItemCollection.from_file(str(tmp_path / "out" / "items.json"))
    assert len(items) == 2
    for item in items:
        assert shapely.geometry.shape(item.geometry).is_valid
        assert Path(item.assets["B04"].href).exists()
    assert {item.id for item in items} == {row["frame"] for row in rows(tmp_path / "out")}
    one = engine.frames(town / "sites.geojson", town / "town.yaml", tmp_path / "one", most=1)
    assert [len(mine) for mine in one.frames] == [1, 1, 1, 1, 0]


def test_patches_are_the_frames_pixels_about_the_sites(town: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = frames(
        town / "sites.geojson", town / "town.yaml", out, cut=64, labels=town / "codes.tif"
    )
    assert found.cut == ("a", "b", "c")
    assert found.left_out["e"] == "no frame"
    assert "have no data" in found.left_out["d"]  # at the frames' southern edge
    chips = open_chips(out / "chips")
    for k, (x, y) in enumerate([(50, 50), (250, 101), (450, 250)]):
        west, north = x - 32, y - 32
        np.testing.assert_array_equal(chips.xy[k], [WEST + x, NORTH - y])
        file = "town_2020-06-01" if k == 0 else "town_2021-07-01"
        with rasterio.open(town / "photos" / f"{file}.tif") as image:
            window = Window(west - (0 if k == 0 else 200), north, 64, 64)
            expected = image.read(window=window)
        np.testing.assert_array_equal(chips.x[k], expected)
        with rasterio.open(town / "codes.tif") as image:
            expected = image.read(1, window=Window(west, north, 64, 64))
        np.testing.assert_array_equal(chips.y[k], expected)
    kept = {row["site"]: float(row["covered"]) for row in rows(out) if row["rank"] == "1"}
    assert kept["a"] == 1
    assert kept["d"] == pytest.approx(42 / 64, abs=0.02)


def test_a_level_of_a_hierarchy_and_a_least_area(town: Path, tmp_path: Path) -> None:
    table = tmp_path / "levels.csv"
    table.write_text("from,to,name\n11,1,built\n12,1,built\n13,2,green\n21,,unclear\n")
    assert read_mapping(table) == {11: 1, 12: 1, 13: 2, 21: 255}
    told: dict[str, Any] = {"cut": 64, "labels": town / "codes.tif", "mapping": table}
    frames(town / "sites.geojson", town / "town.yaml", tmp_path / "one", **told)
    plain = np.asarray(open_chips(tmp_path / "one" / "chips").y[:])
    with rasterio.open(town / "codes.tif") as image:
        codes = image.read(1)
    level = np.select([np.isin(codes, (11, 12)), codes == 13], [1, 2], 255)
    np.testing.assert_array_equal(plain[1], level[69:133, 218:282])
    frames(town / "sites.geojson", town / "town.yaml", tmp_path / "two", least_area=150, **told)
    found = np.asarray(open_chips(tmp_path / "two" / "chips").y[:])
    np.testing.assert_array_equal(found == 255, plain == 255)
    # whole pieces of the map under 150 px are gone: none is left inside, and others are as before
    for k, (x, y) in enumerate([(50, 50), (250, 101), (450, 250)]):
        here = np.s_[y - 32 : y + 32, x - 32 : x + 32]
        for code in (1, 2):
            parts, _ = ndimage.label(level == code)
            size = np.bincount(parts.ravel())[parts[here]]
            large = (level[here] == code) & (size >= 150)
            assert (found[k][large] == code).all()
    assert (found != plain).any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cut": None}, "go with patches"),
        ({"labels": None, "least_area": 5.0}, "go with labels"),
        ({"cut": 4}, "side of a patch"),
        ({"least_area": float("nan")}, "least area is out of range"),
        ({"labels": "none.tif"}, "labels cannot be read"),
        ({"mapping": "few.csv"}, "codes that the mapping lacks"),
        ({"mapping": "twice.csv"}, "maps a code again"),
        ({"mapping": "words.csv"}, "maps no code"),
        ({"mapping": "empty.csv"}, "no columns from and to"),
        ({"mapping": "none.csv"}, "cannot be read"),
        ({"sites": "none.geojson"}, "no such file of sites"),
        ({"sites": "lines.gpkg"}, "neither a point nor a polygon"),
        ({"sites": "twins.gpkg"}, "names of their own"),
        ({"sites": "empty.geojson"}, "no site"),
        ({"sites": "text.geojson"}, "cannot be read"),
        ({"sites": "far.gpkg"}, "found nothing"),
        ({"sites": "layers.gpkg"}, "several layers"),
        ({"bands": ("B04", "B08")}, "found nothing"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_frame_is_read(
    town: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    (tmp_path / "few.csv").write_text("from,to\n11,1\n")
    (tmp_path / "twice.csv").write_text("from,to\n11,1\n11,2\n")
    (tmp_path / "words.csv").write_text("from,to\nroad,1\n")
    (tmp_path / "empty.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.geojson").write_text("sites")
    (tmp_path / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    here = shapely.Point(WEST + 50, NORTH - 50)
    line = shapely.LineString([(WEST, NORTH), (WEST + 9, NORTH)])
    for name, shapes in {"lines": [line], "twins": [here, here], "far": [here]}.items():
        ids = ["a"] * len(shapes)
        table = geopandas.GeoDataFrame({"id": ids}, geometry=shapes, crs=CRS)
        if name == "far":
            table = table.translate(90_000).to_frame("geometry").set_crs(CRS)
        table.to_file(tmp_path / f"{name}.gpkg")
    for layer in ("one", "two"):
        geopandas.GeoSeries([here], crs=CRS).to_file(tmp_path / "layers.gpkg", layer=layer)
    told: dict[str, Any] = {"cut": 64, "labels": town / "codes.tif"} | change
    for key in ("labels", "mapping"):
        if isinstance(told.get(key), str):
            told[key] = tmp_path / told[key]
    sites = tmp_path / told.pop("sites") if "sites" in told else town / "sites.geojson"
    with pytest.raises((LabelError, CatalogError), match=said):
        frames(sites, town / "town.yaml", tmp_path / "out", **told)
    assert not (tmp_path / "out").exists()


def test_labels_with_a_colour_table_are_codes(town: Path, tmp_path: Path) -> None:
    with rasterio.open(town / "codes.tif") as file:
        codes, form = file.read().astype(np.uint8), file.profile
    form |= {"dtype": "uint8", "photometric": "palette"}
    with rasterio.open(tmp_path / "codes.tif", "w", **form) as file:
        file.write(codes)
        file.write_colormap(1, {k: (k, 255 - k, 3, 255) for k in range(256)})
    found = []
    for name, folder in (("plain", town), ("colours", tmp_path)):
        at = tmp_path / name
        frames(town / "sites.geojson", town / "town.yaml", at, cut=64, labels=folder / "codes.tif")
        found.append(np.asarray(open_chips(at / "chips").y[:]))
    np.testing.assert_array_equal(found[1], found[0])


def test_a_site_across_180_degrees_is_small(tmp_path: Path) -> None:
    path = tmp_path / "fiji.geojson"
    ring = [(179.999, -17), (-179.999, -17), (-179.999, -16.998), (179.999, -16.998)]
    geopandas.GeoSeries([shapely.Polygon(ring)], crs="EPSG:4326").to_file(path)
    (site,) = read_sites(path, "EPSG:32760")
    side = 0.002 * 111_320
    assert site.ground.area == pytest.approx(side**2 * np.cos(np.radians(17)), rel=0.01)


def test_sites_of_any_crs_and_without_names(town: Path, tmp_path: Path) -> None:
    here = [shapely.Point(WEST + 50, NORTH - 50), shapely.Point(WEST + 90, NORTH - 50)]
    for end in ("gpkg", "fgb", "shp"):  # of which FlatGeobuf has an order of its own
        file = tmp_path / f"a.{end}"
        geopandas.GeoSeries(here, crs=CRS).to_crs(3035).to_file(file)
        sites = read_sites(file, CRS)
        assert [site.name for site in sites] == ["1", "2"]
        found = sorted(site.xy for site in sites)
        np.testing.assert_allclose(found, [(WEST + x, NORTH - 50) for x in (50, 90)], atol=1e-3)
    table = geopandas.GeoDataFrame({"ID": [7.0, 9.0]}, geometry=here, crs=CRS)
    table.to_file(tmp_path / "b.gpkg", layer="x")
    assert [site.name for site in read_sites(tmp_path / "b.gpkg#x", CRS)] == ["7", "9"]
    with pytest.raises(NatmapError, match="no layer of that name"):
        read_sites(tmp_path / "b.gpkg#y", CRS)


def test_the_command(town: Path, tmp_path: Path) -> None:
    words = [str(town / "sites.geojson"), str(town / "town.yaml"), "--cut", "64"]
    told = CliRunner().invoke(app, ["frames", *words, "--out", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "4 of 5 sites are shown" in told.output
    assert "note: no frame shows e" in told.output
    assert "3 patches" in told.output
    assert (np.asarray(open_chips(tmp_path / "out" / "chips").y[:]) == 255).all()
