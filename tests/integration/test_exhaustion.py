"""Too little memory, too little room: what was computed is kept, the rest is said and healed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.shared import workers
from support.toys import Mishap, Toy, blob, read_map, square

from engine.clusters import local
from engine.clusters.local import Local
from engine.errors import StoreError
from engine.grid import Tile
from engine.runs import events
from engine.runs.execute import Limits, execute

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 800 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted without root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("commit_tiles", [4, 10_000])  # driver or worker meets it first
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(small: Path, commit_tiles: int) -> None:
    toy = Toy(blob(0.6))
    limits = Limits(commit_tiles=commit_tiles, commit_seconds=60.0)
    store, schedule = toy.open(small / "store")
    wanted = schedule.open
    safe = 0

    def listen(event: events.Event) -> None:
        nonlocal safe
        if isinstance(event, events.Committed):
            safe += event.tiles

    with store.lock(), pytest.raises(StoreError, match="no room is left") as caught:
        execute(schedule, store, workers(), listeners=[listen], limits=limits)
    assert "No space left" in str(caught.value.got)
    assert len(str(caught.value).splitlines()) == 3
    subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
    store, schedule = toy.open(small / "store")
    assert schedule.open == wanted - safe
    assert commit_tiles > 4 or safe
    with store.lock():
        summary = execute(schedule, store, workers(), limits=limits)
    assert (summary.done, summary.failed) == (wanted - safe, ())
    np.testing.assert_array_equal(read_map(store), toy.expected())


@pytest.fixture(scope="module")
def poor() -> Iterator[Local]:
    """One worker with little memory: no neighbour may be taken for what kills it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_memory", lambda: 0.5)  # GB
        with local.open_local(1) as cluster:
            yield cluster


def test_a_worker_that_runs_out_of_memory_costs_one_try(tmp_path: Path, poor: Local) -> None:
    mishap = Mishap("hungry", "composite", Tile(1, 1), times=1, memory=str(tmp_path))
    toy = Toy(square(2), mishaps=(mishap,))
    store, schedule = toy.open(tmp_path / "store")
    tries: list[events.TileRetried] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.TileRetried):
            tries.append(event)

    with store.lock():
        summary = execute(schedule, store, poor, listeners=[listen])
    assert not summary.failed
    assert any("out of memory" in event.error for event in tries)
    np.testing.assert_array_equal(read_map(store), toy.expected())


def test_a_tile_that_always_needs_too_much_is_quarantined_and_the_rest_is_made(
    tmp_path: Path, poor: Local
) -> None:
    poison = Tile(1, 1)
    toy = Toy(square(2), mishaps=(Mishap("hungry", "map", poison, memory=str(tmp_path)),))
    store, schedule = toy.open(tmp_path / "store")
    with store.lock():
        summary = execute(schedule, store, poor, limits=Limits(deaths=2))
    assert [(stage, tile) for stage, tile, _ in summary.failed] == [("map", str(poison))]
    assert "out of memory" in summary.failed[0][2]
    found, expected = read_map(store), toy.expected()
    n = toy.tile // 10
    here = np.s_[poison.row * n : (poison.row + 1) * n, poison.col * n : (poison.col + 1) * n]
    assert (found[here] == -1).all()
    expected[here] = -1
    np.testing.assert_array_equal(found, expected)
