"""A store of version 1: read, published, refused by a run, and migrated with all that it knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from support import shared
from support.worlds import change_recipe

import engine
from engine.errors import StoreError
from engine.products.registry import PRODUCTS
from engine.store.ledger import RECORD
from engine.store.provenance import read_items, read_runs
from engine.store.repository import Store

pytestmark = pytest.mark.slow

THEN = PRODUCTS["lcz"].before
OLD_RECORD = np.dtype(
    [
        *((name, RECORD[name]) for name in RECORD.names[:6]),
        *((name, "u1") for name in ("state", "reason", "flags", "spare")),
        ("attempts", "<u2"),
        *((name, RECORD[name]) for name in RECORD.names[11:]),
    ]
)


def older(path: Path) -> None:
    """Make a store what version 1 was: other names, another record, no form, no table of runs."""
    store = Store.open(path)
    with store.lock():
        session = store.writer()
        root: Any = zarr.open_group(session.store, mode="r+")
        kept = {now: (root[now][:], root[now]) for now in THEN if now in root}
        made: dict[str, Any] = {}
        for now, (values, array) in kept.items():
            made[THEN[now]] = (values, array.chunks, dict(array.attrs), array.metadata)
        for now in kept:
            del root[now]
        for then, (values, chunks, attrs, form) in made.items():
            root.create_array(
                then,
                data=values,
                chunks=chunks,
                attributes=attrs,
                fill_value=form.fill_value,
                dimension_names=form.dimension_names,
            )
        identity = json.loads(str(root.attrs["natmap:identity"]))
        arrays = {THEN.get(path, path): form for path, form in identity["arrays"].items()}
        root.attrs["natmap:identity"] = json.dumps({**identity, "arrays": arrays})
        del root.attrs["natmap:store"]
        del root["runs"]
        for name in list(root["ledger"].array_keys()):
            array = root["ledger"][name]
            raw = np.ascontiguousarray(array[:]) if array.ndim == 3 else None
            if raw is not None:  # daily records have no field of another meaning that is read
                found = raw.view(RECORD)[..., 0]
                old = np.zeros(found.shape, OLD_RECORD)
                for field in set(OLD_RECORD.names or ()) & set(RECORD.names or ()):
                    old[field] = found[field]
                array[:] = old[..., None].view(np.uint8).reshape(raw.shape)
                array.attrs["record"] = json.dumps(OLD_RECORD.descr)
        session.commit("as version 1 was")
    store.tag("then")
    for name in ("items.parquet",):
        beside = path.with_name(f"{path.name}.{name}")
        shutil.copy(beside, path.with_name(f"{path.name}.release-then.{name}"))


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shared.mapped(tmp_path_factory.mktemp("older") / "country")
    shutil.copytree(folder / "store", folder / "present")
    older(folder / "store")
    return folder


def test_it_is_read_and_published_and_not_run_on(country: Path) -> None:
    assert Store.open(country / "store").version == 1
    assert engine.status(country / "store")["stages"]["map"]["done"] > 5
    for verb in (engine.plan, engine.run):
        with pytest.raises(StoreError, match=r"older form(.|\n)*natmap migrate"):
            verb(country / "recipe.yaml")
    before = {p.name: rasterio.open(p).read() for p in (country / "product").glob("*.tif")}
    engine.publish(country / "recipe.yaml")
    assert len(before) == 6
    for name, values in before.items():
        with rasterio.open(country / "product" / name) as file:
            np.testing.assert_array_equal(file.read(), values)
    report = json.loads((country / "product" / "report.json").read_text())
    assert [run["provenance"] for run in report["runs"]] == ["unknown"]
    assert report["versions"] == {}  # of this machine's software nothing is known to have made it
    assert any("does not know what made" in note for note in report["notes"])
    (country / "store.release-then.items.parquet").rename(country / "away.parquet")
    engine.publish(country / "recipe.yaml", tag="then")
    report = json.loads((country / "product" / "report.json").read_text())
    assert any("kept no items" in note for note in report["notes"])
    (country / "away.parquet").rename(country / "store.release-then.items.parquet")
    assert engine.diff(country / "store", "then").changed == 0


def test_it_is_migrated_with_all_that_it_knows(country: Path) -> None:
    engine.migrate(country / "store", country / "copy")
    with pytest.raises(StoreError, match="a store already"):
        engine.migrate(country / "store", country / "copy")
    with pytest.raises(StoreError, match="present form"):
        engine.migrate(country / "copy", country / "another")
    new, old = Store.open(country / "copy"), Store.open(country / "present")
    assert new.tags() == ["then"]
    for tag in ("then", None):
        mine: Any = zarr.open_group(new.reader(tag).store, mode="r")
        theirs: Any = zarr.open_group(old.reader().store, mode="r")
        for path in old.identity["arrays"]:
            if not path.startswith("scenes/"):
                np.testing.assert_array_equal(mine[path][:], theirs[path][:])
    recipe = shutil.copy(country / "recipe.yaml", country / "again.yaml")
    change_recipe(Path(recipe), store="./copy")
    assert not any(stage.stale for stage in engine.plan(recipe).stages)
    assert shared.run(recipe).done == 0


def test_a_store_knows_its_runs(country: Path) -> None:
    """What a tile was made with, by its record; a run that was told otherwise is another one."""
    recipe = Path(shutil.copy(country / "recipe.yaml", country / "runs.yaml"))
    change_recipe(recipe, store="./present", publish="./published")
    change_recipe(recipe, filter={"method": "none"})
    assert shared.run(recipe).done > 5
    root = zarr.open_group(Store.open(country / "present").reader().store, mode="r")
    first, second = read_runs(root)
    assert first["recipe"]["filter"]["method"] == "gaussian"
    assert second["recipe"]["filter"]["method"] == "none"
    assert first["card"] == second["card"]
    assert first["software"].keys() >= {"natmap", "icechunk", "torch"}
    items = read_items(root, second["items"]["imagery"])
    assert items == (country / "present.items.parquet").read_bytes()
    engine.publish(recipe)
    report = json.loads((country / "published" / "report.json").read_text())
    assert [run["run"] for run in report["runs"]] == [2]
