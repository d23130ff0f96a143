"""What `open_store` declares, masks, chunks and shows, of arrays written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401  # the accessor
import zarr

from engine.errors import RecipeError
from engine.grid import Grid, Tile
from engine.store.arrays import ArraySpec, day_index, index_day, nodata_of
from engine.store.ledger import RECORD, Ledger, State
from engine.store.repository import Store
from engine.store.view import open_store

GRID = Grid.fit((0, 0, 1600, 1600), crs="EPSG:5179", tile_size=800)
PERCENT = {"units": "percent", "valid_max": 100}
SPECS = [
    ArraySpec("fraction/green", "uint8", 100.0, 8, 255, attrs=PERCENT),
    ArraySpec("map/classes", "uint8", 100.0, 8, 255, attrs={"flag_values": [0, 1]}),
    ArraySpec("map/reason", "uint8", 100.0, 8, 255, attrs={"flag_values": [0, 255]}),
    ArraySpec("map/observations", "uint16", 100.0, 8, 0),
    ArraySpec("scenes/scl", "uint8", 100.0, 8, 0, daily=True, attrs={"flag_values": [254, 255]}),
    ArraySpec("scenes/source", "uint32", 100.0, 8, 0, daily=True, attrs={"_FillValue": 0}),
]
DAYS = (17, 4000)


@pytest.fixture(params=["declared", "of before"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store in which three cells are known; of before arrays declared their nodata, too."""
    store = Store.create(tmp_path / "s", GRID, SPECS)
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    root["fraction/green"][0, :3] = [10, 20, 90]
    root["map/classes"][0, :3] = [0, 1, 1]
    for day in DAYS:
        root["scenes/scl"][day, 0, :3] = 4
    ledger = Ledger(GRID.shape, {"scenes": True, "map": False})
    ledger.create(root)
    record = np.zeros((), RECORD)
    record["state"] = State.DONE
    for day in DAYS:
        ledger.put("scenes", Tile(0, 0), record[()], day)
    ledger.write(root)
    declared = {path for path in store.identity["arrays"] if "_FillValue" in root[path].attrs}
    assert declared == {"fraction/green", "map/classes", "scenes/scl", "scenes/source"}
    if request.param == "of before":
        for path in declared:
            del root[path].attrs["_FillValue"]
    session.commit("by hand")
    return tmp_path / "s"


def test_a_mean_is_one_of_what_is_known(folder: Path) -> None:
    green = open_store(folder)["fraction"]["green"]
    assert float(green.mean()) == pytest.approx(40)
    assert int(green.count()) == 3
    assert math.isnan(green.rio.nodata)
    assert green.rio.encoded_nodata == 255
    stored = open_store(folder, decode=False)["fraction"]["green"]
    assert stored.dtype == np.uint8
    assert stored.rio.nodata == 255


@pytest.mark.parametrize("decode", [True, False])
def test_classes_flags_and_keys_stay_integers_and_declare(folder: Path, decode: bool) -> None:
    tree = open_store(folder, decode=decode)
    for path, dtype, nodata in [
        ("map/classes", np.uint8, 255),
        ("map/reason", np.uint8, None),  # each of its values says something
        ("map/observations", np.uint16, None),  # 0 is a count
        ("scenes/scl", np.uint8, 0),
        ("scenes/source", np.uint32, 0),
    ]:
        values = tree[path]
        assert values.dtype == dtype, path
        assert values.rio.nodata == nodata, path
    assert int((tree["map/classes"] == 1).sum()) == 2


def test_chunks_are_those_asked_for_else_those_stored(folder: Path) -> None:
    assert open_store(folder)["map"]["classes"].chunks is None
    tree = open_store(folder, chunks={})
    assert tree["map"]["classes"].chunks == ((8, 8), (8, 8))
    assert tree["scenes"]["scl"].chunks == ((1, 1), (8, 8), (8, 8))
    wide = open_store(folder, chunks={"x": 16, "time": 2})
    assert wide["map"]["classes"].chunks == ((8, 8), (16,))
    assert wide["scenes"]["scl"].chunks == ((2,), (8, 8), (16,))
    assert open_store(folder, chunks=4)["map"]["classes"].chunks == ((4,) * 4, (4,) * 4)
    assert float(tree["fraction"]["green"].mean()) == pytest.approx(40)


def test_only_days_that_are_there_are_shown(folder: Path) -> None:
    scl = open_store(folder)["scenes"]["scl"]
    days = [np.datetime64(index_day(day)) for day in DAYS]
    assert list(scl["time"].values.astype("datetime64[D]")) == days
    assert [day_index(index_day(day)) for day in DAYS] == list(DAYS)
    assert (scl.values[:, 0, :3] == 4).all()
    whole = open_store(folder, days="all", chunks=None)["scenes"]["scl"]
    assert whole.sizes["time"] == 10_958
    with pytest.raises(RecipeError, match="present or all"):
        open_store(folder, days="some")  # type: ignore[arg-type]


def test_a_store_without_a_run_shows_no_day(tmp_path: Path) -> None:
    Store.create(tmp_path / "s", GRID, SPECS)
    assert open_store(tmp_path / "s")["scenes"].sizes["time"] == 0


def test_nodata_is_what_nothing_else_means() -> None:
    assert nodata_of("uint16", 0, {"_FillValue": 7}) == 7
    assert math.isnan(nodata_of("float32", math.nan, {}) or 0)
    assert nodata_of("float16", 0.0, {}) is None
    assert nodata_of("uint8", 0, {"flag_values": [1, 2]}) == 0
    assert nodata_of("uint8", 0, {"flag_values": [0, 1]}) is None
    assert nodata_of("uint8", 255, {"units": "percent"}) == 255
    assert nodata_of("uint8", 0, {"units": "percent"}) is None
    assert nodata_of("uint8", 255, {}) is None
