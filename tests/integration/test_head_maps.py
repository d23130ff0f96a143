"""Heads, trained on embeddings and mapped: the map is the head's answer on the same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from sklearn.linear_model import LogisticRegression
from support import shared
from support.worlds import SMALL, square_of, synthesize

import engine
from engine.errors import CardError
from engine.models.card import load_card

pytestmark = pytest.mark.slow

BANDS = ["B02", "B03", "B04", "B08"]
SPLIT = {"by": "place"}  # without a name: all labels train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    synthesize(SMALL, folder, tile=160, model="lcz-made-up")
    return folder


def recipe(world: Path, name: str, product: str, tile: int = 160, **more: Any) -> dict[str, Any]:
    made = yaml.safe_load((world / "recipe.yaml").read_text())
    imagery = {**made["imagery"], "catalog": str(world / "scenes" / "catalog.json")}
    if "model" not in more or product == "lcz":
        imagery["bands"] = BANDS if more.pop("few", True) else None
    return {
        "name": name,
        "product": product,
        "area": {"file": str(square_of(world, more.pop("half", 700)))},
        "grid": {**made["grid"], "tile": tile, "chunk": 160},
        "imagery": {k: v for k, v in imagery.items() if v is not None},
        "cube": {"keep_scenes": False},
        "store": str(world / f"{name}-store"),
        **more,
    }


def embedded(world: Path, name: str, **more: Any) -> Path:
    told = recipe(world, name, "embedding", vectors="float32", **more)
    path = world / f"{name}.yaml"
    path.write_text(yaml.safe_dump(told))
    assert shared.run(path, until="pool").failed == ()
    return path


def head(world: Path, source: Path, name: str, **model: Any) -> Path:
    """Trained on the truth of all cells that have one."""
    told = {
        "name": name,
        "product": "embedding",
        "cities": [{"recipe": str(source), "raster": str(world / "truth" / "truth-lcz.tif")}],
        "split": SPLIT,
        "model": {"tune": False, **model},
        "out": str(world / name),
    }
    engine.train(told)
    return world / name


def mapped(told: dict[str, Any]) -> Any:
    assert shared.run(told).failed == ()
    return engine.open_store(told["store"], decode=False).load()


def by_hand(tree: Any, world: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of scikit-learn's regression on the stored vectors (class, y, x), where, classes."""
    vectors = tree["embedding"]["vectors"].values.astype(np.float64)
    known = ~np.isnan(vectors).any(axis=0)
    pool = vectors[:, known].T
    middle, spread = pool.mean(0), pool.std(0)
    used = spread > 0
    scaled = (pool[:, used] - middle[used]) / spread[used]
    x, y = tree["embedding"]["x"].values, tree["embedding"]["y"].values
    with rasterio.open(world / "truth" / "truth-lcz.tif") as file:
        points = [(x[col], y[row]) for row, col in np.argwhere(known)]
        codes = np.array([value[0] for value in file.sample(points)])
    some = codes > 0
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(scaled[some], codes[some])
    scores = np.full((len(model.classes_), *known.shape), np.nan)
    scores[:, known] = model.predict_proba(scaled).T
    return scores, known, model.classes_


def test_a_map_on_the_embeddings_cells_is_what_the_head_says_of_its_vectors(world: Path) -> None:
    source = embedded(world, "plain")
    folder = head(world, source, "logistic", cell=320)
    tree = mapped(recipe(world, "m320", "lcz", model={"card": str(folder)}))
    stored = engine.open_store(world / "plain-store", decode=False).load()
    scores, known, classes = by_hand(stored, world)
    mine = tree["scores"]["probability"].values
    there = {float(v): k for k, v in enumerate(stored["embedding"]["x"].values)}
    down = {float(v): k for k, v in enumerate(stored["embedding"]["y"].values)}
    compared = 0
    for row, y in enumerate(tree["scores"]["y"].values):
        for col, x in enumerate(tree["scores"]["x"].values):
            if np.isnan(mine[0, row, col]) or not known[down[float(y)], there[float(x)]]:
                continue
            wanted = scores[:, down[float(y)], there[float(x)]]
            np.testing.assert_allclose(mine[classes - 1, row, col], wanted, atol=2e-3)
            compared += 1
    assert compared > 12


def test_cells_of_100_m_are_mapped_alike_in_two_tilings(world: Path) -> None:
    source = world / "plain.yaml"
    if not source.exists():
        embedded(world, "plain")
    folder = head(world, source, "forest", kind="forest")
    small = {"model": {"card": str(folder)}, "half": 400}
    told = recipe(world, "one", "lcz", publish=str(world / "p"), **small)
    one = mapped(told)
    other = mapped(recipe(world, "other", "lcz", tile=320, **small))
    mine = one["scores"]["probability"]
    theirs = other["scores"]["probability"].reindex_like(mine)
    known = ~np.isnan(mine.values[0])
    assert known.sum() > 50
    np.testing.assert_array_equal(mine.values, theirs.values)
    # statistics of the 32 x 32 pixels about a cell, by the trees on the pool's scale
    engine.publish(told)
    with rasterio.open(world / "p" / "one.tif") as file:
        assert file.res == (100, 100)
        assert (file.read(1) > 0).sum() > 50


def test_features_of_a_network_are_computed_by_the_head_itself(world: Path) -> None:
    source = embedded(world, "net", model={"card": "lcz-made-up"})
    folder = head(world, source, "encoded", cell=320)
    card = load_card(folder)
    assert card.context > 0  # evaluated densely
    tree = mapped(recipe(world, "mnet", "lcz", few=False, model={"card": str(folder)}))
    stored = engine.open_store(world / "net-store", decode=False).load()
    scores, _, classes = by_hand(stored, world)
    mine = tree["scores"]["probability"]
    theirs = stored["embedding"]["vectors"].isel(feature=0).copy()
    for position, code in enumerate(classes):
        wanted = theirs.copy(data=scores[position].astype(np.float32)).reindex_like(mine[0])
        both = ~np.isnan(wanted.values) & ~np.isnan(mine.values[code - 1])
        assert both.sum() > 12
        np.testing.assert_allclose(mine.values[code - 1][both], wanted.values[both], atol=5e-3)
    # it takes the network's bands, and says so where the cube lacks some
    with pytest.raises(CardError, match="needs bands that the cube lacks"):
        engine.plan(recipe(world, "few", "lcz", model={"card": str(folder)}))
