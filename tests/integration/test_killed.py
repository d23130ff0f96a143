"""kill -9 in the middle of `natmap run`: the same command again gives the very same map."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import shapely
import yaml
from support.worlds import SMALL

import engine
from engine.errors import NatmapError
from engine.pipeline.status import read_status

pytestmark = [pytest.mark.slow, pytest.mark.alone]
NATMAP = str(Path(sys.executable).with_name("natmap"))
ARRAYS = {"composite": ("bands", "observations"), "scores": ("classes",), "map": ("filtered",)}


def counts(store: Path) -> int:
    """Committed tiles of all stages; 0 while there is no store."""
    try:
        return sum(stage["done"] for stage in read_status(store)["stages"].values())
    except NatmapError:
        return 0


def test_a_driver_that_is_killed(reference: Path, tmp_path: Path) -> None:
    """A quarter of the mapped country, so that there is a map to compare with."""
    recipe = yaml.safe_load((reference / "recipe.yaml").read_text())
    recipe["mask"] = {"boundaries": str(reference / "truth" / "urban.geojson")}
    recipe["area"] = {"file": "area.geojson"}
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(SMALL.outline))
    path, store = tmp_path / "recipe.yaml", tmp_path / "store"
    path.write_text(yaml.safe_dump(recipe))
    command = [NATMAP, "run", str(path), "--workers", "2"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while first.poll() is None and time.monotonic() < until and not counts(store):
        time.sleep(0.1)
    family = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    for process in family:  # orphans would die by themselves, in some seconds
        if process.is_running():
            process.kill()
    assert first.wait() == -9
    before = counts(store)
    missing = [sum(stage.stale.values()) + stage.waiting for stage in engine.plan(path).stages]
    subprocess.run(command, check=True, capture_output=True)
    whole = counts(store)
    assert 0 < before < whole
    assert sum(missing) == whole - before
    (west, south, east, north), inset = SMALL.bounds, SMALL.inset
    square = {"x": slice(west + inset, east - inset), "y": slice(north - inset, south + inset)}
    ours, theirs = engine.open_store(store), engine.open_store(reference / "store")
    for group, names in ARRAYS.items():
        for name in names:
            found, wanted = (tree[group][name].sel(square).values for tree in (ours, theirs))
            assert found.size
            np.testing.assert_array_equal(found, wanted, err_msg=name)
