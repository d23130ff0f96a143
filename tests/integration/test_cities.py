"""Cities of different light in one recipe, each mapped by a network of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.windows import from_bounds
from support.cards import write_segmenter
from support.shared import run
from support.worlds import PLAIN, photograph
from test_train_green import THERE

import engine
from engine.legend import Reason
from engine.models.card import load_card
from engine.pipeline.doctor import examine
from engine.synthetic.scene import CRS

pytestmark = pytest.mark.slow

SIDE = 400
WEST, SOUTH = THERE[:2]
EAST, NORTH = WEST + SIDE, SOUTH + SIDE
BOUNDS = WEST, SOUTH, EAST, NORTH
MIDDLE = WEST + 205.2  # the border of both
OLD = shapely.Polygon(
    [(WEST + 40, SOUTH + 60), (MIDDLE, SOUTH + 30), (MIDDLE, SOUTH + 330), (WEST + 90, SOUTH + 350)]
)
NEW = shapely.box(MIDDLE, SOUTH + 130.3, WEST + 370, SOUTH + 270)
LAYERS = ("", "-probability", "-reason", "-green-fraction-100m")


def write_cities(path: Path, cities: list[tuple[str, Any, dict[str, Any]]]) -> str:
    """Polygons with fields, in the grid's own CRS: no edge bends on its way."""
    features = [
        {
            "type": "Feature",
            "properties": {"name": name, **fields},
            "geometry": json.loads(shapely.to_geojson(shape)),
        }
        for name, shape, fields in cities
    ]
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{CRS.replace(':', '::')}"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    return path.name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One region whose east lies in haze, three networks, and polygons of two cities."""
    folder = tmp_path_factory.mktemp("cities")
    photograph(PLAIN.world, THERE, folder / "photos")
    for path in (folder / "photos").glob("photo_*.tif"):
        with rasterio.open(path) as file:
            values, form, left = file.read(), dict(file.profile), file.bounds.left
        east = np.arange(values.shape[2]) + left > MIDDLE
        values[..., east] = np.where(values[..., east] > 0, values[..., east] // 2 + 90, 0)
        with rasterio.open(path, "w", **form) as file:
            file.write(values)
    for seed, name in enumerate(("rest", "old", "new")):
        write_segmenter(folder / "cards" / name, patch=64, overlap=16, seed=seed)
    write_cities(folder / "area.geojson", [("all", shapely.box(*BOUNDS), {})])
    write_cities(folder / "old.geojson", [("old", OLD, {})])
    write_cities(folder / "new.geojson", [("new", NEW, {})])
    write_cities(
        folder / "cards" / "cities.geojson",
        [("Neustadt", NEW, {"card": "./new"}), ("Altstadt", OLD, {"card": "./old"})],
    )
    return folder


def recipe(name: str, card: str = "rest", mask: str | None = None, **more: Any) -> dict[str, Any]:
    tile, keep, cities = (
        more.pop(k, d) for k, d in (("tile", 200), ("keep", False), ("cities", 0))
    )
    told = {
        "name": name,
        "product": "ugs",
        "area": {"file": "area.geojson"},
        "grid": {"crs": CRS, "tile": tile, "chunk": 100},
        "images": {"catalog": "photos/catalog.json", "keep": keep},
        "model": {"card": f"./cards/{card}"},
        "store": name,
        "publish": f"{name}-product",
        **more,
    }
    if cities:
        told["model"]["cities"] = cities if isinstance(cities, str) else "cards/cities.geojson"
    return told | ({"mask": {"boundaries": mask}} if mask else {})


def product(place: Path, told: dict[str, Any]) -> Path:
    assert not run(told, base=place).failed
    return Path(engine.publish(told, base=place))


def layer(folder: Path, suffix: str) -> np.ndarray:
    with rasterio.open(folder / f"{folder.name.removesuffix('-product')}{suffix}.tif") as file:
        here = from_bounds(*BOUNDS, file.transform)
        found: np.ndarray = file.read(1, window=here, boundless=True, fill_value=99)
        return found


@pytest.fixture(scope="module")
def both(place: Path) -> Path:
    return product(place, recipe("both", cities=True))


def centres(shape: Any) -> np.ndarray:
    """Pixels whose centre lies in a shape or on its edge, one by one."""
    x, y = WEST + np.arange(SIDE) + 0.5, NORTH - np.arange(SIDE) - 0.5
    found: np.ndarray = shapely.intersects_xy(shape, x[None, :], y[:, None])
    return found


def test_each_city_is_as_if_it_were_mapped_alone(place: Path, both: Path) -> None:
    alone = {
        "old": product(place, recipe("old", "old", "old.geojson", tile=300)),
        "new": product(place, recipe("new", "new", "new.geojson")),
        "rest": product(place, recipe("rest")),
    }
    where = {"old": centres(OLD), "new": centres(NEW)}
    where["rest"] = ~where["old"] & ~where["new"]
    for suffix in ("", "-probability", "-reason"):
        found = layer(both, suffix)
        for name, here in where.items():
            np.testing.assert_array_equal(found[here], layer(alone[name], suffix)[here], name)
    # the networks differ, so that all of this could fail
    mine, other = layer(both, "-probability"), layer(alone["rest"], "-probability")
    for name in ("old", "new"):
        assert (mine[where[name]] != other[where[name]]).mean() > 0.5
        assert (layer(alone[name], "-reason")[where[name]] == Reason.DATA).all()


def test_the_layout_leaves_no_trace(place: Path, both: Path) -> None:
    other = product(place, recipe("wide", cities=True, tile=300, keep=True))
    for suffix in LAYERS:
        np.testing.assert_array_equal(layer(other, suffix), layer(both, suffix))


def test_report_and_items_say_where_one_model_ends(place: Path, both: Path) -> None:
    report = json.loads((both / "report.json").read_text())
    keys = {name: load_card(place / "cards" / name).key for name in ("rest", "old", "new")}
    areas = {"old": centres(OLD).sum(), "new": centres(NEW).sum()}
    areas["rest"] = SIDE**2 - sum(areas.values())
    wanted = [("rest", None), ("old", "Altstadt"), ("new", "Neustadt")]
    assert report["models"] == [
        {"name": n, "key": keys[n], "city": city, "area_km2": pytest.approx(areas[n] / 1e6)}
        for n, city in wanted
    ]
    note = next(text for text in report["notes"] if text.startswith("several models"))
    assert "Altstadt by old, Neustadt by new; all else by rest" in note
    assert [m["name"] for m in report["rights"]["models"]] == ["old", "new"]
    assert any("Models old, new: licence CC0-1.0" in c for c in report["rights"]["credits"])
    assert report["runs"][0]["cities"]["Altstadt"] == {"name": "old", "key": keys["old"]}
    item = json.loads(next((both / "items").glob("*.json")).read_text())
    assert item["properties"]["natmap:models"] == report["models"]
    for key in ("old", "new"):
        asset = item["assets"][f"model-{key}-{keys[key][:8]}"]
        file = (both / "items" / asset["href"]).resolve()
        assert file.read_bytes() == (place / "cards" / key / "model.safetensors").read_bytes()
    # the folder alone makes the map again
    again = recipe("again") | {"area": {"file": str(place / "area.geojson")}}
    again["images"]["catalog"] = str(place / "photos" / "catalog.json")
    again["model"] = {"card": "./model", "cities": "./cities.geojson"}
    engine.plan(again | {"store": str(place / "again")}, base=both)


def stale(place: Path, told: dict[str, Any]) -> set[tuple[int, int]]:
    """Row and column of the tiles whose scores would be made."""
    from engine.pipeline.prepare import prepare
    from engine.products.registry import load_recipe
    from engine.runs.schedule import Status

    prepared = prepare(load_recipe(told), place)
    schedule = prepared.schedule(prepared.check_store())
    return {(t.row, t.col) for t in schedule.tiles("scores", Status.READY)}


def meeting(shape: Any) -> set[tuple[int, int]]:
    """Tiles of 200 m that a shape touches."""
    left, top = 200 * (WEST // 200), 200 * -(-NORTH // 200)
    return {
        (row, col)
        for row in range(5)
        for col in range(5)
        if shape.intersects(
            shapely.box(
                left + 200 * col, top - 200 * row - 200, left + 200 * col + 200, top - 200 * row
            )
        )
    }


def test_another_card_makes_the_tiles_of_its_city_alone(place: Path, both: Path) -> None:
    plain = recipe("plain")
    assert not run(plain, base=place).failed
    grown = recipe("plain", cities=True)
    touched = meeting(OLD) | meeting(NEW)
    assert stale(place, plain) == set()
    assert stale(place, grown) == touched  # cities come to a map that is there
    assert not run(grown, base=place).failed
    write_segmenter(place / "cards" / "newer", patch=64, overlap=16, seed=7)
    write_cities(
        place / "cards" / "later.geojson",
        [("Neustadt", NEW, {"card": "newer/card.json"}), ("Altstadt", OLD, {"card": "./old"})],
    )
    later = recipe("plain", cities="cards/later.geojson")
    assert stale(place, later) == meeting(NEW)
    with pytest.raises(engine.PublishError, match="another map"):
        engine.publish(later, base=place)
    told = Path(engine.publish(later, base=place, as_made=True))
    models = json.loads((told / "report.json").read_text())["models"]
    assert [(m["city"], m["name"], m["area_km2"]) for m in models[1:]] == [
        ("Altstadt", "old", None),
        ("Neustadt", "new", None),
    ]
    assert not (told / "cities.geojson").exists()
    made = product(place, later)
    found, before, here = layer(made, "-probability"), layer(both, "-probability"), centres(NEW)
    np.testing.assert_array_equal(found[~here], before[~here])
    assert (found[here] != before[here]).mean() > 0.5


def test_doctor_looks_at_all_weights(place: Path, both: Path) -> None:
    path = place / "both.yaml"
    path.write_text(json.dumps(recipe("both", cities=True)))
    found = {finding.name: finding for finding in examine(str(path))}
    assert "those of 2 cities" in found["model"].text
    weights = place / "cards" / "old" / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        found = {finding.name: finding for finding in examine(str(path))}
        assert not found["model"].ok
        assert not found["plan"].ok
    finally:
        weights.write_bytes(kept)


def test_land_cover_of_several_classes_has_cities_too(place: Path) -> None:
    names = tuple(
        {"code": k, "name": n, "colour": "102030"} for k, n in ((1, "a"), (4, "b"), (7, "c"))
    )
    for seed, name in enumerate(("rest", "new")):
        write_segmenter(place / "cover" / name, patch=64, overlap=16, seed=seed, names=names)
    write_segmenter(place / "cover" / "other", patch=64, overlap=16, names=names[:2])
    write_cities(place / "part.geojson", [("part", NEW.buffer(30).envelope, {})])

    def told(name: str, card: str, **more: Any) -> dict[str, Any]:
        values = recipe(name, **more) | {"product": "cover", "area": {"file": "part.geojson"}}
        return values | {"model": values["model"] | {"card": f"./cover/{card}"}}

    write_cities(place / "cover" / "cities.geojson", [("N", NEW, {"card": "new"})])
    both = product(place, told("cover-both", "rest", cities="cover/cities.geojson"))
    alone = product(place, told("cover-new", "new", mask="new.geojson"))
    rest = product(place, told("cover-rest", "rest"))
    here, inside = centres(NEW), centres(NEW.buffer(30).envelope)
    for suffix in ("", "-confidence", "-reason"):
        found = layer(both, suffix)
        np.testing.assert_array_equal(found[here], layer(alone, suffix)[here])
        np.testing.assert_array_equal(found[inside & ~here], layer(rest, suffix)[inside & ~here])
    assert (layer(both, "")[here] != layer(rest, "")[here]).any()
    assert (layer(both, "-reason")[inside] == Reason.DATA).all()
    write_cities(place / "cover" / "cities.geojson", [("N", NEW, {"card": "other"})])
    with pytest.raises(engine.CardError, match=r"does not fit(.|\n)*classes 1 a, 4 b"):
        engine.plan(told("cover-both", "rest", cities="cover/cities.geojson"), base=place)
    of_scenes = told("x", "rest", cities="cover/cities.geojson")
    of_scenes["imagery"] = {"catalog": "c", "period": "2023-03-01/2023-06-30"}
    del of_scenes["images"]
    with pytest.raises(engine.RecipeError, match="goes with images"):
        engine.plan(of_scenes, base=place)
