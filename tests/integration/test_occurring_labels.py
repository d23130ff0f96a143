"""Which classes occur in patches: learnt from a recipe, judged, and scored over an area."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from sklearn.metrics import average_precision_score, f1_score
from support.cards import RGB, write_segmenter
from support.worlds import SMALL, photograph
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.compare.labels import LabelEvaluation
from engine.datasets.chips import open_chips, unsplit, write_chips
from engine.datasets.splits import find_leaks
from engine.errors import CardError, LabelError, MetricError
from engine.models.card import load_card
from engine.models.registry import load_model
from engine.synthetic.materials import Material
from engine.synthetic.scene import CRS
from engine.synthetic.surface import paint

pytestmark = pytest.mark.slow

CLASSES = [
    {"code": 2, "name": "built", "colour": "B03030"},
    {"code": 5, "name": "low_plants", "colour": "B9DB79"},
    {"code": 9, "name": "trees", "colour": "006400"},
]
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
METRES, SIDE, SHARE = 720, 48, 0.05


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square of a town with photos, its cover, and a model that says what occurs where."""
    folder = tmp_path_factory.mktemp("labels")
    left, bottom, _, _ = SMALL.bounds
    west, south = left + 800, bottom + 800
    bounds = west, south, west + METRES, south + METRES
    photograph(SMALL.world, bounds, folder / "photos")
    move = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    square = shapely.transform(
        shapely.box(*bounds), lambda xy: np.column_stack(move.transform(*xy.T))
    )
    (folder / "area.geojson").write_text(shapely.to_geojson(square))
    material = paint(SMALL.world, west, south + METRES, METRES, METRES).material
    truth = np.full(material.shape, 2, np.uint8)
    truth[np.isin(material, LOW)] = 5
    truth[np.isin(material, TREES)] = 9
    truth[:60] = 15  # nobody knows
    form: dict[str, Any] = {"height": METRES, "width": METRES, "count": 1, "dtype": "uint8"}
    at = Affine(1, 0, west, 0, -1, south + METRES)
    with rasterio.open(
        folder / "truth.tif", "w", driver="GTiff", crs=CRS, transform=at, **form
    ) as file:
        file.write(truth, 1)
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
    (folder / "train.yaml").write_text(json.dumps(training()))
    engine.train(folder / "train.yaml")
    return folder


def training(**more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": "town-labels",
        "product": "cover",
        "classes": CLASSES,
        "ignored": [15],
        "multilabel": {"share": SHARE},
        "labels": [{"recipe": "recipe.yaml", "raster": "truth.tif"}],
        "chips": "chips",
        "side": SIDE,
        "split": {"by": "block", "side": 96, "shares": [0.5, 0.25, 0.25]},
        "model": {"architecture": "resnet", "parameters": {"width": 8}},
        "training": {"epochs": 12, "batch": 16, "rate": 3e-3},
        "out": "model",
    }
    return told | more


def straight(folder: Path, split: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, probabilities and thresholds of the chips, without the code that is tested."""
    import torch

    chips, card = open_chips(folder / "chips"), load_card(folder / "model")
    where = np.flatnonzero(chips.split == split) if split is not None else np.arange(len(chips))
    x, y, _ = chips.take(where)
    truth = np.full((len(where), 3), np.nan)
    for k in range(len(where)):
        for j, code in enumerate((2, 5, 9)):
            own, unknown = (y[k] == code).sum(), (y[k] == 255).sum()
            if own >= SHARE * SIDE**2:
                truth[k, j] = 1
            elif own + unknown < SHARE * SIDE**2:
                truth[k, j] = 0
    assert card.mean is not None
    assert card.std is not None
    mean, std = (np.array(v)[:, None, None] for v in (card.mean, card.std))
    with torch.inference_mode():
        logits = load_model(card)(torch.from_numpy(((x / 255 - mean) / std).astype(np.float32)))[0]
    scores = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    assert card.multilabel is not None
    return truth, scores, np.array(card.multilabel.thresholds)


def test_the_figures_are_those_of_the_test_chips_by_label(place: Path) -> None:
    found = engine.evaluate(place / "model", place / "chips", out=place / "accuracy")
    assert isinstance(found, LabelEvaluation)
    truth, scores, limits = straight(place, 2)
    assert found.patches == len(truth)
    known = np.isfinite(truth)
    assert np.isnan(straight(place, None)[0]).any()  # of the strip that nobody knows
    for j in range(3):
        mine, told = scores[known[:, j], j], truth[known[:, j], j]
        assert found.labels["n"][j] == len(told)
        assert found.labels["f1"][j] == pytest.approx(f1_score(told, mine >= limits[j]))
        assert found.labels["average_precision"][j] == pytest.approx(
            average_precision_score(told, mine)
        )
    assert found.figures["f1_macro"] == pytest.approx(found.labels["f1"].mean())
    assert found.figures["f1_macro"] > 0.75
    report = json.loads((place / "model" / "report.json").read_text())
    assert report["test"] == pytest.approx(found.figures)
    told = json.loads((place / "accuracy" / "accuracy.json").read_text())
    assert told["labels"]["trees"]["n"] == found.labels["n"][2]
    assert (place / "accuracy" / "classes.csv").read_text().startswith("code,class,threshold,n,")
    said = CliRunner().invoke(app, ["evaluate", str(place / "model"), str(place / "chips")])
    assert said.exit_code == 0, said.output
    assert "Low plants" in said.stdout


def test_thresholds_are_chosen_on_validation(place: Path) -> None:
    truth, scores, limits = straight(place, 1)
    for j in range(3):
        known = np.isfinite(truth[:, j])
        mine, told = scores[known, j], truth[known, j]
        assert 0 < told.sum() < len(told)
        levels = np.sort(mine)
        middles = [*((levels[1:] + levels[:-1]) / 2), 0.0]
        best = max(f1_score(told, mine >= limit) for limit in middles)
        assert f1_score(told, mine >= limits[j]) == pytest.approx(best)


def test_a_table_of_a_chip_set_and_of_an_area(place: Path) -> None:
    found = engine.tag(place / "model", place / "chips", place / "chips.csv")
    _, scores, limits = straight(place, None)
    table = pandas.read_csv(place / "chips.csv", keep_default_na=False)
    assert list(table.columns) == [
        "patch", "place", "split", "x", "y", "data", "p_built", "p_low_plants", "p_trees", "labels",
    ]  # fmt: skip
    np.testing.assert_allclose(table[["p_built", "p_low_plants", "p_trees"]], scores, atol=1e-5)
    names = np.array(["built", "low_plants", "trees"])
    for row, mine in zip(table["labels"], scores >= limits, strict=True):
        assert row.split() == names[mine].tolist()
    assert found.occurs == tuple((scores >= limits).sum(axis=0).tolist())
    words = ["tag", str(place / "model"), str(place / "recipe.yaml"), "--out"]
    said = CliRunner().invoke(app, [*words, str(place / "area.parquet")])
    assert said.exit_code == 0, said.output
    area = geopandas.read_parquet(place / "area.parquet")
    assert area.crs == CRS
    assert (area.area == SIDE**2).all()
    chips = open_chips(place / "chips")
    at = {tuple(xy): k for k, xy in enumerate(chips.xy.tolist())}
    both = [(row, at[(x, y)]) for row, x, y in area[["patch", "x", "y"]].itertuples(index=False)
            if (x, y) in at]  # fmt: skip
    assert len(both) == len(chips)  # the area has those in the unknown strip too
    rows, mine = (np.array(each) for each in zip(*both, strict=True))
    np.testing.assert_allclose(area["p_trees"].to_numpy()[rows], scores[mine, 2], atol=1e-5)


def test_patches_about_sites_are_learnt_from(place: Path) -> None:
    """What `natmap frames` cuts, as it is, split by blocks of ground."""
    with rasterio.open(place / "truth.tif") as file:
        west, north = file.transform.c, file.transform.f
    points = [
        shapely.Point(west + x + 0.5, north - y - 0.5)
        for x in range(40, METRES - 40, 60)
        for y in range(100, METRES - 40, 60)
    ]
    names = [str(k) for k in range(len(points))]
    geopandas.GeoDataFrame({"id": names}, geometry=points, crs=CRS).to_file(place / "sites.gpkg")
    engine.frames(
        place / "sites.gpkg", place / "recipe.yaml", place / "frames",
        cut=SIDE, labels=place / "truth.tif",
    )  # fmt: skip
    told = training(
        labels=[{"chips": "frames", "place": "sites"}],
        chips="of-sites",
        out="of-sites-model",
        training={"epochs": 1, "batch": 16, "rate": 3e-3},
        classes=CLASSES[:2],
        multilabel={"share": SHARE, "others": [9]},  # trees are known, and no label
    )
    engine.train(told, base=place)
    mine, theirs = open_chips(place / "of-sites"), open_chips(place / "frames" / "chips")
    assert mine.crs == theirs.crs == CRS
    assert mine.places == ("sites",)
    assert find_leaks(mine.xy, mine.split, SIDE) == 0
    assert set(mine.split.tolist()) >= {0, 1, 2}
    at = {tuple(xy): k for k, xy in enumerate(theirs.xy.tolist())}
    assert len(at) == len(theirs) == len(points)
    for k in range(0, len(mine), 7):
        same = at[tuple(mine.xy[k].tolist())]
        np.testing.assert_array_equal(mine.x[k], theirs.x[same])
        known = theirs.y[same] != 15
        np.testing.assert_array_equal(mine.y[k], np.where(known, theirs.y[same], 255))
    card = load_card(place / "of-sites-model")
    assert card.multilabel is not None
    assert card.multilabel.others == (9,)
    judged = engine.evaluate(card.folder, place / "of-sites")
    assert isinstance(judged, LabelEvaluation)
    report = json.loads((card.folder / "report.json").read_text())
    assert judged.figures == pytest.approx(report["test"], nan_ok=True)
    found = engine.tag(place / "model", place / "frames", place / "sites.parquet")
    assert geopandas.read_parquet(place / "sites.parquet").crs == CRS
    assert len(found.table) == len(points)
    for wrong, said in (
        ({"side": 32}, "not those that the recipe wants"),
        ({"labels": [{"chips": "nowhere"}]}, "there is no chip set"),
        ({"multilabel": {"share": SHARE}}, "other values"),
    ):
        with pytest.raises(LabelError, match=said):
            engine.train(told | wrong, base=place)


def test_chips_of_rare_scenes_are_drawn_more_often(place: Path) -> None:
    scenes = {"by": "labels", "bandwidth": 0.15}
    once = {"epochs": 1, "batch": 16, "rate": 3e-3}
    engine.train(training(scenes=scenes, training=once, out="balanced"), base=place)
    report = json.loads((place / "balanced" / "report.json").read_text())
    assert len(report["scenes"]["sizes"]) > 1
    counts = report["occurrence"]["train"]["trees"]
    assert sum(counts.values()) == report["chips"]["train"]
    assert set(report["labels"]["trees"]) >= {"threshold", "n", "f1", "average_precision"}


def test_chips_with_too_little_data_are_not_scored(place: Path) -> None:
    chips = open_chips(place / "chips")
    x, y, _ = chips.take(np.arange(4))
    seen = np.ones(y.shape, bool)
    seen[0] = False
    seen[1, : SIDE // 4] = False
    seen[2, 0, 0] = False
    some = replace(
        chips, x=x, y=np.where(seen, y, 255).astype(np.uint8), seen=seen, xy=chips.xy[:4],
        place=chips.place[:4], split=unsplit(4),
    )  # fmt: skip
    write_chips(place / "holes", some)
    found = engine.tag(place / "model", place / "holes")
    assert found.unscored == 2
    assert found.table["p_built"].isna().tolist() == [True, True, False, False]
    assert found.table["labels"].isna().tolist() == [True, True, False, False]
    assert found.table["data"].tolist() == [0, 0.75, 1 - 1 / SIDE**2, 1]
    judged = engine.evaluate(place / "model", place / "holes")
    assert isinstance(judged, LabelEvaluation)
    assert judged.patches == 2
    assert any("no test chips" in note for note in judged.notes)
    write_chips(place / "unknown", replace(some, y=np.full_like(y, 255)))
    with pytest.raises(MetricError, match="no chip has a label"):
        engine.evaluate(place / "model", place / "unknown")
    assert len(engine.tag(place / "model", place / "unknown").table) == 4
    write_chips(place / "strange", replace(some, y=np.full_like(y, 7)))
    with pytest.raises(LabelError, match="other values"):
        engine.evaluate(place / "model", place / "strange")


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    few = [{"recipe": "recipe.yaml", "raster": "truth.tif", "most": 30}]
    more = [*CLASSES, {"code": 12, "name": "ice", "colour": "FFFFFF"}]
    with pytest.raises(LabelError, match="occur in no chip") as caught:
        engine.train(training(classes=more, chips="more", labels=few, out="never"), base=place)
    assert "ice" in str(caught.value)
    assert not (place / "never").exists()
    with pytest.raises(LabelError, match="other values"):
        engine.train(training(ignored=[], chips="more", labels=few, out="never"), base=place)
    # a model of another kind in its place, and it in another's
    other = write_segmenter(tmp_path / "unet", names=tuple(CLASSES))
    for place_of in (place / "chips", place / "recipe.yaml"):
        with pytest.raises(CardError, match="multi-label model"):
            engine.tag(other.folder, place_of)
    with pytest.raises(CardError, match="multi-label model"):
        engine.evaluate(other.folder, place / "chips")
    with pytest.raises(CardError, match="needs a segmenter") as caught_card:
        engine.plan(place / "recipe.yaml")
    assert "natmap tag" in str(caught_card.value)
    # patches of another kind
    chips = open_chips(place / "chips")
    x, y, _ = chips.take(np.arange(2))
    two = replace(
        chips, x=x[:, :2], y=y, seen=None, xy=chips.xy[:2], place=chips.place[:2],
        split=chips.split[:2], bands=RGB[:2],
    )  # fmt: skip
    write_chips(tmp_path / "bands", two)
    with pytest.raises(CardError, match="lack bands"):
        engine.tag(place / "model", tmp_path / "bands")
    write_chips(tmp_path / "metres", replace(two, x=x, bands=RGB, resolution=2.0))
    with pytest.raises(CardError, match="made for other patches"):
        engine.tag(place / "model", tmp_path / "metres")
    with pytest.raises(LabelError, match="no such format"):
        engine.tag(place / "model", place / "chips", tmp_path / "table.xlsx")
    with pytest.raises(LabelError, match="no patches to tag"):
        engine.tag(place / "model", tmp_path)
