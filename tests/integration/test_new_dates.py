"""New, late, replaced and withdrawn items: only what they touch runs, and the map is the same."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml

import engine
from engine.errors import LockedError, PublishError, StoreError
from engine.runs import events
from engine.store.repository import Store
from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.districts import World
from engine.synthetic.make import synthesize

pytestmark = pytest.mark.slow
COUNTRY = Country(World(5), 6400, 4800, AUTUMN[:3])
GROUPS = {
    "composite": ("bands", "observations", "dissent", "reason"),
    "scores": ("classes",),
    "map": ("filtered", "classes", "confidence", "observations", "reason"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("country")
    synthesize(COUNTRY, folder, model="lcz-made-up", tile=160)
    return folder


@pytest.fixture(scope="module")
def whole(source: Path) -> dict[str, np.ndarray]:
    """The arrays of all three dates, made in one go."""
    recipe = yaml.safe_load((source / "recipe.yaml").read_text()) | {"store": "./whole"}
    assert not engine.run(recipe, base=source, workers=1).failed
    return arrays(source / "whole")


@pytest.fixture
def place(source: Path, tmp_path: Path) -> Path:
    """A copy of the country's recipe with a catalogue of its own; scenes are links."""
    shutil.copytree(source / "truth", tmp_path / "truth")
    (tmp_path / "scenes").mkdir()
    for path in (source / "scenes").iterdir():
        target = tmp_path / "scenes" / path.name
        target.symlink_to(path) if path.suffix == ".tif" else shutil.copy(path, target)
    shutil.copy(source / "recipe.yaml", tmp_path)
    return tmp_path


def arrays(store: Path) -> dict[str, np.ndarray]:
    tree = engine.open_store(store, decode=False)
    return {f"{g}/{n}": tree[g][n].values for g, names in GROUPS.items() for n in names}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


def run(place: Path, **changes: Any) -> dict[str, int]:
    """Run, and count the tiles that ran, by stage; days of tiles for the scenes."""
    recipe = yaml.safe_load((place / "recipe.yaml").read_text()) | changes
    ran: dict[str, int] = dict.fromkeys(("scenes", "composite", "scores", "map"), 0)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.TileDone):
            ran[event.stage] += 1

    assert not engine.run(recipe, base=place, workers=1, listeners=[listen]).failed
    return ran


def reasons(place: Path, **changes: Any) -> dict[str, dict[str, int]]:
    recipe = yaml.safe_load((place / "recipe.yaml").read_text()) | changes
    plan = engine.plan(recipe, base=place)
    for stage in plan.stages:
        assert len(stage.tiles) == sum(stage.stale.values())
    return {stage.name: stage.stale for stage in plan.stages}


def list_items(place: Path, wanted: Callable[[str], bool]) -> None:
    """Let the catalogue name these items only."""
    path = place / "scenes" / "catalog.json"
    catalog = json.loads(path.read_text())
    names = sorted(p.stem for p in (place / "scenes").glob("S2*.json"))
    catalog["links"] = [{"rel": "item", "href": f"./{n}.json"} for n in names if wanted(n)]
    path.write_text(json.dumps(catalog))


def test_a_late_item_and_a_withdrawn_one(place: Path, whole: dict[str, np.ndarray]) -> None:
    late = "33U"  # of a day that the store has from the other zone
    list_items(place, lambda name: not (late in name and "20211001" in name))
    first = run(place)
    assert reasons(place)["composite"] == {}
    without = arrays(place / "store")
    with pytest.raises(AssertionError):
        same(whole, without)
    list_items(place, lambda name: True)
    planned = reasons(place)
    assert set(planned["scenes"]) <= {"replaced item", "new item"}
    touched = sum(planned["scenes"].values())
    assert 0 < touched <= first["scenes"]
    second = run(place)
    assert second["scenes"] == touched
    assert second["scores"] <= first["scores"]
    same(whole, arrays(place / "store"))
    # withdrawn again: the earlier map, to the bit
    Store.open(place / "store").tag("with")
    list_items(place, lambda name: not (late in name and "20211001" in name))
    run(place)
    same(without, arrays(place / "store"))
    # and a whole day withdrawn: nothing is read, composites come from what is stored
    list_items(place, lambda name: "20211001" not in name)
    assert reasons(place)["composite"].keys() == {"withdrawn item"}
    third = run(place)
    assert third["scenes"] == 0
    assert third["composite"] > 0
    list_items(place, lambda name: True)
    run(place)
    same(whole, arrays(place / "store"))


def test_a_new_day_reads_that_day_alone(place: Path, whole: dict[str, np.ndarray]) -> None:
    first = run(place, imagery=period(place, "2021-09-01", "2021-10-02"))
    planned = reasons(place)
    assert planned["scenes"].keys() == {"new item"}
    second = run(place)
    assert second["scenes"] == sum(planned["scenes"].values()) == first["scenes"]
    same(whole, arrays(place / "store"))
    assert run(place) == dict.fromkeys(first, 0)


def period(place: Path, first: str, last: str) -> dict[str, Any]:
    imagery = yaml.safe_load((place / "recipe.yaml").read_text())["imagery"]
    return imagery | {"period": f"{first}/{last}"}


def test_a_replaced_item_with_the_same_pixels_stops_at_once(
    place: Path, whole: dict[str, np.ndarray]
) -> None:
    run(place)
    path = next((place / "scenes").glob("S2A_32U*20211001*.json"))
    item = json.loads(path.read_text())
    stamp = item["properties"]["s2:product_uri"]
    item["properties"]["s2:product_uri"] = stamp.replace("N0500", "N0511")
    item["properties"]["s2:processing_baseline"] = "05.11"
    path.write_text(json.dumps(item))
    planned = reasons(place)
    assert planned["scenes"].keys() == {"replaced item"}
    again = run(place)
    assert again["scenes"] == sum(planned["scenes"].values()) > 0
    assert again["composite"] == again["scores"] == again["map"] == 0
    same(whole, arrays(place / "store"))


def test_settings_stale_what_they_decide(place: Path) -> None:
    first = run(place)
    assert reasons(place, filter={"method": "majority"})["map"] == {
        "changed filter.method": first["map"]
    }
    ran = run(place, filter={"method": "majority"})
    assert ran == {"scenes": 0, "composite": 0, "scores": 0, "map": first["map"]}
    planned = reasons(place, cube={"composite": "median", "cloud_dilation": 80})
    assert planned["composite"] == {"changed cloud_dilation": first["composite"]}
    assert planned["scenes"] == {}
    # a boundary that changed in one corner stales what lies near it
    path = place / "truth" / "urban.geojson"
    towns = json.loads(path.read_text())
    towns["features"] = towns["features"][1:]
    path.write_text(json.dumps(towns))
    planned = reasons(place, filter={"method": "majority"})
    assert planned["map"].keys() <= {"replaced boundary"}
    assert planned["scores"] == {}


def test_what_changed_between_releases(place: Path, tmp_path: Path) -> None:
    run(place, imagery=period(place, "2021-09-01", "2021-10-02"))
    store = Store.open(place / "store")
    store.tag("september")
    run(place)
    store = Store.open(place / "store")
    store.tag("october")
    found = engine.diff(place / "store", "september", "october", out=tmp_path / "diff")
    old, new = (
        engine.open_store(place / "store", tag=tag)["map"]["filtered"].values
        for tag in ("september", "october")
    )
    assert found.changed == (old != new).sum() > 0
    for before, after, cells in found.largest:
        assert cells == ((old == before) & (new == after)).sum()
    with rasterio.open(tmp_path / "diff" / "changes.tif") as file:
        changes = file.read(1)
    np.testing.assert_array_equal(changes, np.where(old == new, 0, old * 100.0 + new))
    with (tmp_path / "diff" / "changes.csv").open() as file:
        assert sum(int(row["cells"]) for row in csv.DictReader(file)) == found.changed
    assert engine.diff(place / "store", "october").changed == 0
    with pytest.raises(StoreError, match="november"):
        engine.diff(place / "store", "november")


def test_a_release_is_published_as_it_was(place: Path) -> None:
    """Its map, its items, its seconds, its failures: whatever ran since."""
    recipe = yaml.safe_load((place / "recipe.yaml").read_text())

    def product() -> tuple[dict[str, Any], np.ndarray]:
        folder = Path(engine.publish(recipe, base=place, tag="first-of.2"))
        report = json.loads((folder / "report.json").read_text())
        with rasterio.open(folder / f"{recipe['name']}.tif") as file:
            return report, file.read(1)

    with pytest.raises(PublishError, match="cannot have this name"):
        engine.publish(recipe, base=place, tag="../first")
    list_items(place, lambda name: "20211001" not in name)
    run(place)
    report, pixels = product()
    assert report["items"]
    assert not any("20211001" in item for item in report["items"])
    list_items(place, lambda name: True)
    assert run(place)["scores"]
    again, same_pixels = product()
    np.testing.assert_array_equal(pixels, same_pixels)
    assert again == report
    # a release of before that kept no items: those of the last run are shown, and it is said
    (place / "store.release-first-of.2.items.parquet").unlink()
    assert any("kept no items" in note for note in product()[0]["notes"])


def test_pruning_keeps_releases_and_the_newest(
    place: Path, whole: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, imagery=period(place, "2021-09-01", "2021-10-02"))
    Store.open(place / "store").tag("first")
    before = engine.open_store(place / "store", tag="first")["map"]["filtered"].values
    run(place, filter={"method": "majority"})
    run(place)
    size = sum(p.stat().st_size for p in (place / "store").rglob("*") if p.is_file())
    with Store.open(place / "store").lock(), pytest.raises(LockedError):
        engine.prune(place / "store", keep_days=0)
    assert engine.prune(place / "store", keep_days=30).snapshots == 0
    found = engine.prune(place / "store", keep_days=0)
    assert found.snapshots > 2
    assert found.releases == ("first",)
    left = sum(p.stat().st_size for p in (place / "store").rglob("*") if p.is_file())
    assert left < size
    assert size - left == pytest.approx(found.gigabytes * 1e9, rel=0.3)
    same(whole, arrays(place / "store"))
    again = engine.open_store(place / "store", tag="first")["map"]["filtered"].values
    np.testing.assert_array_equal(before, again)
    assert run(place) == dict.fromkeys(("scenes", "composite", "scores", "map"), 0)
