"""A product of green space holds only what belongs to its map, whatever a run left undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import zarr
from affine import Affine
from support.cards import write_segmenter
from support.shared import run

import engine
from engine.catalog.ingest import ingest
from engine.errors import PublishError
from engine.grid import Tile
from engine.store.ledger import Ledger, State
from engine.store.repository import Store

pytestmark = pytest.mark.slow

WEST, NORTH, SIDE, TILE = 640_000, 5_200_000, 400, 200
WHOLE = shapely.box(WEST, NORTH - SIDE, WEST + SIDE, NORTH)
HOLE = shapely.box(WEST + 20, NORTH - 120, WEST + 120, NORTH - 20)  # in the first tile


def polygons(path: Path, shape: Any) -> None:
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    feature = {"type": "Feature", "properties": {}}
    feature["geometry"] = json.loads(shapely.to_geojson(shape))
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of two tiles by two, and a network that finds green in it."""
    folder = tmp_path_factory.mktemp("city")
    (folder / "photos").mkdir()
    at = {"height": SIDE, "width": SIDE, "transform": Affine(1, 0, WEST, 0, -1, NORTH)}
    form = {"driver": "GTiff", "dtype": "uint8", "count": 3, "photometric": "rgb"}
    with rasterio.open(folder / "photos" / "town.tif", "w", crs="EPSG:32633", **form, **at) as file:
        file.write(np.random.default_rng(0).integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8))
    ingest(folder / "photos", when="2021-07-01")
    polygons(folder / "whole.geojson", WHOLE)
    polygons(folder / "less.geojson", WHOLE - HOLE)
    write_segmenter(folder / "net")
    return folder


def recipe(city: Path, store: str, mask: str = "whole.geojson") -> dict[str, Any]:
    return {
        "name": "town",
        "product": "ugs",
        "area": {"file": str(city / "whole.geojson")},
        "grid": {"crs": "EPSG:32633", "tile": TILE},
        "images": {"catalog": str(city / "photos-stac" / "catalog.json")},
        "model": {"card": str(city / "net"), "device": "cpu"},
        "mask": {"boundaries": str(city / mask)},
        "store": str(city / store),
        "publish": str(city / f"{store}-product"),
    }


def layers(product: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Shares of green, those that follow from the map, and the notes."""
    with rasterio.open(product / "town-green-fraction-100m.tif") as file:
        shares = file.read(1)
    with rasterio.open(product / "town.tif") as file:
        cells = file.read(1).reshape(4, 100, 4, 100)
    known = (cells != 255).sum((1, 3))
    wanted = np.where(known, np.rint(100 * (cells == 1).sum((1, 3)) / np.maximum(known, 1)), 255)
    return shares, wanted, json.loads((product / "report.json").read_text())["notes"]


def test_shares_that_nobody_made_are_not_published(city: Path) -> None:
    wanted = recipe(city, "until")
    assert not run(wanted, until="map").failed
    with pytest.raises(PublishError, match=r"fraction-100m.tif: (.|\n)*any of its 4 tiles"):
        engine.publish(wanted, tag="v1")
    assert Store.open(city / "until").tags() == []  # the name is free for what will be whole
    assert not run(wanted, tiles=["r0000c0001"]).failed
    shares, whole, notes = layers(Path(engine.publish(wanted)))
    made = np.zeros((4, 4), bool)
    made[:2, 2:] = True
    np.testing.assert_array_equal(shares, np.where(made, whole, 255))
    assert [note for note in notes if "in 3 of 4 tiles" in note]
    assert not run(wanted).failed
    shares, whole, notes = layers(Path(engine.publish(wanted, tag="v1")))
    np.testing.assert_array_equal(shares, whole)
    assert not notes


def test_shares_of_an_older_map_and_failed_ones_are_not_published(city: Path) -> None:
    assert not run(recipe(city, "again")).failed
    moved = recipe(city, "again", "less.geojson")
    assert not run(moved, until="map").failed
    shares, whole, notes = layers(Path(engine.publish(moved)))
    assert (whole[:2, :2] != 255).all()
    whole[:2, :2] = 255
    np.testing.assert_array_equal(shares, whole)
    assert [note for note in notes if "in 1 of 4 tiles" in note]
    store = Store.open(city / "again")
    session = store.writer()
    root = zarr.open_group(session.store, mode="r+")
    ledger = Ledger((2, 2), {"fraction": False})
    ledger.load(session, root)
    record = ledger.get("fraction", Tile(1, 1))
    assert record is not None
    record["state"] = State.FAILED
    ledger.put("fraction", Tile(1, 1), record)
    ledger.write(root)
    session.commit("a failure")
    shares, _, notes = layers(Path(engine.publish(moved)))
    whole[2:, 2:] = 255
    np.testing.assert_array_equal(shares, whole)
    assert [note for note in notes if "in 2 of 4 tiles" in note]


def test_a_probability_beside_an_older_map_is_not_published(city: Path) -> None:
    assert not run(recipe(city, "scores")).failed
    moved = recipe(city, "scores", "less.geojson")
    assert not run(moved, until="scores").failed
    with pytest.raises(PublishError, match="another map"):
        engine.publish(moved)
    product = Path(engine.publish(moved, as_made=True))
    with rasterio.open(product / "town-probability.tif") as file:
        percent = file.read(1)
    with rasterio.open(product / "town.tif") as file:
        classes = file.read(1)
    assert (percent[:TILE, :TILE] == 255).all()
    percent[:TILE, :TILE] = np.where(classes[:TILE, :TILE] == 1, 100, 0)
    np.testing.assert_array_equal(classes, percent >= 50)
    report = json.loads((product / "report.json").read_text())
    assert [note for note in report["notes"] if "town-probability.tif" in note]
