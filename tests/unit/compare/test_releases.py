"""The raster of what changed, of stores too large for one file or for memory."""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr

from engine.compare import releases
from engine.compare.releases import diff
from engine.grid import Grid
from engine.legend import UGS
from engine.products.common import class_attrs
from engine.publishing.sheets import cut_sheets
from engine.store.arrays import ArraySpec
from engine.store.repository import Store


def store_of(folder: Path, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A store of two maps of green space, the first of them released as `one`."""
    grid = Grid.fit((0, 0, width, height), crs="EPSG:5179", tile_size=500)
    spec = ArraySpec("map/classes", "uint8", 1.0, 500, 255, attrs=class_attrs(UGS))
    store = Store.create(folder, grid, [spec])
    rng = np.random.default_rng(0)
    old = rng.choice(np.array([0, 1, 255], np.uint8), (height, width))
    new = np.where(rng.random(old.shape) < 0.01, rng.choice([0, 1, 255], old.shape), old)
    for values in (old, new):
        session = store.writer()
        zarr.open_group(session.store, mode="r+")["map/classes"][:] = values.astype(np.uint8)
        session.commit("a map")
        if "one" not in store.tags():
            store.tag("one")
    return old, new


def test_changes_of_a_large_store_are_cut_into_sheets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = store_of(tmp_path / "s", 2500, 1500)
    position = np.zeros(256, np.uint16)
    position[[0, 1]] = 1, 2
    wanted = np.where(old == new, 0, 100 * position[old] + position[new])
    diff(tmp_path / "s", "one", out=tmp_path / "one-file")
    with rasterio.open(tmp_path / "one-file" / "changes.tif") as file:
        np.testing.assert_array_equal(file.read(1), wanted)
        bounds = file.bounds
    monkeypatch.setattr(releases, "_WIDE", 300)
    monkeypatch.setattr(releases, "cut_sheets", partial(cut_sheets, side=1000.0, most=10**6))
    found = diff(tmp_path / "s", "one", out=tmp_path / "sheets")
    assert found.changed == (wanted > 0).sum()
    names = sorted(path.name for path in (tmp_path / "sheets").glob("*.tif"))
    assert names == [f"changes_x{x}y{y}.tif" for x in (0, 1, 2) for y in (0, 1)]
    with rasterio.open(tmp_path / "sheets" / "changes.vrt") as file:
        np.testing.assert_array_equal(file.read(1), wanted)
        assert file.bounds == bounds
        assert file.nodata == 0


def test_changes_of_a_wide_store_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = store_of(tmp_path / "s", 12_000, 500)
    monkeypatch.setattr(releases, "_WIDE", 1000)
    tracemalloc.start()
    diff(tmp_path / "s", "one", out=tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * old.size  # the strip that is written, as it is and once more
