"""Chips cut from images with gaps, from labels with other codes, from folders that change."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from support.cards import write_segmenter

from engine.catalog.ingest import ingest
from engine.compare.pixels import evaluate_green
from engine.datasets.chip_cutting import cut_chips
from engine.datasets.chips import write_chips
from engine.datasets.ground import City
from engine.errors import CardError, LabelError, MetricError, RecipeError
from engine.pipeline.prepare import prepare
from engine.products.registry import load_recipe, load_training
from engine.recipes.segmenting import SegmenterRecipe
from engine.training.adapt import adapt

SIDE, CHIPS = 64, 4  # a square of so many chips
WEST, NORTH = 640_000, 5_200_000
GAP = np.s_[:, 20:24]  # of each chip: 6 % of it
BANDS = ("B04", "B03", "B02")


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"driver": "GTiff", "dtype": "uint8", "count": len(values), "crs": "EPSG:32633"}
    form |= {"height": values.shape[1], "width": values.shape[2]}
    form |= {"transform": Affine(1, 0, WEST, 0, -1, NORTH)}
    if len(values) == 3:
        form["photometric"] = "rgb"
    with rasterio.open(path, "w", **form) as file:
        file.write(values)


def write_polygon(path: Path, bounds: tuple[float, float, float, float]) -> None:
    geopandas.GeoSeries([shapely.box(*bounds)], crs="EPSG:32633").to_file(path)


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """One image with a gap in each chip, what is green in it, and a recipe that maps it."""
    n = SIDE * CHIPS
    rng = np.random.default_rng(0)
    image = rng.integers(1, 255, (3, n, n)).astype(np.uint8)
    image.reshape(3, CHIPS, SIDE, CHIPS, SIDE)[:, :, GAP[1]] = 0
    write(tmp_path / "photos" / "town.tif", image)
    write(tmp_path / "green.tif", rng.integers(0, 2, (1, n, n)).astype(np.uint8))
    catalog = ingest(tmp_path / "photos", when="2021-07-01", nodata=0).catalog
    write_polygon(tmp_path / "area.geojson", (WEST, NORTH - n, WEST + n, NORTH))
    recipe = {
        "name": "town",
        "product": "ugs",
        "area": {"file": "area.geojson"},
        "grid": {"crs": "EPSG:32633"},
        "images": {"catalog": str(catalog)},
        "model": {"card": "model"},
        "store": "store",
    }
    (tmp_path / "town.yaml").write_text(json.dumps(recipe))
    return tmp_path


def training(**label: Any) -> SegmenterRecipe:
    return load_training(
        {
            "name": "green",
            "product": "ugs",
            "labels": [label or {"recipe": "town.yaml", "raster": "green.tif"}],
            "chips": "chips",
            "side": SIDE,
            "split": {"by": "own" if "ugset" in label else "block", "side": 64},
            "model": {"size": "small"},
            "out": "model",
        }
    )


def test_gaps_of_images_are_kept_with_the_chips(city: Path) -> None:
    chips = cut_chips(training(), city)
    assert len(chips) == CHIPS**2
    wanted = np.ones((SIDE, SIDE), bool)
    wanted[GAP[1]] = False
    for seen, mask in zip(np.asarray(chips.seen[:]), np.asarray(chips.y[:]), strict=True):
        np.testing.assert_array_equal(seen, wanted)
        np.testing.assert_array_equal(mask != 255, wanted)
    images, found = City(city / "town.yaml", BANDS).draw(SIDE, 5, 0)
    assert found is not None
    assert len(images) == len(found) == 5
    assert (found == wanted).all()
    assert not images[:, :, ~wanted].any()


def test_labels_of_another_code_are_no_labels_without_green(city: Path) -> None:
    """255 means unknown here, and green elsewhere."""
    with rasterio.open(city / "green.tif") as file:
        green = file.read(1) == 1
    green[:, 100:] = False  # chips are half known at least
    write(city / "other.tif", np.where(green, 255, 0)[None].astype(np.uint8))
    with pytest.raises(LabelError, match=r"no green pixel(.|\n)*1 green, 0 not, 255 unknown"):
        cut_chips(training(recipe="town.yaml", raster="other.tif"), city)


def test_another_area_or_grid_is_cut_again(city: Path) -> None:
    recipe, told = training(), []
    assert len(cut_chips(recipe, city)) == CHIPS**2
    write_polygon(city / "area.geojson", (WEST, NORTH - SIDE * CHIPS, WEST + 2 * SIDE, NORTH))
    left = cut_chips(recipe, city, tell=told.append)
    assert "area or grid have changed" in told[0]
    assert len(left) == 2 * CHIPS
    assert left.xy[:, 0].max() < WEST + 2 * SIDE
    told.clear()
    cut_chips(recipe, city, tell=told.append)
    assert not told
    change(city / "town.yaml", grid={"crs": "EPSG:32633", "origin": [10, 0]})
    moved = cut_chips(recipe, city)
    np.testing.assert_array_equal((moved.xy[:, 0] - SIDE / 2) % SIDE, 10)
    change(city / "town.yaml", grid={"crs": "EPSG:3035"})
    assert cut_chips(recipe, city).xy[:, 0].min() > 4_000_000  # of Europe's grid, not UTM's


def test_a_city_labelled_twice_is_not_tested_on_what_it_was_trained_on(city: Path) -> None:
    label = {"recipe": "town.yaml", "raster": "green.tif"}
    twice = training().model_dump() | {"labels": [label, label | {"place": "later"}]}
    twice["split"] = {"side": 2 * SIDE, "shares": [0.5, 0.2, 0.3], "seed": 1}
    chips = cut_chips(load_training(twice), city)
    train, test = ({tuple(xy) for xy in chips.xy[chips.split == code]} for code in (0, 2))
    assert train
    assert test
    assert not train & test


def test_a_shapefile_changes_with_the_files_beside_it(city: Path) -> None:
    n = SIDE * CHIPS
    for name, width in (("parks", n / 2), ("looked", n)):
        write_polygon(city / f"{name}.shp", (WEST, NORTH - n, WEST + width, NORTH))
    recipe, told = training(recipe="town.yaml", polygons="parks.shp", within="looked.shp"), []
    before = cut_chips(recipe, city)
    assert (np.asarray(before.y[:])[before.xy[:, 0] < WEST + n / 2] != 0).all()
    outlines = (city / "parks.shp").read_bytes()
    there = geopandas.read_file(city / "parks.shp").set_crs("EPSG:32634", allow_override=True)
    there.to_file(city / "parks.shp")
    assert (city / "parks.shp").read_bytes() == outlines  # the CRS is in parks.prj
    with pytest.raises(LabelError, match="no green pixel"):
        cut_chips(recipe, city, tell=told.append)
    assert "changed" in told[0]


def test_labels_of_a_raster_count_within_a_boundary_alone(city: Path) -> None:
    """UGS-1m labelled within the urban boundary; beyond it a raster says nothing."""
    n = SIDE * CHIPS
    write_polygon(city / "town.gpkg", (WEST, NORTH - n, WEST + 2.6 * SIDE, NORTH))
    label = {"recipe": "town.yaml", "raster": "green.tif"}
    chips = cut_chips(training(**label, within="town.gpkg"), city)
    whole = cut_chips(training(**label).model_copy(update={"chips": "whole"}), city)
    assert len(chips) == 3 * CHIPS  # of the fourth column nothing is labelled, of the third 0.6
    every = {tuple(xy): y for xy, y in zip(whole.xy, np.asarray(whole.y[:]), strict=True)}
    for xy, y in zip(chips.xy, np.asarray(chips.y[:]), strict=True):
        left = xy[0] - SIDE / 2
        inside = left + np.arange(SIDE) + 0.5 < WEST + 2.6 * SIDE
        np.testing.assert_array_equal(y, np.where(inside, every[tuple(xy)], 255))
    told: list[str] = []
    write_polygon(city / "town.gpkg", (WEST, NORTH - n, WEST + SIDE, NORTH))
    assert len(cut_chips(training(**label, within="town.gpkg"), city, tell=told.append)) == CHIPS
    assert "changed" in told[0]
    write_polygon(city / "far.gpkg", (WEST + 5000, NORTH - n, WEST + 6000, NORTH))
    with pytest.raises(LabelError, match="within misses town"):
        cut_chips(training(**label, within="far.gpkg"), city)
    with pytest.raises(
        CardError, match=r"within is neither a card nor a polygon file(.|\n)*gub-20"
    ):
        cut_chips(training(**label, within="gub"), city)


def test_an_imported_set_is_held_once_in_memory(tmp_path: Path) -> None:
    """UGSet is of 5 GB: a list of images stacked, or parts joined, would be 10."""
    side, n = 128, 256
    rng = np.random.default_rng(0)
    for kind, bands in (("images", 3), ("labels", 1)):
        for k in range(n):
            values = rng.integers(0, 2, (bands, side, side)).astype(np.uint8) * 255
            write(tmp_path / "set" / "train" / kind / f"{k}.tif", values)
    tracemalloc.start()
    chips = cut_chips(training(ugset="set"), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(chips) == n
    assert peak < 1.5 * n * 4 * side**2


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_mended_set_is_cut_again(tmp_path: Path) -> None:
    mask = np.zeros((1, SIDE, SIDE), np.uint8)
    mask[:, :32] = 255
    for kind, values in (("images", np.full((3, SIDE, SIDE), 90, np.uint8)), ("labels", mask)):
        write(tmp_path / "set" / "train" / kind / "1.tif", values)
    recipe, told = training(ugset="set"), []
    assert np.asarray(cut_chips(recipe, tmp_path).y[:]).mean() == 0.5
    cut_chips(recipe, tmp_path, tell=told.append)
    assert not told
    path = tmp_path / "set" / "train" / "labels" / "1.tif"
    before = path.stat()
    write(path, mask[:, ::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    found = np.asarray(cut_chips(recipe, tmp_path, tell=told.append).y[:])
    assert "changed" in told[0]
    assert not found[:, :32].any()
    with pytest.raises(LabelError, match="no such folder"):
        cut_chips(training(ugset="sett"), tmp_path)


def test_a_mask_that_misses_the_area_is_refused_before_work(city: Path) -> None:
    n = SIDE * CHIPS
    write_segmenter(city / "model", patch=SIDE, overlap=16)
    for name, west in (("far", WEST + 5000), ("beside", WEST + n), ("partly", WEST + n / 2)):
        write_polygon(city / f"{name}.geojson", (west, NORTH - n, west + n, NORTH))
        change(
            city / "town.yaml", mask={"boundaries": f"{name}.geojson"}, model={"card": "./model"}
        )
        recipe, town = load_recipe(city / "town.yaml"), City(city / "town.yaml", BANDS)
        if name == "partly":
            assert prepare(recipe, city).stages
            assert len(town.draw(SIDE, 99, 0)[0]) == CHIPS**2 / 2
            continue
        for work in (lambda r=recipe: prepare(r, city), lambda t=town: t.draw(SIDE, 5, 0)):
            with pytest.raises(RecipeError, match=rf"misses the area(.|\n)*{name}.geojson"):
                work()


def test_an_adaptation_leaves_what_it_falls_back_on(city: Path) -> None:
    chips = cut_chips(training(), city)
    split = np.arange(len(chips)) % 2  # blocks of one chip's size touch: they were in none
    write_chips(city / "halves", replace(chips, split=split.astype(np.uint8)))
    card = write_segmenter(city / "net", "ugsnet", SIDE, 16, width=8, points=64)
    recipe = {"name": "moved", "product": "ugs", "model": "./net", "chips": "halves"}
    recipe |= {"target": "town.yaml", "most": 4, "training": {"steps": 1, "guard": 100}}
    with pytest.raises(RecipeError, match="folder of the model"):
        adapt(recipe | {"out": "other/../net"}, base=city)
    adapt(recipe | {"out": "moved"}, base=city)
    report = json.loads((city / "moved" / "report.json").read_text())
    assert report["fallback"] == {"name": "net", "key": card.key}


def test_a_product_without_its_raster_is_said_to_lack_it(city: Path) -> None:
    (city / "product").mkdir()
    report = {"name": "town", "recipe": {"product": "ugs"}}
    (city / "product" / "report.json").write_text(json.dumps(report))
    with pytest.raises(MetricError, match=r"lacks its raster(.|\n)*town.tif"):
        evaluate_green(city / "product", city / "green.tif")
