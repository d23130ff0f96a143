"""Training of heads: from embedded cities, labels and pseudo-labels to a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
import zarr
from sklearn.linear_model import LogisticRegression
from support.cities import CELL, CODES, CRS, SIDE, WEST, embed, label, truth

from engine.datasets.embedded import open_embedded
from engine.datasets.pseudo_labels import LABELS
from engine.errors import CardError, LabelError, RecipeError
from engine.infer.vectors import decode_vectors
from engine.models.card import load_card
from engine.models.footprint import read_footprint
from engine.models.registry import load_model
from engine.products.registry import load_training
from engine.recipes.propagating import EmbeddedCity
from engine.store.location import Folder
from engine.store.repository import Store
from engine.training.pseudo_table import squares
from engine.training.train import Trained, train

BANDS = ("B02", "B03", "B04", "B08")
SEEDS = {"a": 0, "b": 1, "c": 2}


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cities with labels, embedded as statistics of four bands."""
    folder = tmp_path_factory.mktemp("cities")
    for name, seed in SEEDS.items():
        west = WEST + seed * 96_000  # each on ground of its own
        embed(folder, name, seed, kind="float32", bands=BANDS, west=west)
        label(folder, name, seed, west=west)
    return folder


def recipe(base: Path, out: Path, **more: Any) -> dict[str, Any]:
    entries = [{"recipe": f"{name}.yaml", "raster": f"{name}.tif"} for name in SEEDS]
    return {"name": "h", "product": "embedding", "cities": entries, "out": str(out), **more}


def trained(base: Path, out: Path, said: list[str] | None = None, **more: Any) -> Trained:
    told = [] if said is None else said
    return train(load_training(recipe(base, out, **more)), base=base, tell=told.append)


def vectors(cities: Path, name: str) -> np.ndarray:
    """Of all cells of a city, (y, x, feature)."""
    root: Any = zarr.open_group(
        Store.open(Folder(cities / f"{name}-store")).reader().store, mode="r"
    )
    return np.moveaxis(decode_vectors(np.asarray(root["embedding/vectors"]), None), 0, -1)


def by_hand(
    cities: Path, names: str, more: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
) -> Any:
    """scikit-learn's regression on all labels of some cities: scores of cells, and classes."""
    pool = np.concatenate([vectors(cities, name).reshape(-1, 12) for name in names])
    pool = pool[~np.isnan(pool).any(1)].astype(np.float64)
    middle, spread = pool.mean(0), pool.std(0)
    x, y = [], []
    for name in names:
        with rasterio.open(cities / f"{name}.tif") as file:
            codes = file.read(1)
        known = (codes > 0) & ~np.isnan(vectors(cities, name)[..., 0])
        x.append(vectors(cities, name)[known])
        y.append(codes[known])
    weights = np.ones(sum(map(len, y)))
    if more is not None:
        x.append(more[0])
        y.append(more[1])
        weights = np.concatenate([weights, more[2]])
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
    model.fit((np.concatenate(x) - middle) / spread, np.concatenate(y), weights)
    return lambda cells: model.predict_proba((cells - middle) / spread), model.classes_


def scores(out: Path, cells: np.ndarray) -> np.ndarray:
    network: Any = load_model(load_card(out))
    with torch.inference_mode():
        return np.asarray(network.classify(torch.from_numpy(cells)).numpy())


def test_whole_cities_test_and_the_others_train(cities: Path, tmp_path: Path) -> None:
    said: list[str] = []
    split = {"by": "place", "test": ["c"]}
    found = trained(cities, tmp_path / "m", said, split=split)
    cells = vectors(cities, "c").reshape(-1, 12)[1:]  # the first has none
    score, classes = by_hand(cities, "ab")
    mine = scores(tmp_path / "m", cells)
    np.testing.assert_allclose(mine[:, classes - 1], score(cells), atol=1e-3)  # its optimizer's
    assert (np.delete(mine, classes - 1, axis=1) == 0).all()
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert found.figures is not None
    assert report["test"]["oa"] == found.figures["oa"] > 0.8
    assert report["tuning"]["notes"] == [
        "2 cities are too few to tune on: the prior settings are kept"
    ]
    assert any("too few to tune on" in text for text in said)
    places = read_footprint(tmp_path / "m")
    assert places is not None
    assert len(places.places) == 2  # the third has taught nothing
    assert sum(report["cells"]["train"].values()) == sum(len(p.xy) for p in places.places)


def test_blocks_of_ground_test(cities: Path, tmp_path: Path) -> None:
    trained(cities, tmp_path / "m")
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    train_, test = (sum(report["cells"][name].values()) for name in ("train", "test"))
    assert test > 0.1 * train_ > 0
    assert len(report["tuning"]["macro_f1_of_prior"]) == 3
    assert report["tuning"]["cities"] == ["a", "b", "c"]
    card = load_card(tmp_path / "m")
    assert (card.architecture, card.bands, card.patch, card.cell) == ("head", BANDS, 32, 100)


def pseudo(cities: Path, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A propagation's file by hand."""
    known = {name: open_embedded(EmbeddedCity(recipe=f"{name}.yaml"), cities) for name in SEEDS}
    digest = known["a"].digest
    usual = {"city": "a", "source": "pseudo", "confidence": 0.5, "model": digest}
    frame = geopandas.pd.DataFrame([usual | row for row in rows])
    frame = frame.astype({"confidence": "float32"})
    boxes = [
        squares(known.get(city, known["a"]), np.array([int(cell)]))[0]
        for city, cell in zip(frame["city"], frame["cell"], strict=True)
    ]
    geopandas.GeoDataFrame(frame, geometry=boxes, crs="EPSG:4326").to_parquet(folder / LABELS)
    return folder


def test_pseudo_labels_train_by_their_confidence_and_never_test(
    cities: Path, tmp_path: Path
) -> None:
    """As scikit-learn with those that may train, and no others."""
    with rasterio.open(cities / "a.tif") as file:
        labelled = file.read(1) > 0
    free = np.flatnonzero(~labelled.ravel())[50:450:4]
    wrong = np.where(truth(0).ravel()[free] == 2, 6, 2)  # noticed if they count
    rows = [
        {"cell": int(k), "code": int(c), "confidence": 0.3}
        for k, c in zip(free, wrong, strict=True)
    ]
    first = int(np.flatnonzero(labelled.ravel())[0])
    rows += [
        {"cell": first, "code": 17},  # has a label
        {"cell": 900, "code": 17, "city": "c"},  # of the city that tests
        {"cell": int(free[-1]) + 1, "code": 17, "confidence": None, "source": "mask"},
        {"cell": 0, "code": 17, "confidence": None, "source": "mask"},  # water without a vector
        {"cell": int(free[-1]) + 2, "code": 3, "source": "label"},
    ]
    assert not labelled.ravel()[int(free[-1]) + 1]
    said: list[str] = []
    trained(
        cities,
        tmp_path / "m",
        said,
        pseudo=str(pseudo(cities, tmp_path, rows)),
        split={"by": "place", "test": ["c"]},
        model={"tune": False},
    )
    left = "left out: 1 labelled, 1 of a city that tests, 1 without a vector"
    assert f"{len(free) + 1} pseudo-labels train; {left}" in said
    a = vectors(cities, "a").reshape(-1, 12)
    ids = np.append(free, free[-1] + 1)
    more = a[ids], np.append(wrong, 17), np.append(np.full(len(free), np.float32(0.3)), 1.0)
    score, classes = by_hand(cities, "ab", more)
    cells = vectors(cities, "c").reshape(-1, 12)[1:]  # the first has none
    mine = scores(tmp_path / "m", cells)[:, classes - 1]
    np.testing.assert_allclose(mine, score(cells), atol=1e-3)
    plain, _ = by_hand(cities, "ab")
    assert np.abs(mine - plain(cells)).max() > 0.1


def test_ground_that_is_held_out_tests(cities: Path, tmp_path: Path) -> None:
    west, north = WEST, 5_120_000 + SIDE * CELL
    held = shapely.box(west, north - 12 * CELL, west + 20 * CELL, north)
    geopandas.GeoSeries([held], crs=CRS).to_crs("EPSG:4326").to_file(tmp_path / "held.geojson")
    wanted = recipe(cities, tmp_path / "m", split={"by": "place"}, model={"tune": False})
    wanted["cities"][0]["held"] = str(tmp_path / "held.geojson")
    wanted["pseudo"] = str(pseudo(cities, tmp_path, [{"cell": 5 * SIDE + 5, "code": 2}]))
    said: list[str] = []
    train(load_training(wanted), base=cities, tell=said.append)
    assert "0 pseudo-labels train; left out: 1 held out" in said
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert sum(report["cells"]["test"].values()) > 5
    ground = read_footprint(tmp_path / "m")
    assert ground is not None
    inside = shapely.contains_xy(held, *ground.places[0].xy.T)
    assert not inside.any()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"code": 18}, "no label can"),
        ({"confidence": 1.5}, "no label can"),
        ({"confidence": float("inf")}, "no label can"),
        ({"source": "me"}, "no label can"),
        ({"city": "d"}, "a city that the recipe lacks"),
        ({"model": "0" * 64}, "made with other vectors"),
        ({"cell": 10**9}, "have no vector"),
        ({"cell": 0}, "have no vector"),
        ({"code": "2"}, "another type"),
        ({"cell": 1.5}, "another type"),
    ],
)
def test_pseudo_labels_that_cannot_be_are_refused(
    cities: Path, tmp_path: Path, row: dict[str, Any], said: str
) -> None:
    folder = pseudo(cities, tmp_path, [{"cell": 45, "code": 2} | row])
    with pytest.raises(LabelError, match=said):
        trained(cities, tmp_path / "m", pseudo=str(folder))
    assert not (tmp_path / "m").exists()


def test_a_cell_with_two_pseudo_labels_and_a_file_of_something_else(
    cities: Path, tmp_path: Path
) -> None:
    folder = pseudo(cities, tmp_path, [{"cell": 45, "code": 2}, {"cell": 45, "code": 6}])
    with pytest.raises(LabelError, match="two pseudo-labels"):
        trained(cities, tmp_path / "m", pseudo=str(folder))
    (tmp_path / LABELS).write_text("no parquet")
    with pytest.raises(LabelError, match="cannot be read"):
        trained(cities, tmp_path / "m", pseudo=str(folder))


def test_what_cannot_be_trained_is_refused(cities: Path, tmp_path: Path) -> None:
    label(cities, "few", 0, only=CODES[:1])
    only = [{"recipe": "a.yaml", "raster": "few.tif"}]
    with pytest.raises(LabelError, match="too few classes"):
        trained(cities, tmp_path / "m", cities=only)
    with pytest.raises(LabelError, match="no such city"):
        trained(cities, tmp_path / "m", split={"by": "place", "test": ["paris"]})
    with pytest.raises(RecipeError, match="whole number of pixels"):
        trained(cities, tmp_path / "m", model={"cell": 101})
    for wrong, said in (
        ({"cities": [{"recipe": "a.yaml"}]}, "none has labels"),
        ({"split": {"shares": [0.7, 0.1, 0.2]}}, "nothing validates"),
        ({"split": {"test": ["a"]}}, "by: place"),
        ({"training": {"epochs": 5}}, "its seed alone"),
    ):
        with pytest.raises(RecipeError, match=said):
            load_training(recipe(cities, tmp_path, **wrong))
    again = load_training(recipe(cities, tmp_path, training={"seed": 3}))
    assert load_training(again.model_dump(mode="json")) == again


def test_vectors_of_a_model_that_the_recipe_lacks_are_refused(cities: Path, tmp_path: Path) -> None:
    embed(tmp_path, "other", 5)
    label(tmp_path, "other", 5)
    other = [{"recipe": "other.yaml", "raster": "other.tif"}]
    with pytest.raises(CardError, match="does not name"):
        trained(tmp_path, tmp_path / "m", cities=other)
    text = (tmp_path / "other.yaml").read_text()
    (tmp_path / "other.yaml").write_text(text + "model: {card: lcz-made-up}\n")
    with pytest.raises(CardError, match="not the one that made"):
        trained(tmp_path, tmp_path / "m", cities=other)


def test_cities_on_one_ground_do_not_test_each_other(cities: Path, tmp_path: Path) -> None:
    """Two years of a city: what tests in one year does not train in the other."""
    embed(tmp_path, "a", 0, kind="float32", bands=BANDS)
    embed(tmp_path, "b", 1, kind="float32", bands=BANDS)
    for name in "ab":
        label(tmp_path, name, 0)
    two = [{"recipe": f"{name}.yaml", "raster": f"{name}.tif"} for name in "ab"]
    with pytest.raises(LabelError, match="too few classes"):
        trained(tmp_path, tmp_path / "m", cities=two, split={"by": "place", "test": ["b"]})
    trained(tmp_path, tmp_path / "m", cities=two, split={"by": "block", "side": 2000})
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    ground = read_footprint(tmp_path / "m")
    assert ground is not None
    assert report["test"] is not None
    assert sum(report["cells"]["train"].values()) < 2 * 40 * 40 * 0.06 * 0.8
