"""Land cover in classes of one's own: learnt, mapped, published, evaluated, at 1 m and at 10 m."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from affine import Affine
from pyproj import Transformer
from rasterio.features import rasterize
from support.shared import run
from support.worlds import SMALL, photograph, synthesize
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.compare.classes import ClassEvaluation
from engine.errors import CardError, LabelError, MetricError, RecipeError
from engine.legend import Reason
from engine.products.cover import shares
from engine.products.registry import load_recipe
from engine.synthetic.materials import Material
from engine.synthetic.scene import CRS
from engine.synthetic.surface import paint

pytestmark = pytest.mark.slow

CLASSES = [
    {"code": 2, "name": "built", "colour": "B03030"},
    {"code": 5, "name": "low_plants", "colour": "B9DB79"},
    {"code": 9, "name": "trees", "colour": "006400"},
    {"code": 12, "name": "ice", "colour": "FFFFFF"},
]
"""Codes with gaps, and a class that is nowhere."""
TREES = [Material.BROADLEAF, Material.CONIFER]
LOW = [
    Material.GRASS,
    Material.DRY_GRASS,
    Material.CEREAL,
    Material.MAIZE,
    Material.MEADOW,
    Material.FALLOW,
    Material.SCRUB,
]
SIDE = 600


def degrees(square: shapely.Geometry) -> str:
    move = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    return shapely.to_geojson(
        shapely.transform(square, lambda xy: np.column_stack(move.transform(*xy.T)))
    )


def write_raster(path: Path, values: np.ndarray, west: float, north: float, metres: float) -> None:
    height, width = values.shape
    form = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width}
    at = Affine(metres, 0, west, 0, -metres, north)
    with rasterio.open(path, "w", crs=CRS, transform=at, **form) as file:
        file.write(values, 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square of a town with photos, its cover where that is known, and a model that learnt it."""
    folder = tmp_path_factory.mktemp("cover")
    left, bottom, _, _ = SMALL.bounds
    west, south = left + 800, bottom + 800
    bounds = west, south, west + SIDE, south + SIDE
    photograph(SMALL.world, bounds, folder / "photos")
    (folder / "area.geojson").write_text(degrees(shapely.box(*bounds)))
    material = paint(SMALL.world, west, south + SIDE, SIDE, SIDE).material
    truth = np.full(material.shape, 2, np.uint8)
    truth[np.isin(material, LOW)] = 5
    truth[np.isin(material, TREES)] = 9
    truth[:40] = 15  # nobody knows
    write_raster(folder / "truth.tif", truth, west, south + SIDE, 1.0)
    recipe = {
        "name": "town",
        "product": "cover",
        "area": {"file": "area.geojson"},
        "grid": {"crs": CRS, "tile": 400, "chunk": 200},
        "images": {"catalog": "photos/catalog.json"},
        "model": {"card": "model"},
        "store": "store",
        "publish": "product",
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    training = {
        "name": "town-cover",
        "product": "cover",
        "classes": CLASSES,
        "ignored": [15],
        "labels": [{"recipe": "recipe.yaml", "raster": "truth.tif"}],
        "chips": "chips",
        "side": 64,
        "split": {"by": "block", "side": 128, "shares": [0.6, 0.2, 0.2]},
        "model": {"architecture": "unet", "parameters": {"width": 8}, "overlap": 16, "window": 128},
        "training": {"epochs": 10, "batch": 4, "rate": 3e-3},
        "out": "model",
    }
    (folder / "train.yaml").write_text(json.dumps(training))
    engine.train(folder / "train.yaml")
    assert not run(folder / "recipe.yaml").failed
    engine.publish(folder / "recipe.yaml")
    return folder


def test_it_is_learnt_and_mapped_and_judged(place: Path) -> None:
    report = json.loads((place / "model" / "report.json").read_text())
    assert report["test"]["iou_built"] > 0.5
    assert "iou_ice" not in report["test"]  # nobody has seen any
    found = engine.evaluate(
        place / "product", place / "truth.tif", unknown=[15], out=place / "accuracy"
    )
    assert isinstance(found, ClassEvaluation)
    with (
        rasterio.open(place / "product" / "town.tif") as mine,
        rasterio.open(place / "truth.tif") as theirs,
    ):
        a, b = mine.read(1), theirs.read(1)
        assert mine.nodata == 0
        assert mine.colormap(1)[5][:3] == (0xB9, 0xDB, 0x79)
    assert a.shape == b.shape == (SIDE, SIDE)
    assert set(np.unique(a).tolist()) <= {2, 5, 9, 12}
    known = b != 15
    assert found.figures["oa"] == pytest.approx((a == b)[known].mean())
    for k, code in enumerate((2, 5, 9)):
        both = ((a == code) & (b == code) & known).sum()
        either = (((a == code) | (b == code)) & known).sum()
        assert found.classes["iou"][k] == pytest.approx(both / either)
    assert np.isnan(found.classes["iou"][3])
    assert found.figures["iou"] > 0.5
    told = json.loads((place / "accuracy" / "accuracy.json").read_text())
    assert told["classes"]["ice"]["iou"] is None
    words = ["evaluate", str(place / "product"), str(place / "truth.tif"), "--unknown", "15"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "Low plants" in said.stdout


def test_the_product_folder(place: Path) -> None:
    """Scores, map, confidence and shares belong together, and are as numpy makes them."""
    product = place / "product"
    tree = engine.open_store(place / "store", decode=False)
    percent = tree["scores"]["probability"].values
    with rasterio.open(product / "town.tif") as file:
        classes, box = file.read(1), file.bounds
    with rasterio.open(product / "town-confidence.tif") as file:
        confidence = file.read(1)
    with rasterio.open(product / "town-shares-100m.tif") as file:
        cells, names = file.read(), file.descriptions
        assert file.res == (100, 100)
        assert file.nodata == 255
    assert names == ("built", "low_plants", "trees", "ice")
    x, y = tree["scores"]["probability"].x.values, tree["scores"]["probability"].y.values
    cut = np.ix_(range(4), (y < box.top) & (y > box.bottom), (x > box.left) & (x < box.right))
    inside = classes > 0
    best = np.array([2, 5, 9, 12])[percent[cut].argmax(axis=0)]
    assert (classes == np.where(inside, best, 0)).all()
    assert (confidence[inside] == percent[cut].max(axis=0)[inside]).all()
    for row in range(1, 5):
        for col in range(1, 5):
            part = classes[row * 100 : row * 100 + 100, col * 100 : col * 100 + 100]
            known = max((part > 0).sum(), 1)
            wide = [np.rint(100 * (part == c).sum() / known) for c in (2, 5, 9, 12)]
            where = int((box.top - file.bounds.top) / 100)
            assert cells[:, row - where, col].tolist() == wide
    item = json.loads((product / "items" / "town.json").read_text())
    assert [band["name"] for band in item["assets"]["shares"]["bands"]] == list(names)
    told = item["assets"]["map"]["classification:classes"]
    assert [c["value"] for c in told] == [2, 5, 9, 12, 0]
    report = json.loads((product / "report.json").read_text())
    assert report["area_km2"]["trees"] == pytest.approx((classes == 9).sum() / 1e6, abs=1e-4)
    assert (product / "preview.png").stat().st_size > 5000


def test_another_layout_gives_the_same(place: Path) -> None:
    recipe = {**yaml.safe_load((place / "recipe.yaml").read_text()), "store": "other"}
    recipe["grid"] = {**recipe["grid"], "tile": 200, "chunk": 200}
    assert not run(recipe, base=place).failed
    one, other = (engine.open_store(place / s, decode=False) for s in ("store", "other"))
    for group, name in (("scores", "probability"), ("map", "classes"), ("shares", "percent")):
        a, b = one[group][name], other[group][name]
        x, y = np.intersect1d(a.x, b.x), np.intersect1d(a.y, b.y)
        assert len(x) >= 6
        np.testing.assert_array_equal(a.sel(x=x, y=y).values, b.sel(x=x, y=y).values)


def test_composites_are_mapped_at_their_pixel(tmp_path: Path) -> None:
    recipe = synthesize(SMALL, tmp_path, tile=160)
    values = yaml.safe_load(recipe.read_text())
    values["imagery"]["bands"] = ["B02", "B03", "B04", "B08"]
    assert not run(values, base=tmp_path, until="composite").failed
    recipe.write_text(yaml.safe_dump(values))
    with rasterio.open(tmp_path / "truth" / "truth-lcz.tif") as file:
        zones = file.read(1)
        codes = np.where(zones <= 10, 2, np.where(zones <= 12, 9, 5)).astype(np.uint8)
        codes[zones == 17] = 15
        write_raster(tmp_path / "labels.tif", codes, file.bounds.left, file.bounds.top, 100.0)
    training = {
        "name": "coarse",
        "product": "cover",
        "classes": CLASSES[:3],
        "ignored": [15],
        "labels": [{"recipe": "recipe.yaml", "raster": "labels.tif"}],
        "chips": "chips",
        "side": 32,
        "split": {"by": "block", "side": 640, "shares": [0.6, 0.2, 0.2]},
        "model": {
            "architecture": "unet",
            "parameters": {"width": 8},
            "bands": ["B02", "B03", "B04", "B08"],
            "overlap": 8,
        },
        "training": {"epochs": 15, "batch": 8, "rate": 3e-3},
        "out": "coarse",
    }
    assert engine.train(training, base=tmp_path).card.resolution == 10
    wanted = {k: v for k, v in values.items() if k not in ("filter", "model", "mask")}
    wanted |= {"product": "cover", "model": {"card": "coarse"}, "store": "cover", "name": "coarse"}
    assert not run(wanted, base=tmp_path).failed
    product = engine.publish(wanted, base=tmp_path)
    found = engine.evaluate(product, tmp_path / "labels.tif", unknown=[15])
    assert found.figures["oa"] > 0.6
    with rasterio.open(Path(product) / "coarse.tif") as file:
        assert file.res == (10, 10)
        whole, at, crs = file.read(1), file.transform, file.crs
        assert set(np.unique(whole).tolist()) <= {0, 2, 5, 9}
    # urban boundaries mask its pixels by their centres; composites stay as they are
    towns = json.loads((tmp_path / "truth" / "urban.geojson").read_text())
    move = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    shapes = [
        shapely.transform(
            shapely.from_geojson(json.dumps(feature["geometry"])),
            lambda xy: np.column_stack(move.transform(*xy.T)),
        )
        for feature in towns["features"]
    ]
    masked = wanted | {"mask": {"boundaries": "truth/urban.geojson"}, "publish": "masked"}
    plan = engine.plan(masked, base=tmp_path)
    assert {stage.name for stage in plan.stages if stage.stale} == {"scores"}
    assert not run(masked, base=tmp_path).failed
    towns_only = engine.publish(masked, base=tmp_path)
    within = rasterize(shapes, whole.shape, transform=at).astype(bool)
    with rasterio.open(Path(towns_only) / "coarse.tif") as file:
        assert file.transform == at
        assert 1000 < (within & (whole > 0)).sum() < (whole > 0).sum() / 2
        np.testing.assert_array_equal(file.read(1), np.where(within, whole, 0))
    with rasterio.open(Path(towns_only) / "coarse-reason.tif") as file:
        outside = file.read(1) == Reason.OUTSIDE_MASK
        np.testing.assert_array_equal(outside, ~within & (whole > 0))


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((place / "recipe.yaml").read_text())
    with pytest.raises(RecipeError, match="images, or imagery"):
        load_recipe({k: v for k, v in recipe.items() if k != "images"})
    with pytest.raises(RecipeError, match="filter: of product lcz, not of cover"):
        load_recipe(recipe | {"filter": {"method": "none"}})
    with pytest.raises(CardError, match="classes of its own"):
        engine.plan(recipe | {"model": {"card": "ugs-made-up"}}, base=place)
    green = {**recipe, "product": "ugs"}
    with pytest.raises(CardError, match="of what is green"):
        engine.plan(green, base=place)
    training = json.loads((place / "train.yaml").read_text())
    with pytest.raises(LabelError, match=r"other values(.|\n)*got: +15"):
        engine.train({**training, "ignored": [], "out": str(tmp_path / "m")}, base=place)
    with pytest.raises(RecipeError, match="classes: product cover has some"):
        engine.train({**training, "classes": []}, base=place)
    with pytest.raises(MetricError, match=r"not classes of the map(.|\n)*15"):
        engine.evaluate(place / "product", place / "truth.tif")
    with pytest.raises(MetricError, match="codes of green space"):
        engine.evaluate(place / "product", place / "truth.tif", green=[9], unknown=[15])
    shutil.copytree(place / "product", tmp_path / "escaped")
    report = json.loads((tmp_path / "escaped" / "report.json").read_text())
    report["form"]["layers"][0]["suffix"] = "/../../truth"
    (tmp_path / "escaped" / "report.json").write_text(json.dumps(report))
    with pytest.raises(MetricError, match="not a product of natmap"):
        engine.evaluate(tmp_path / "escaped", place / "truth.tif", out=tmp_path)


def test_shares_are_of_what_is_classified() -> None:
    classes = np.zeros((4, 4), np.uint8)
    classes[:2, :2] = [[3, 3], [7, 0]]
    found = shares(classes, (3, 7), 2)
    assert found[:, 0, 0].tolist() == [67, 33]
    assert (found[:, 1] == 255).all()
