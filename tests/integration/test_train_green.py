"""Green space is learnt from labelled places, adapted to another one, and judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from pyproj import Transformer
from support.shared import run
from support.worlds import PLAIN, SMALL, photograph
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.compare.pixels import evaluate_green
from engine.datasets.chip_cutting import cut_chips
from engine.datasets.chips import open_chips
from engine.errors import LabelError, MetricError, RecipeError
from engine.metrics import binary
from engine.models.card import load_card
from engine.models.registry import load_weights
from engine.products.registry import load_training
from engine.synthetic.country import Country
from engine.synthetic.scene import CRS
from engine.training.adapt import adapt
from engine.training.normalisation import ALIKE
from engine.training.train import train

pytestmark = pytest.mark.slow
SIDE, CHIPS = 64, 40


Bounds = tuple[int, int, int, int]
HERE = Country(PLAIN.world, 1600, 1600).bounds
THERE = SMALL.bounds[0] + 800, SMALL.bounds[1] + 800, SMALL.bounds[0] + 1400, SMALL.bounds[1] + 1400
"""Photos of other tests too: of green maps, and of land cover."""


def write_place(folder: Path, bounds: Bounds) -> None:
    """Photos with what is green in them, a boundary and a recipe that maps them."""
    west, south, _, north = bounds
    square = shapely.box(*bounds)
    photograph(PLAIN.world, bounds, folder / "photos")
    move = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)

    def degrees(shape: Any) -> str:
        moved = shapely.transform(shape, lambda xy: np.column_stack(move.transform(*xy.T)))
        return shapely.to_geojson(moved)

    (folder / "area.geojson").write_text(degrees(square))
    (folder / "town.geojson").write_text(degrees(shapely.box(west, south, west + 800, north)))
    part = shapely.box(west, south + 600, west + 400, south + 1000)  # half of it is green
    (folder / "part.geojson").write_text(degrees(part))
    recipe = {
        "name": folder.name,
        "product": "ugs",
        "area": {"file": "area.geojson"},
        "grid": {"crs": CRS, "tile": 800},
        "images": {"catalog": "photos/catalog.json"},
        "model": {"card": "../model"},
        "mask": {"boundaries": "town.geojson"},
        "store": "store",
        "publish": "product",
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cities and a model of the first."""
    folder = tmp_path_factory.mktemp("learning")
    write_place(folder / "here", HERE)
    write_place(folder / "there", THERE)
    (folder / "train.yaml").write_text(json.dumps(training()))
    return folder


def natmap(*words: str) -> str:
    """The command, and what it says."""
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    return found.output


def training(**more: Any) -> dict[str, Any]:
    return {
        "name": "small-green",
        "product": "ugs",
        "labels": [
            {"recipe": "here/recipe.yaml", "raster": "here/photos/green.tif", "most": CHIPS}
        ],
        "chips": "chips",
        "side": SIDE,
        "split": {"by": "block", "side": 300, "shares": [0.5, 0.25, 0.25]},
        "model": {"size": "small", "parameters": {"width": 8, "points": 512}, "overlap": 16},
        "training": {"epochs": 5, "batch": 4, "rate": 2e-3},
        "out": "model",
        **more,
    }


@pytest.fixture(scope="module")
def model(places: Path) -> Path:
    natmap("train", str(places / "train.yaml"))
    return places / "model"


def test_chips_are_the_ground_and_its_labels(places: Path, model: Path) -> None:
    chips = open_chips(places / "chips")
    assert len(chips) == CHIPS
    assert set(chips.split.tolist()) <= {0, 1, 2, 255}
    with rasterio.open(places / "here" / "photos" / "green.tif") as file:
        truth, bounds = file.read(1), file.bounds
    for k in range(0, CHIPS, 5):
        x, y = chips.xy[k]
        assert (x - SIDE / 2) % SIDE == (y - SIDE / 2) % SIDE == 0  # a lattice from the anchor
        row, col = round(bounds.top - y - SIDE / 2), round(x - SIDE / 2 - bounds.left)
        mine = np.asarray(chips.y[k])
        inside = np.s_[max(-row, 0) : SIDE, max(-col, 0) : SIDE]
        part = truth[max(row, 0) : row + SIDE, max(col, 0) : col + SIDE]
        np.testing.assert_array_equal(mine[inside][: part.shape[0], : part.shape[1]], part)
        np.testing.assert_array_equal(chips.x[k], view(places / "here" / "photos", x, y))


def view(photos: Path, x: float, y: float) -> np.ndarray:
    """What photos show of a chip: where they overlap, the first by name."""
    box = x - SIDE / 2, y - SIDE / 2, x + SIDE / 2, y + SIDE / 2
    across, down = box[0] + np.arange(SIDE) + 0.5, box[3] - np.arange(SIDE) - 0.5
    found, empty = np.zeros((3, SIDE, SIDE), np.uint8), np.ones((SIDE, SIDE), bool)
    for path in sorted(photos.glob("photo_*.tif")):
        with rasterio.open(path) as file:
            window = file.window(*box)
            values = file.read([1, 2, 3], window=window, boundless=True, fill_value=0)
            west, south, east, north = file.bounds
        takes = empty & np.outer((south < down) & (down < north), (west < across) & (across < east))
        found[:, takes] = values[:, takes]
        empty &= ~takes
    return found


def test_the_same_chips_come_from_polygons(places: Path, model: Path) -> None:
    with rasterio.open(places / "here" / "photos" / "green.tif") as file:
        truth = file.read(1)
        shapes = [
            shapely.geometry.shape(s)
            for s, value in rasterio.features.shapes(truth, truth == 1, transform=file.transform)
            if value == 1
        ]
        box = shapely.box(*file.bounds)
    for name, found in (("parks", shapes), ("seen", [box])):
        features = [
            {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(s))}
            for s in found
        ]
        crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{CRS.replace(':', '::')}"}}
        values = {"type": "FeatureCollection", "crs": crs, "features": features}
        (places / f"{name}.geojson").write_text(json.dumps(values))
    label = {"recipe": "here/recipe.yaml", "polygons": "parks.geojson", "within": "seen.geojson"}
    recipe = training(labels=[{**label, "most": CHIPS}], chips="chips-2")
    found = cut_chips(load_training(recipe), places)
    chips = open_chips(places / "chips")
    np.testing.assert_array_equal(found.xy, chips.xy)
    assert (np.asarray(found.y[:]) == np.asarray(chips.y[:])).mean() > 0.9999


def test_training_learns_and_says_how_well(places: Path, model: Path) -> None:
    card = load_card(model)
    assert card.segments
    assert (card.patch, card.overlap) == (SIDE, 16)
    report = json.loads((model / "report.json").read_text())
    losses = [entry["loss"] for entry in report["history"]]
    assert losses[-1] < losses[0]
    assert report["chips"]["train"] > 10
    assert (model / "curves.png").exists()
    again = train(places / "train.yaml")  # cut already, and the state is gone
    for name, value in load_weights(again.card).items():
        assert value.equal(load_weights(card)[name]), name


def test_a_city_without_labels_is_adapted_to(places: Path, model: Path) -> None:
    recipe = {
        "name": "small-green-there",
        "product": "ugs",
        "model": "model",
        "chips": "chips",
        "target": "there/recipe.yaml",
        "most": 12,
        "training": {"steps": 4, "check": 2, "guard": 100},
        "out": "adapted",
    }
    (places / "adapt.yaml").write_text(json.dumps(recipe))
    natmap("adapt", str(places / "adapt.yaml"))
    card = load_card(places / "adapted")
    assert card.name == "small-green-there"
    assert card.key != load_card(model).key
    assert "adapted to there" in card.provenance
    report = json.loads((places / "adapted" / "report.json").read_text())
    assert [look["step"] for look in report["history"]] == [2, 4]
    assert report["statistics"] == ("source" if report["agreement"] >= ALIKE else "city")
    assert report["fallback"] == {"name": "small-green", "key": load_card(model).key}
    lcz = {"name": "x", "product": "lcz", "area": {"bbox": [0, 0, 1, 1]}, "store": "s"}
    imagery = {"catalog": "a", "period": "2020-01-01/2020-01-02"}
    (places / "lcz.yaml").write_text(json.dumps(lcz | {"grid": {"crs": CRS}, "imagery": imagery}))
    with pytest.raises(RecipeError, match="maps something else"):
        adapt(recipe | {"target": "lcz.yaml"}, base=places)


def test_the_map_is_judged_by_labels_and_by_land_cover(places: Path, model: Path) -> None:
    here = places / "here"
    recipe = json.loads((here / "recipe.yaml").read_text()) | {"area": {"file": "part.geojson"}}
    assert not run(recipe, base=here).failed
    product = Path(engine.publish(recipe, base=here))
    found = evaluate_green(product, places / "here" / "photos" / "green.tif", out=places / "judged")
    with rasterio.open(product / "here.tif") as mine:
        classes, bounds, transform = mine.read(1), mine.bounds, mine.transform
    with rasterio.open(places / "here" / "photos" / "green.tif") as theirs:
        window = theirs.window(*bounds)
        truth = theirs.read(1, window=window, boundless=True, fill_value=255)
    known = (classes != 255) & (truth != 255)
    counts = np.bincount(2 * truth[known] + classes[known], minlength=4).reshape(2, 2)
    np.testing.assert_array_equal(found.counts, counts)
    assert found.figures == binary(counts)
    assert found.areas["reference"] == pytest.approx(counts[1].sum() / 1e6)
    low, high = found.intervals["f1"][1:]
    assert low <= found.figures["f1"] <= high
    assert json.loads((places / "judged" / "accuracy.json").read_text())["groups"] == found.groups
    # land cover at 10 m with codes of its own: 10 trees, 30 grass, 50 built, 0 nothing
    cover = np.where(truth[5::10, 5::10] == 1, 10, 50).astype(np.uint8)
    cover[::7] = np.where(cover[::7] == 10, 30, 0)
    form = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": CRS, "nodata": 0}
    form |= {"height": cover.shape[0], "width": cover.shape[1]}
    with rasterio.open(
        places / "cover.tif", "w", transform=transform * Affine.scale(10), **form
    ) as file:
        file.write(cover, 1)
    found = evaluate_green(product, places / "cover.tif", green=(10, 30))
    wide = cover.repeat(10, 0).repeat(10, 1)
    known = (classes != 255) & (wide != 0)
    pairs = 2 * np.isin(wide, (10, 30)) + (classes == 1)
    np.testing.assert_array_equal(
        found.counts, np.bincount(pairs[known], minlength=4).reshape(2, 2)
    )
    assert found.unknown == ((classes != 255) & (wide == 0)).sum()
    inside = evaluate_green(
        product, places / "here" / "photos" / "green.tif", within=places / "cover.tif"
    )
    both = (classes != 255) & (truth != 255) & (wide != 0)
    pairs = np.bincount(2 * truth[both] + classes[both], minlength=4).reshape(2, 2)
    np.testing.assert_array_equal(inside.counts, pairs)
    said = natmap("evaluate", str(product), str(places / "cover.tif"), "--green", "10,30")
    assert f"{found.figures['f1']:.3f}" in said
    away = transform * Affine.translation(90_000, 0)
    with rasterio.open(places / "away.tif", "w", transform=away, **form) as file:
        file.write(cover, 1)
    with pytest.raises(MetricError, match="know no pixel"):
        evaluate_green(product, places / "away.tif")


def test_wrong_labels_are_refused(places: Path) -> None:
    with rasterio.open(places / "here" / "photos" / "green.tif") as file:
        values, form = file.read(), dict(file.profile)
    values[values == 1] = 7
    with rasterio.open(places / "seven.tif", "w", **form) as file:
        file.write(values)
    label = {"recipe": "here/recipe.yaml", "raster": "seven.tif"}
    with pytest.raises(LabelError, match=r"other values(.|\n)*7"):
        train(training(labels=[label], chips="chips-3"), base=places)
    with pytest.raises(LabelError, match="cannot be read"):
        train(training(labels=[{**label, "raster": "gone.tif"}]), base=places)
    with pytest.raises(RecipeError, match="polygons need within"):
        train(training(labels=[{"recipe": "r.yaml", "polygons": "p.geojson"}]), base=places)
    with pytest.raises(RecipeError, match="greater than 1"):
        train(training(training={"batch": 1}), base=places)
    with pytest.raises(LabelError, match="needs places"):
        train(training(split={"by": "place"}, chips="chips-4"), base=places)
