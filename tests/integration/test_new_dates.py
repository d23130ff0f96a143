"""New, late, replaced and withdrawn items: only what they touch runs, and the map is the same.

A square kilometre about the corner of four tiles, in the session's country, so that there is a map
of three dates to compare with. Most tests begin with a copy of a store that is there. Scenes stay
at one place, since an item at another address is another item; what a test changes is its own
catalogue.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from support import shared
from support.worlds import change_recipe

import engine
from engine.errors import LockedError, PublishError, StoreError
from engine.runs import events
from engine.store.repository import Store
from engine.synthetic.country import to_degrees
from engine.synthetic.scene import CRS

pytestmark = pytest.mark.slow
GROUPS = {
    "composite": ("bands", "observations", "dissent", "reason"),
    "scores": ("probability",),
    "map": ("classes", "unfiltered", "confidence", "observations", "reason"),
}
CORNER, HALF = (4_465_600, 2_934_400), 500  # where four tiles meet, at the edge of a town
DAY = "20210926"  # the clearest there
RELEASE = "first-of.2"


@pytest.fixture(scope="module")
def whole(reference: Path) -> dict[str, np.ndarray]:
    """The arrays of all three dates, made in one go."""
    found = arrays(reference / "store")
    assert len(np.unique(found["map/classes"])) > 4
    return found


@dataclass(frozen=True)
class Grown:
    """A country of two dates that was released, and got an earlier one."""

    folder: Path
    first: dict[str, int]
    before: dict[str, np.ndarray]
    released: tuple[dict[str, Any], np.ndarray]
    planned: dict[str, dict[str, int]]
    second: dict[str, int]


@pytest.fixture(scope="module")
def grown(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = bare(reference, tmp_path_factory.mktemp("grown"))
    first = run(folder, imagery=period(folder, "2021-09-30", "2021-10-31"))
    before = arrays(folder / "store")
    released = release(folder)
    planned = reasons(folder)
    return Grown(folder, first, before, released, planned, run(folder))


@pytest.fixture
def place(grown: Grown, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(grown.folder, tmp_path / "place"))


def bare(reference: Path, folder: Path) -> Path:
    """The square without a map, and a catalogue of all items."""
    shutil.copytree(reference / "truth", folder / "truth")
    square = shapely.Point(CORNER).buffer(HALF, cap_style="square")
    (folder / "truth" / "area.geojson").write_text(shapely.to_geojson(to_degrees(square)))
    shutil.copy(reference / "recipe.yaml", folder)
    list_items(folder, lambda name: True)
    return folder


def release(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The report and the map of the release."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    product = Path(engine.publish(recipe, base=folder, tag=RELEASE))
    with rasterio.open(product / f"{recipe['name']}.tif") as file:
        return json.loads((product / "report.json").read_text()), file.read(1)


def arrays(store: Path) -> dict[str, np.ndarray]:
    """All of the square; other stores reach further, or less far."""
    tree = engine.open_store(store, decode=False)
    (x, y), half = CORNER, HALF - 50
    square = {"x": slice(x - half, x + half), "y": slice(y + half, y - half)}
    return {f"{g}/{n}": tree[g][n].sel(square).values for g, names in GROUPS.items() for n in names}


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

    assert not shared.run(recipe, base=place, listeners=[listen]).failed
    return ran


def reasons(place: Path, **changes: Any) -> dict[str, dict[str, int]]:
    recipe = yaml.safe_load((place / "recipe.yaml").read_text()) | changes
    plan = engine.plan(recipe, base=place)
    for stage in plan.stages:
        assert len(stage.tiles) == sum(stage.stale.values())
    return {stage.name: stage.stale for stage in plan.stages}


def tiles(place: Path) -> dict[str, int]:
    """Tiles of each stage that are made and up to date."""
    recipe = yaml.safe_load((place / "recipe.yaml").read_text())
    return {stage.name: stage.fresh for stage in engine.plan(recipe, base=place).stages}


def list_items(place: Path, wanted: Callable[[str], bool]) -> None:
    """Give the country a catalogue of its own, of these items only; its own items come first."""
    recipe = place / "recipe.yaml"
    imagery = yaml.safe_load(recipe.read_text())["imagery"]
    paths = {path.stem: str(path) for path in scenes().glob("S2*.json")}
    paths |= {path.stem: str(path) for path in place.glob("S2*.json")}
    links = [{"rel": "item", "href": paths[name]} for name in sorted(paths) if wanted(name)]
    catalog = {"type": "Catalog", "id": "x", "links": links}
    (place / "catalog.json").write_text(json.dumps(catalog))
    change_recipe(recipe, imagery={**imagery, "catalog": "catalog.json"})


def scenes() -> Path:
    """Where the items of the mapped country are."""
    recipe = yaml.safe_load((shared.reference() / "recipe.yaml").read_text())
    return Path(recipe["imagery"]["catalog"]).parent


def period(place: Path, first: str, last: str) -> dict[str, Any]:
    imagery = yaml.safe_load((place / "recipe.yaml").read_text())["imagery"]
    return imagery | {"period": f"{first}/{last}"}


def test_a_late_item_and_a_withdrawn_one(
    reference: Path, tmp_path: Path, whole: dict[str, np.ndarray], grown: Grown
) -> None:
    place = bare(reference, tmp_path)

    def early(name: str) -> bool:
        return not ("32U" in name and DAY in name)

    list_items(place, early)  # of that day the store has the other zone alone
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
    list_items(place, early)
    run(place)
    same(without, arrays(place / "store"))
    # and a whole day withdrawn: nothing is read, composites come from what is stored
    list_items(place, lambda name: DAY not in name)
    assert reasons(place)["composite"].keys() == {"withdrawn item"}
    third = run(place)
    assert third["scenes"] == 0
    assert third["composite"] > 0
    same(grown.before, arrays(place / "store"))  # a store that never had the day
    list_items(place, lambda name: True)
    run(place)
    same(whole, arrays(place / "store"))


def test_a_new_day_reads_that_day_alone(grown: Grown, whole: dict[str, np.ndarray]) -> None:
    assert grown.planned["scenes"].keys() == {"new item"}
    again = sum(grown.planned["scenes"].values())
    assert grown.second["scenes"] == again == grown.first["scenes"]
    same(whole, arrays(grown.folder / "store"))
    assert run(grown.folder) == dict.fromkeys(grown.first, 0)


def test_a_replaced_item_with_the_same_pixels_stops_at_once(
    place: Path, whole: dict[str, np.ndarray]
) -> None:
    path = next(scenes().glob("S2A_32U*20211001*.json"))
    item = json.loads(path.read_text())
    for asset in item["assets"].values():
        asset["href"] = str(path.parent / asset["href"])
    stamp = item["properties"]["s2:product_uri"]
    item["properties"]["s2:product_uri"] = stamp.replace("N0500", "N0511")
    item["properties"]["s2:processing_baseline"] = "05.11"
    (place / path.name).write_text(json.dumps(item))
    list_items(place, lambda name: True)
    planned = reasons(place)
    assert planned["scenes"].keys() == {"replaced item"}
    again = run(place)
    assert again["scenes"] == sum(planned["scenes"].values()) > 0
    assert again["composite"] == again["scores"] == again["map"] == 0
    same(whole, arrays(place / "store"))


def test_settings_stale_what_they_decide(place: Path) -> None:
    first = tiles(place)
    assert first["map"] == 4
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
    towns = geopandas.read_file(path).to_crs(CRS)
    corner = shapely.box(*CORNER, CORNER[0] + 200, CORNER[1] + 200)
    towns.assign(geometry=towns.difference(corner)).to_crs("EPSG:4326").to_file(path)
    planned = reasons(place, filter={"method": "majority"})
    assert planned["map"].keys() <= {"replaced boundary"}
    assert planned["scores"] == {}


def test_what_changed_between_releases(place: Path, tmp_path: Path) -> None:
    Store.open(place / "store").tag("october")
    found = engine.diff(place / "store", RELEASE, "october", out=tmp_path / "diff")
    old, new = (
        engine.open_store(place / "store", tag=tag)["map"]["classes"].values
        for tag in (RELEASE, "october")
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


def test_a_release_is_published_as_it_was(grown: Grown, place: Path) -> None:
    """Its map, its items, its seconds, its failures: whatever ran since."""
    recipe = yaml.safe_load((place / "recipe.yaml").read_text())
    with pytest.raises(PublishError, match="cannot have this name"):
        engine.publish(recipe, base=place, tag="../first")
    report, pixels = grown.released
    assert report["items"]
    assert not any(DAY in item for item in report["items"])
    assert grown.second["scores"]
    again, same_pixels = release(place)
    np.testing.assert_array_equal(pixels, same_pixels)
    assert again == report
    # the items are in the store with the run: no file beside it is asked
    beside = place / "store.items.parquet"
    away = beside.rename(place / "away.parquet")
    assert release(place)[0] == report
    away.rename(beside)


def test_pruning_keeps_releases_and_the_newest(place: Path, whole: dict[str, np.ndarray]) -> None:
    before = engine.open_store(place / "store", tag=RELEASE)["map"]["classes"].values
    run(place, filter={"method": "majority"})
    run(place)
    size = sum(p.stat().st_size for p in (place / "store").rglob("*") if p.is_file())
    with Store.open(place / "store").lock(), pytest.raises(LockedError):
        engine.prune(place / "store", keep_days=0)
    assert engine.prune(place / "store", keep_days=30).snapshots == 0
    found = engine.prune(place / "store", keep_days=0)
    assert found.snapshots > 2
    assert found.releases == (RELEASE,)
    left = sum(p.stat().st_size for p in (place / "store").rglob("*") if p.is_file())
    assert left < size
    assert size - left == pytest.approx(found.gigabytes * 1e9, rel=0.3)
    same(whole, arrays(place / "store"))
    again = engine.open_store(place / "store", tag=RELEASE)["map"]["classes"].values
    np.testing.assert_array_equal(before, again)
    assert run(place) == dict.fromkeys(("scenes", "composite", "scores", "map"), 0)
