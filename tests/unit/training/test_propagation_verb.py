"""Pseudo-labels of embedded cities: from stores and labels to GeoParquet, report and page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from affine import Affine
from odc.geo.geobox import GeoBox
from support.cities import CELL, CODES, CRS, SIDE, embed, label, truth
from support.osm_files import Osm
from typer.testing import CliRunner

from engine.cli.app import app
from engine.datasets.embedded import open_embedded
from engine.errors import LabelError, NatmapError, RecipeError, StoreError
from engine.recipes.propagating import EmbeddedCity, load_propagation_recipe
from engine.training.audit_cards import audit_cards
from engine.training.propagation import LABELS, propagate_labels
from engine.training.pseudo_table import squares


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


def test_water_of_openstreetmap_labels_cells_that_nobody_did(cities: Path, tmp_path: Path) -> None:
    """A lake over the western tenth, a held block on it, and a label within it."""
    side = SIDE * CELL
    lake = Osm(bounds=(-900, -900, side + 900, side + 900), place=(CRS, 320_000.0, 5_120_000.0))
    lake.ring([(0, 0), (4 * CELL, 0), (4 * CELL, side), (0, side)], natural="water")
    path = lake.write(tmp_path, "lake.osm")
    held = shapely.box(320_000, 5_120_000, 320_000 + 9 * CELL, 5_120_000 + 10 * CELL)
    geopandas.GeoSeries([held], crs=CRS).to_crs("EPSG:4326").to_file(tmp_path / "held.geojson")
    wanted = recipe(cities, tmp_path / "out", preset="notes")
    for entry in (wanted["cities"][0], wanted["cities"][-1]):
        entry["osm"] = {"path": str(path)}
    wanted["cities"][-1]["held"] = str(tmp_path / "held.geojson")
    propagate_labels(load_propagation_recipe(wanted), base=cities)
    frame = geopandas.read_parquet(tmp_path / "out" / LABELS)
    found = frame[frame["source"] == "osm"]
    assert set(found["code"]) == {17}
    assert set(found["city"]) == {"a", "target"}
    assert (found["cell"] % SIDE < 4).all()
    west = frame[frame["cell"] % SIDE < 4]
    one = west[west["city"] == "a"]
    assert len(one) == 4 * SIDE - 1  # all but the cell without a vector
    assert set(one["source"]) == {"osm", "label"}
    target = west[west["city"] == "target"]
    assert len(target) == 4 * (SIDE - 10 - 1) + 3  # less those that touch the held block
    assert (target["cell"] // SIDE < SIDE - 10).all()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["direct"] == {"mask": 0, "osm": len(found)}
    told = report["cities"][0]["openstreetmap"]
    assert told["timestamp"] == "2017-06-01T12:00:00+00:00"
    assert told["origins"][0]["licence"] == "ODbL-1.0"
    assert report["cities"][1]["openstreetmap"] is None
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "© OpenStreetMap contributors, licence ODbL-1.0" in page


def test_the_page_shows_what_openstreetmap_and_the_nearest_label_say(
    cities: Path, tmp_path: Path
) -> None:
    """Canals cover .6 of each cell of every other column: too little to label, enough to doubt."""
    side = SIDE * CELL
    lake = Osm(bounds=(-900, -900, side + 900, side + 900), place=(CRS, 320_000.0, 5_120_000.0))
    for col in range(1, SIDE, 2):
        west, east = col * CELL, (col + 0.6) * CELL
        lake.ring([(west, 0), (east, 0), (east, side), (west, side)], natural="water")
    wanted = recipe(cities, tmp_path / "out", preset="notes")
    wanted["cities"][-1]["osm"] = {"path": str(lake.write(tmp_path, "lake.osm"))}
    heard: list[Any] = []

    def hear(*args: Any) -> list[Any]:
        heard.extend(audit_cards(*args))
        return heard

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.training.propagation.audit_cards", hear)
        propagate_labels(load_propagation_recipe(wanted), base=cities)
    frame = geopandas.read_parquet(tmp_path / "out" / LABELS)
    assert "osm" not in set(frame["source"])
    shores = 0
    for shown in heard:
        if shown.city != "target":
            assert (shown.told, shown.drawn) == ("", ())
            continue
        column, wet = shown.cell % SIDE, "OpenStreetMap has water on 60% of it"
        on_lake = column % 2 == 1
        shores += on_lake
        assert shown.told == f"OpenStreetMap: {'water 60%' if on_lake else 'nothing'}"
        assert (wet in shown.doubts) == (on_lake and shown.code != 17)
        if on_lake:
            (drawn,) = shown.drawn
            xy = np.concatenate(drawn.rings)
            np.testing.assert_allclose(xy[:, 0].min(), 0.25, atol=1e-3)  # the cell's western edge
            np.testing.assert_allclose(xy[:, 0].max(), 0.25 + 0.6 / 2, atol=1e-3)
        assert shown.neighbour_city in ("a", "b", "c")
        assert shown.neighbour_picture is not None
        assert any(d.startswith("the nearest label is") for d in shown.doubts) == (
            shown.neighbour != shown.code
        )
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "nearest label: " in page
    assert page.count("<svg") == 2 * page.count("class=card>")
    assert shores


def test_same_recipe_same_result_and_an_earlier_folder_is_replaced(
    cities: Path, tmp_path: Path
) -> None:
    two = recipe(cities, tmp_path / "out", "ab")["cities"]
    one = made(cities, tmp_path / "out", preset="notes", cities=two)
    other = made(cities, tmp_path / "out", preset="notes", cities=two)
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


def test_an_embedding_whose_run_was_broken_off_is_refused(cities: Path, tmp_path: Path) -> None:
    embed(cities, "half", 5, ended=False)
    wanted = recipe(cities, tmp_path / "out")
    wanted["cities"][-1]["recipe"] = "half.yaml"
    with pytest.raises(StoreError, match="not whole") as told:
        propagate_labels(load_propagation_recipe(wanted), base=cities)
    assert "natmap embed half.yaml" in str(told.value.remedy)
    assert not (tmp_path / "out").exists()


def test_what_is_odd_about_a_city_is_recorded(cities: Path, tmp_path: Path) -> None:
    """A tile that failed, labels without a vector, labels of one class."""
    embed(cities, "odd", 0, failed=True)
    label(cities, "odd", 0, share=1.0, only=(6,))
    wanted = recipe(cities, tmp_path / "out", preset="notes", most=20)
    wanted["cities"][0] = {"recipe": "odd.yaml", "raster": "odd.tif"}
    wanted["cities"][-1]["recipe"] = "a.yaml"
    heard: list[str] = []
    propagate_labels(load_propagation_recipe(wanted), base=cities, tell=heard.append)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["cities"][0]["notes"] == [
        "a tile of the embedding failed: cells there have no vector",
        *(
            ["1 of 355 labelled cells have no vector, and take no part"]
            if truth(0)[0, 0] == 6
            else []
        ),
        "all its labels are of one class, LCZ 6",
    ]
    assert "note: all its labels are of one class, LCZ 6" in heard
    assert (
        "odd: all its labels are of one class, LCZ 6"
        in (tmp_path / "out" / "audit.html").read_text()
    )
    # of many labels 20 took part; the others keep their cells all the same
    frame = geopandas.read_parquet(tmp_path / "out" / LABELS)
    assert report["used"] < report["labels"] == (frame["source"] == "label").sum()
    assert (frame["source"][frame["city"] == "odd"] == "label").sum() >= (truth(0) == 6).sum() - 1
    assert not frame.duplicated(["city", "cell"]).any()
    # by distance alone some class is not told, or cannot be looked at: both are listed
    assert set(report["detection"]) | set(map(str, report["unknown"])) == set(map(str, CODES))
    assert set(report["undetectable"]) == {
        int(code) for code, found in report["detection"].items() if found["rejected"] < 0.5
    }


def test_areas_of_another_place_are_refused(cities: Path, tmp_path: Path) -> None:
    squares_ = [shapely.box(west, 45.0, west + 0.1, 45.1) for west in (0.0, 1.0)]
    frame = geopandas.GeoDataFrame({"lcz": [6, 11]}, geometry=squares_, crs="EPSG:4326")
    frame.to_file(tmp_path / "areas.geojson")
    wanted = recipe(cities, tmp_path / "out")
    wanted["cities"][0] = {"recipe": "a.yaml", "areas": str(tmp_path / "areas.geojson")}
    with pytest.raises(LabelError, match="label no cell") as told:
        propagate_labels(load_propagation_recipe(wanted), base=cities)
    assert "outside of the map" in str(told.value)


def test_water_of_a_published_embedding_is_g(cities: Path, tmp_path: Path) -> None:
    embed(cities, "lake", 9, lake=True)
    (label_at := truth(9) * 0)[0, 3] = 2  # somebody says that one of these is no water
    label(cities, "lake", 9)
    with rasterio.open(cities / "lake.tif", "r+") as file:
        file.write(label_at, 1)
    wanted = recipe(cities, tmp_path / "out", "ab", preset="notes")
    wanted["cities"][-1] = {"recipe": "lake.yaml", "raster": "lake.tif"}
    made_ = propagate_labels(load_propagation_recipe(wanted), base=cities)
    frame = geopandas.read_parquet(tmp_path / "out" / LABELS)
    lake = frame[frame["city"] == "lake"].set_index("cell")
    assert lake.loc[[1, 2, 4], "code"].tolist() == [17, 17, 17]
    assert lake.loc[[1, 2, 4], "source"].tolist() == ["mask"] * 3
    assert lake.loc[3, ["code", "source"]].tolist() == [2, "label"]
    assert 0 not in lake.index  # neither a vector nor enough water
    assert made_.report.direct["mask"] == 3
    assert len(lake) > 100
    never = {**wanted, "water": None, "out": str(tmp_path / "dry")}
    propagate_labels(load_propagation_recipe(never), base=cities)
    dry = geopandas.read_parquet(tmp_path / "dry" / LABELS)
    assert set(dry["source"]) == {"label", "pseudo"}


def test_without_its_mean_a_city_in_another_light_is_labelled_alike(
    cities: Path, tmp_path: Path
) -> None:
    embed(cities, "light", 9, kind="float32", moved=40.0)
    embed(cities, "dark", 9, kind="float32")
    found = {}
    for name, center in (("light", None), ("light", "city"), ("dark", "city")):
        out = tmp_path / f"{name}-{center}"
        wanted = recipe(cities, out, "ab", preset="notes", center=center)
        wanted["cities"][-1] = {"recipe": f"{name}.yaml", "name": "target"}
        propagate_labels(load_propagation_recipe(wanted), base=cities)
        frame = geopandas.read_parquet(out / LABELS)
        found[name, center] = frame[(frame["city"] == "target") & (frame["source"] == "pseudo")]
    assert not len(found["light", None])
    both = found["light", "city"], found["dark", "city"]
    assert len(both[0]) > 50
    assert list(both[0]["cell"]) == list(both[1]["cell"])
    assert list(both[0]["code"]) == list(both[1]["code"])


def test_outlines_across_180_go_on_beyond_it(cities: Path) -> None:
    city = open_embedded(EmbeddedCity(recipe="a.yaml"), cities)
    beyond = GeoBox((1, 3), Affine(320, 0, 833_500, 0, -320, 50_000), "EPSG:32660")
    shapes = squares(replace(city, cells=beyond), np.arange(3))
    bounds = shapely.bounds(shapes)
    assert (bounds[:, 2] - bounds[:, 0] < 0.01).all()
    assert bounds[1, 0] < 180 < bounds[1, 2]
