"""The core loop on real worker processes, and its traps one by one (toy kernels)."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.toys import Kernel, Mishap, Toy, blob, crop, read_map, read_scenes, square

from engine.clusters.local import Local, open_local
from engine.errors import RunError
from engine.grid import Tile
from engine.runs import events
from engine.runs.execute import Limits, execute
from engine.runs.schedule import Schedule, Status, Work
from engine.store.ledger import Flag, State

QUICK = Limits(commit_tiles=8, commit_seconds=0.3, patience=30)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Local]:
    with open_local(2) as found:
        yield found


def run(toy: Toy, path: Path, cluster: Local, limits: Limits = QUICK) -> tuple[Toy, list]:
    seen: list = []
    store, schedule = toy.open(path)
    with store.lock():
        execute(schedule, store, cluster, listeners=[seen.append], limits=limits)
    return toy, seen


def ran(seen: list) -> list[tuple[str, Tile]]:
    return [(e.stage, e.tile) for e in seen if isinstance(e, events.TileDone)]


def test_the_map_equals_brute_force(tmp_path: Path, cluster: Local) -> None:
    toy = Toy(blob())
    _, planned = toy.open(tmp_path / "s")
    needed = planned.open
    _, seen = run(toy, tmp_path / "s", cluster)
    store, schedule = toy.open(tmp_path / "s")
    assert (read_map(store) == toy.expected()).all()
    assert schedule.open == 0
    assert len(ran(seen)) == len(set(ran(seen))) == needed > 60


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("tile", [80, 160, 320])
def test_the_map_does_not_depend_on_the_layout(tmp_path: Path, tile: int, workers: int) -> None:
    """Tiles of three sizes, shuffled order, one and two workers, a curved border, an island."""
    toy = Toy(blob(), tile=tile)
    store, schedule = toy.open(tmp_path / "s")
    order = schedule._order.ravel().copy()
    random.Random(tile * workers).shuffle(order)
    schedule._order[:] = order.reshape(schedule.grid.shape)
    for heap in schedule._heaps.values():
        heap.clear()
    for t in schedule.tiles("scenes", Status.READY):
        schedule.again(Work("scenes", t))
    with open_local(workers) as cluster, store.lock():
        execute(schedule, store, cluster, limits=QUICK)
    found = crop(read_map(store), toy.grid, (0, -8000, 9600, 0))
    reference = Toy(blob(), tile=160)
    assert (found == crop(reference.expected(), reference.grid, (0, -8000, 9600, 0))).all()


def test_a_second_run_does_nothing(tmp_path: Path, cluster: Local) -> None:
    run(Toy(square(3)), tmp_path / "s", cluster)
    _, seen = run(Toy(square(3)), tmp_path / "s", cluster)
    assert ran(seen) == []


def test_a_new_day_touches_only_that_day_and_what_it_changes(
    tmp_path: Path, cluster: Local
) -> None:
    area = square(5)
    run(Toy(area), tmp_path / "s", cluster)
    changed = Toy(area, shifts={(Tile(3, 3), 3005): 9})
    _, seen = run(changed, tmp_path / "s", cluster)
    stages = [stage for stage, _ in ran(seen)]
    assert [(s, t) for s, t in ran(seen) if s == "scenes"] == [("scenes", Tile(3, 3))]
    assert stages.count("composite") == 9
    assert stages.count("map") <= 25
    store, _ = changed.open(tmp_path / "s")
    assert (read_map(store) == changed.expected()).all()
    grown = Toy(area, days=(3000, 3005, 3010))
    _, seen = run(grown, tmp_path / "s", cluster)
    store, _ = grown.open(tmp_path / "s")
    assert (read_map(store) == grown.expected()).all()


def test_a_change_inside_a_tile_does_not_stale_its_neighbours(
    tmp_path: Path, cluster: Local
) -> None:
    """Strips are digested apart: the same value at the border, another in the middle."""

    area = square(3)
    toy = Toy(area)
    run(toy, tmp_path / "s", cluster)
    store, schedule = toy.open(tmp_path / "s")
    stages = toy.stages()
    stages[0] = replace(stages[0], version=2, kernel=Kernel(_middle))

    schedule = Schedule(stages, toy.support, schedule.ledger)
    seen: list = []
    with store.lock():
        execute(schedule, store, cluster, listeners=[seen.append], limits=QUICK)
    counted = [stage for stage, _ in ran(seen)]
    assert counted.count("scenes") == 25
    assert [t for s, t in ran(seen) if s == "composite"] == [Tile(2, 2)]


def _middle(task):  # type: ignore[no-untyped-def]

    for output in read_scenes(task):
        if task.tile == Tile(2, 2):
            output.arrays["scenes/bands"][0, 80, 80] += 1
        yield output


def test_a_poison_tile_is_quarantined_and_its_neighbours_live(
    tmp_path: Path, cluster: Local
) -> None:
    area = square(4)
    poison = Tile(2, 2)
    toy = Toy(area, mishaps=(Mishap("kill", "composite", poison, memory=str(tmp_path)),))
    _, seen = run(toy, tmp_path / "s", cluster)
    assert {(e.stage, e.tile) for e in seen if isinstance(e, events.TileFailed)} == {
        ("composite", poison)
    }
    assert [e for e in seen if isinstance(e, events.TileBlocked)] == [
        events.TileBlocked("map", poison)
    ]
    _, schedule = Toy(area).open(tmp_path / "s")
    record = schedule.ledger.get("composite", poison)
    assert record is not None
    assert record["state"] == State.FAILED
    assert "died" in schedule.ledger.notes[f"composite/{poison}"]
    degraded = {t for _, t, r in schedule.ledger.records("map") if r["flags"] & Flag.DEGRADED}
    assert degraded == set(toy.grid.neighbours(poison))
    # Next run, without the mishap: only the tile and what reads it.
    _, seen = run(Toy(area), tmp_path / "s", cluster)
    assert set(ran(seen)) == {("composite", poison), ("map", poison)} | {
        ("map", t) for t in toy.grid.neighbours(poison)
    }
    store, _ = Toy(area).open(tmp_path / "s")
    assert (read_map(store) == Toy(area).expected()).all()


@pytest.mark.parametrize("stage", ["scenes", "map"])
def test_a_tile_that_raises_once_is_tried_again(tmp_path: Path, cluster: Local, stage: str) -> None:
    mishap = Mishap("raise", stage, Tile(1, 1), times=1, memory=str(tmp_path))
    toy, seen = run(Toy(square(2), mishaps=(mishap,)), tmp_path / "s", cluster)
    assert [e.tile for e in seen if isinstance(e, events.TileRetried)] == [Tile(1, 1)]
    store, _ = toy.open(tmp_path / "s")
    assert (read_map(store) == toy.expected()).all()


def test_a_tile_that_raises_always_is_terminal_after_its_attempts(
    tmp_path: Path, cluster: Local
) -> None:
    mishap = Mishap("raise", "map", Tile(1, 1), memory=str(tmp_path))
    _, seen = run(Toy(square(2), mishaps=(mishap,)), tmp_path / "s", cluster)
    assert len([e for e in seen if isinstance(e, events.TileRetried)]) == QUICK.attempts - 1
    [failed] = [e for e in seen if isinstance(e, events.TileFailed)]
    assert "a toy mishap" in failed.error


def test_a_structural_error_is_not_tried_again(tmp_path: Path, cluster: Local) -> None:
    mishap = Mishap("structural", "scenes", Tile(1, 1), memory=str(tmp_path))
    _, seen = run(Toy(square(2), mishaps=(mishap,)), tmp_path / "s", cluster)
    assert [e for e in seen if isinstance(e, events.TileRetried)] == []
    assert len([e for e in seen if isinstance(e, events.TileFailed)]) == 1


def test_chunks_of_another_tile_are_refused(tmp_path: Path, cluster: Local) -> None:
    mishap = Mishap("foreign", "map", Tile(1, 1), memory=str(tmp_path))
    _, seen = run(Toy(square(3), mishaps=(mishap,)), tmp_path / "s", cluster)
    [failed] = [e for e in seen if isinstance(e, events.TileFailed)]
    assert failed.tile == Tile(1, 1)
    assert "own tile's chunks" in failed.error
    store, _ = Toy(square(3)).open(tmp_path / "s")
    expected = Toy(square(3)).expected()
    expected[16:32, 16:32] = -1
    assert (read_map(store) == expected).all()


def test_all_workers_gone_with_their_nannies(tmp_path: Path) -> None:
    toy = Toy(square(3), delay=0.05)
    store, schedule = toy.open(tmp_path / "s")
    seen: list = []
    with open_local(2) as cluster, store.lock():

        def massacre() -> None:
            time.sleep(0.8)
            for worker in list(cluster._cluster.workers.values()):
                nanny, child = worker.process, worker.process.pid
                del nanny
                os.kill(child, signal.SIGKILL)
            cluster._cluster.sync(_close_nannies, cluster._cluster)

        thread = threading.Thread(target=massacre)
        thread.start()
        execute(schedule, store, cluster, listeners=[seen.append], limits=QUICK)
        thread.join()
    assert (read_map(store) == toy.expected()).all()


async def _close_nannies(cluster) -> None:  # type: ignore[no-untyped-def]
    for nanny in list(cluster.workers.values()):
        await nanny.close(timeout=1)


def test_a_held_result_of_a_dead_worker_is_not_run_again(tmp_path: Path, cluster: Local) -> None:
    """Results are let go at once, so killing workers afterwards costs nothing."""
    toy = Toy(square(3), delay=0.02)
    store, schedule = toy.open(tmp_path / "s")
    seen: list = []

    def kill_one(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.TileDone) and len(ran(seen)) in (10, 20):
            os.kill(next(iter(cluster._cluster.workers.values())).process.pid, signal.SIGKILL)

    with store.lock():
        execute(schedule, store, cluster, listeners=[kill_one], limits=QUICK)
    assert len(ran(seen)) == len(set(ran(seen)))
    assert (read_map(store) == toy.expected()).all()


def test_a_stop_drains_and_the_next_run_does_the_rest(tmp_path: Path, cluster: Local) -> None:
    toy = Toy(square(4), delay=0.02)
    store, schedule = toy.open(tmp_path / "s")
    seen: list = []

    def interrupt(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.TileDone) and len(ran(seen)) == 12:
            signal.raise_signal(signal.SIGINT)

    with store.lock():
        summary = execute(schedule, store, cluster, listeners=[interrupt], limits=QUICK)
    assert summary.stopped
    first = set(ran(seen))
    _, later = run(toy, tmp_path / "s", cluster)
    assert not first & set(ran(later))
    store, _ = toy.open(tmp_path / "s")
    assert (read_map(store) == toy.expected()).all()


def test_a_missing_resource_is_an_error_at_once(tmp_path: Path, cluster: Local) -> None:

    toy = Toy(square(2))
    store, schedule = toy.open(tmp_path / "s")
    stages = toy.stages()
    stages[2] = replace(stages[2], resource="gpu")
    with pytest.raises(RunError, match="GPU"):
        execute(Schedule(stages, toy.support, schedule.ledger), store, cluster)


def test_chosen_tiles_run_with_what_they_read(tmp_path: Path, cluster: Local) -> None:

    toy = Toy(square(5))
    store, schedule = toy.open(tmp_path / "s")
    chosen = Schedule(toy.stages(), toy.support, schedule.ledger, only=[Tile(3, 3)])
    with store.lock():
        execute(chosen, store, cluster, limits=QUICK)
    expected = toy.expected()[48:64, 48:64]
    assert (read_map(store)[48:64, 48:64] == expected).all()
    assert np.all(read_map(store)[:48] == -1)
    # and it stays valid: the full run leaves the tile alone
    _, seen = run(toy, tmp_path / "s", cluster)
    assert ("map", Tile(3, 3)) not in ran(seen)
