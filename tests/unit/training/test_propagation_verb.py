"""Pseudo-labels of embedded cities: from stores and labels to GeoParquet, report and page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
import yaml
from support.cities import CELL, CRS, SIDE, embed, label, truth
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import LabelError, NatmapError, RecipeError, StoreError
from engine.recipes.propagating import load_propagation_recipe
from engine.training.propagation import LABELS, propagate_labels


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cities with labels, one without, which has a class more than some."""
    folder = tmp_path_factory.mktemp("cities")
    for k, name in enumerate("abc"):
        embed(folder, name, k, kind=("float16", "int8", "float32")[k])
        label(folder, name, k)
    embed(folder, "target", 9)
    return folder


def recipe(cities: Path, out: Path, names: str = "abc", **more: Any) -> dict[str, Any]:
    labelled = [{"recipe": f"{name}.yaml", "raster": f"{name}.tif"} for name in names]
    entries = [*labelled, {"recipe": "target.yaml"}]
    return {"name": "toy", "cities": entries, "out": str(out), **more}


def made(folder: Path, out: Path, **more: Any) -> geopandas.GeoDataFrame:
    wanted = {**recipe(folder, out), **more}
    propagate_labels(load_propagation_recipe(wanted), base=folder)
    return geopandas.read_parquet(out / LABELS)


def right(frame: geopandas.GeoDataFrame, seeds: dict[str, int]) -> np.ndarray:
    """Whether codes are those of the truth, by the place of the polygons alone."""
    centres = frame.geometry.to_crs(CRS).centroid
    cols = ((centres.x - 320_000) // CELL).astype(int)
    rows = ((5_120_000 + SIDE * CELL - centres.y) // CELL).astype(int)
    known = [
        truth(seeds[city])[row, col]
        for city, row, col in zip(frame["city"], rows, cols, strict=True)
    ]
    return np.asarray(frame["code"].to_numpy() == np.array(known))


SEEDS = {"a": 0, "b": 1, "c": 2, "target": 9}


def test_a_city_without_labels_gets_pseudo_labels(cities: Path, tmp_path: Path) -> None:
    frame = made(cities, tmp_path / "out", precision=0.9)
    counts = frame.groupby(["city", "source"]).size()
    assert {city for city, source in counts.index if source == "label"} == {"a", "b", "c"}
    assert right(frame[frame["source"] == "label"], SEEDS).all()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    pseudo = frame[frame["source"] == "pseudo"]
    assert sum(report["pseudo"].values()) == len(pseudo)
    assert (report["reason"] == "") == (len(pseudo) > 0)
    assert len(pseudo) == 0 or right(pseudo, SEEDS).mean() > 0.9
    assert report["preset"] == "default"
    assert report["labels"] == counts.xs("label", level="source").sum()
    assert not frame.duplicated(["city", "cell"]).any()
    assert frame.crs == "EPSG:4326"


def test_the_notes_vote_and_guards_keep_off_labels_and_held_out_ground(
    cities: Path, tmp_path: Path
) -> None:
    west, north = 320_000 + 10 * CELL, 5_120_000 + SIDE * CELL - 10 * CELL
    held = shapely.box(west, north - 15 * CELL, west + 15 * CELL, north)
    ground = geopandas.GeoSeries([held], crs=CRS).to_crs("EPSG:4326")
    ground.to_file(tmp_path / "held.geojson")
    wanted = recipe(cities, tmp_path / "out", preset="notes")
    wanted["cities"][-1]["held"] = str(tmp_path / "held.geojson")
    made_ = propagate_labels(load_propagation_recipe(wanted), base=cities)
    frame = geopandas.read_parquet(tmp_path / "out" / LABELS)
    pseudo = frame[frame["source"] == "pseudo"]
    assert len(pseudo) > 500
    assert right(pseudo, SEEDS).mean() > 0.9
    assert (pseudo["confidence"] >= 0.8 - 1e-6).all()
    votes = np.stack(pseudo["votes"].to_list())
    np.testing.assert_allclose(votes.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(votes.max(axis=1), pseudo["confidence"], rtol=1e-6)
    inside = pseudo[pseudo["city"] == "target"].geometry.to_crs(CRS).centroid
    assert not inside.within(held).any()
    given = set(zip(*(frame[frame["source"] == "label"][k] for k in ("city", "cell")), strict=True))
    assert not given & set(zip(pseudo["city"], pseudo["cell"], strict=True))
    assert made_.report.removed["held out"] > 100
    page = (tmp_path / "out" / "audit.html").read_text()
    assert page.count("class=card>") > 20
    assert "data:image/jpeg" in page
    assert "<script" not in page


def test_same_recipe_same_result_and_an_earlier_folder_is_replaced(
    cities: Path, tmp_path: Path
) -> None:
    one = made(cities, tmp_path / "out", preset="notes")
    other = made(cities, tmp_path / "out", preset="notes")
    assert one.equals(other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(LabelError, match="holds something else"):
        made(cities, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_few_cities_give_no_pseudo_labels_and_say_why(cities: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    wanted = recipe(cities, tmp_path / "out", names="a")
    for entry in wanted["cities"]:
        entry |= {k: str(cities / v) for k, v in entry.items()}
    path.write_text(yaml.safe_dump(wanted))
    done = CliRunner().invoke(app, ["propagate", str(path)])
    assert done.exit_code == 0, done.output
    frame = geopandas.read_parquet(tmp_path / "out" / LABELS)
    assert set(frame["source"]) == {"label"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "too few" in report["reason"]
    assert "too few" in (tmp_path / "out" / "audit.html").read_text()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"cities": []}, RecipeError, "cities"),
        ({"cities": [{"recipe": "target.yaml"}]}, RecipeError, "none has labels"),
        ({"preset": "notes", "precision": 0.5}, RecipeError, "goes with preset default"),
        ({"precision": 1.0}, RecipeError, "precision"),
        ({"cities": [{"recipe": "other.yaml", "raster": "a.tif"}] * 2}, NatmapError, "one name"),
    ],
)
def test_what_cannot_be_propagated_is_refused(
    cities: Path, tmp_path: Path, change: dict[str, Any], kind: type[Exception], said: str
) -> None:
    if not (cities / "other.yaml").exists():
        embed(cities, "other", 5, model="another")
    with pytest.raises(kind, match=said):
        made(cities, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_embeddings_that_cannot_be_compared_are_refused(cities: Path, tmp_path: Path) -> None:
    if not (cities / "other.yaml").exists():
        embed(cities, "other", 5, model="another")
    wanted = recipe(cities, tmp_path / "out")
    wanted["cities"][1]["recipe"] = "other.yaml"
    with pytest.raises(LabelError, match="differ in their settings"):
        propagate_labels(load_propagation_recipe(wanted), base=cities)
    text = (cities / "a.yaml").read_text().replace("a-store", "no-store")
    (cities / "none.yaml").write_text(text)
    wanted["cities"][1]["recipe"] = "none.yaml"
    with pytest.raises(StoreError):
        propagate_labels(load_propagation_recipe(wanted), base=cities)
