"""A segmenter is adapted to each city of a file, again where something changed, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from support.cards import write_segmenter
from support.worlds import photograph
from test_cities import BOUNDS, CRS, NEW, OLD, PLAIN, SOUTH, THERE, WEST, write_cities
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.datasets.chips import ChipSet, write_chips
from engine.errors import RecipeError
from engine.models.card import load_card
from engine.models.registry import load_weights
from engine.training.adapt import adapt
from engine.training.adapt_cities import adapt_cities

pytestmark = pytest.mark.slow

AWAY = shapely.box(WEST + 4, SOUTH + 4, WEST + 20, SOUTH + 20)  # of no window the half


def recipe(**more: Any) -> dict[str, Any]:
    return {
        "name": "green",
        "product": "ugs",
        "model": "model",
        "chips": "chips",
        "target": "map.yaml",
        "most": 6,
        "training": {"steps": 2, "check": 1, "guard": 100, "statistics": "target"},
        "out": "adapted",
        **more,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapting")
    photograph(PLAIN.world, THERE, folder / "photos")
    write_segmenter(folder / "model", patch=32, overlap=8)
    rng = np.random.default_rng(0)
    write_chips(
        folder / "chips",
        ChipSet(
            rng.integers(1, 255, (8, 3, 32, 32)).astype(np.uint8),
            rng.integers(0, 2, (8, 32, 32)).astype(np.uint8),
            np.zeros((8, 2)),
            np.zeros(8, np.uint16),
            np.array([0, 0, 0, 0, 1, 1, 1, 2], np.uint8),
            ("B04", "B03", "B02"),
            ("made up",),
        ),
    )
    write_cities(folder / "area.geojson", [("all", shapely.box(*BOUNDS), {})])
    target = {
        "name": "region",
        "product": "ugs",
        "area": {"file": "area.geojson"},
        "grid": {"crs": CRS, "tile": 200, "chunk": 100},
        "images": {"catalog": "photos/catalog.json"},
        "model": {"card": "./model", "cities": "adapted/cities.geojson"},
        "store": "store",
    }
    (folder / "map.yaml").write_text(json.dumps(target))
    (folder / "adapt.yaml").write_text(json.dumps(recipe()))
    write_cities(folder / "old.geojson", [("x", OLD, {})])
    cities = [("Âlt Städt", OLD, {}), ("서울", NEW, {}), ("Away", AWAY, {})]
    features = [
        (f"feature {k}", shape, {"NAME": name}) for k, (name, shape, _) in enumerate(cities)
    ]
    write_cities(folder / "cities.geojson", features)
    return folder


def test_each_city_is_adapted_as_it_is_alone_and_what_is_there_is_kept(place: Path) -> None:
    words = ["adapt", str(place / "adapt.yaml"), "--each", str(place / "cities.geojson")]
    done = CliRunner().invoke(app, [*words, "--field", "NAME"])
    assert done.exit_code == 1, done.output  # one city is too small for a chip
    assert "2 of 3 cities have a card, 1 failed" in done.output
    out = place / "adapted"
    report = {c["city"]: c for c in json.loads((out / "report.json").read_text())["cities"]}
    assert {name: c["state"] for name, c in report.items()} == {
        "Away": "failed",
        "Âlt Städt": "adapted",
        "서울": "adapted",
    }
    assert "no chip to adapt to" in report["Away"]["reason"]
    told = json.loads((out / "cities.geojson").read_text())["features"]
    assert [f["properties"]["name"] for f in told] == ["Âlt Städt", "서울"]
    assert told[0]["properties"]["card"] == "./Alt-Stadt"
    cards = [load_card(out / f["properties"]["card"]) for f in told]
    assert len({card.key for card in cards} | {load_card(place / "model").key}) == 3
    # the same as the verb's own work on a recipe of that city alone
    alone = json.loads((place / "map.yaml").read_text()) | {"mask": {"boundaries": "old.geojson"}}
    alone["model"] = {"card": "./model"}
    (place / "alone.yaml").write_text(json.dumps(alone))
    card, _ = adapt(recipe(target="alone.yaml", out="alone"), base=place)
    for name, value in load_weights(card).items():
        assert value.equal(load_weights(cards[0])[name]), name
    # the file is what a map takes
    assert engine.plan(place / "map.yaml").tiles > 0

    def again(**more: Any) -> dict[str, tuple[str, str]]:
        found = adapt_cities(
            recipe(**more), place / "cities.geojson", field="NAME", base=place
        ).cities
        return {c.city: (c.state, c.reason) for c in found}

    kept = again()
    assert {kept["Âlt Städt"][0], kept["서울"][0]} == {"kept"}
    file = out / "Alt-Stadt" / cards[0].weights
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    changed = again()
    assert changed["Âlt Städt"][0] == "adapted"
    assert "not whole" in changed["Âlt Städt"][1]
    assert changed["서울"][0] == "kept"
    features = [("a", OLD.buffer(-10), {"NAME": "Âlt Städt"}), ("b", NEW, {"NAME": "서울"})]
    write_cities(place / "cities.geojson", features)
    changed = again()
    assert changed["Âlt Städt"] == ("adapted", "of another polygon than its card")
    assert changed["서울"][0] == "kept"
    training = {**recipe()["training"], "seed": 3}
    assert again(training=training)["서울"] == ("adapted", "of another settings than its card")


def test_what_cannot_be_adapted_to_is_refused_before_work(place: Path) -> None:
    write_cities(place / "twice.geojson", [("a b", OLD, {}), ("a-b", NEW, {})])
    with pytest.raises(RecipeError, match="two cities would have one folder"):
        adapt_cities(recipe(out="other"), place / "twice.geojson", base=place)
    with pytest.raises(RecipeError, match="no field town"):
        adapt_cities(recipe(out="other"), place / "twice.geojson", field="town", base=place)
    write_cities(place / "one.geojson", [("model", OLD, {})])
    with pytest.raises(RecipeError, match="folder of the model"):
        adapt_cities(recipe(out="."), place / "one.geojson", base=place)
    assert not (place / "other").exists()
