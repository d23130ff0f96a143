"""The core loop on real worker processes, and its traps one by one (toy kernels)."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.toys import Kernel, Mishap, Toy, blob, crop, read_map, read_scenes, square

from engine.clusters.local import Local, open_local
from engine.errors import RunError
from engine.grid import Tile
from engine.runs import events
from engine.runs.execute import Limits, execute
from engine.runs.schedule import Schedule, Status, Work
from engine.runs.stage import Output
from engine.runs.task import TileTask
from engine.store.ledger import Flag, State

pytestmark = pytest.mark.slow
QUICK = Limits(commit_tiles=8, commit_seconds=0.3)
FULL = [(80, 1), (160, 1), (160, 2), (320, 1)]  # tiles in pixels, workers


@pytest.fixture(scope="module")
def cluster() -> Iterator[Local]:
    with open_local(2) as found:
        yield found


def both(cluster: Local) -> list[Any]:
    """Its two nannies, once both have a worker again: an earlier test may have killed one."""
    for _ in range(600):
        nannies = list(cluster._cluster.workers.values())
        here = cluster.client.scheduler_info(n_workers=-1)["workers"]
        if len(nannies) == 2 and all(nanny.worker_address in here for nanny in nannies):
            return nannies
        time.sleep(0.1)
    raise AssertionError("a worker was not started again within a minute")


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


@pytest.mark.parametrize(
    ("tile", "workers"),
    [
        *[(80, 2), (320, 2)],  # one worker: test_exhaustion.py
        *[pytest.param(n, w, marks=pytest.mark.soak) for n, w in FULL],
    ],
)
def test_the_map_does_not_depend_on_the_layout(
    tmp_path: Path, tile: int, workers: int, cluster: Local
) -> None:
    """Tiles of three sizes, shuffled order, one and two workers, a curved border, an island."""
    toy = Toy(blob(0.5), tile=tile)
    store, schedule = toy.open(tmp_path / "s")
    order = schedule._order.ravel().copy()
    random.Random(tile * workers).shuffle(order)
    schedule._order[:] = order.reshape(schedule.grid.shape)
    for heap in schedule._heaps.values():
        heap.clear()
    for t in schedule.tiles("scenes", Status.READY):
        schedule.again(Work("scenes", t))
    with nullcontext(cluster) if workers == 2 else open_local(workers) as found, store.lock():
        execute(schedule, store, found, limits=QUICK)
    reference = Toy(blob(0.5), tile=160)
    bounds = (0, -4000, 4800, 0)
    expected = crop(reference.expected(), reference.grid, bounds)
    assert (crop(read_map(store), toy.grid, bounds) == expected).all()


def test_a_second_run_does_nothing(tmp_path: Path, cluster: Local) -> None:
    run(Toy(square(1)), tmp_path / "s", cluster)
    _, seen = run(Toy(square(1)), tmp_path / "s", cluster)
    assert ran(seen) == []


def test_a_new_day_touches_only_that_day_and_what_it_changes(
    tmp_path: Path, cluster: Local
) -> None:
    area = square(3)  # in a ring of tiles that are read and not mapped
    run(Toy(area), tmp_path / "s", cluster)
    changed = Toy(area, shifts={(Tile(1, 1), 3005): 9})
    assert changed.open(tmp_path / "s")[1].stale_parts("scenes", Tile(1, 1)) == 1  # of two days
    _, seen = run(changed, tmp_path / "s", cluster)
    tiles = {stage: [t for s, t in ran(seen) if s == stage] for stage in ("scenes", "composite")}
    assert tiles["scenes"] == [Tile(1, 1)]
    assert len(tiles["composite"]) == 9
    mapped = {t for s, t in ran(seen) if s == "map"}
    assert mapped >= {Tile(row, col) for row in (1, 2) for col in (1, 2)}
    assert max(t.row for t in mapped) == 2  # of 3; strips are digested whole, so a column more
    store, _ = changed.open(tmp_path / "s")
    assert (read_map(store) == changed.expected()).all()
    grown = Toy(area, days=(3000, 3005, 3010))
    _, schedule = grown.open(tmp_path / "s")
    ready = schedule.tiles("scenes", Status.READY)
    assert ready
    for tile in ready:  # the new day; of one tile the day that was shifted, too
        assert schedule.stale_parts("scenes", tile) == (2 if tile == Tile(1, 1) else 1)
    _, seen = run(grown, tmp_path / "s", cluster)
    store, _ = grown.open(tmp_path / "s")
    assert (read_map(store) == grown.expected()).all()


def test_a_change_inside_a_tile_does_not_stale_its_neighbours(
    tmp_path: Path, cluster: Local
) -> None:
    """Strips are digested apart: the same value at the border, another in the middle."""
    toy = Toy(square(1))
    run(toy, tmp_path / "s", cluster)
    store, schedule = toy.open(tmp_path / "s")
    stages = toy.stages()
    stages[0] = replace(stages[0], version=2, kernel=Kernel(_middle))
    schedule = Schedule(stages, toy.support, schedule.ledger)
    seen: list = []
    with store.lock():
        execute(schedule, store, cluster, listeners=[seen.append], limits=QUICK)
    counted = [stage for stage, _ in ran(seen)]
    assert counted.count("scenes") == 9
    assert [t for s, t in ran(seen) if s == "composite"] == [Tile(1, 1)]


def _middle(task):  # type: ignore[no-untyped-def]
    for output in read_scenes(task):
        if task.tile == Tile(1, 1):
            output.arrays["scenes/bands"][0, 80, 80] += 1
        yield output


def test_a_poison_tile_is_quarantined_and_its_neighbours_live(
    tmp_path: Path, cluster: Local
) -> None:
    area = square(3)
    poison = Tile(1, 1)
    mapped = {Tile(1, 2), Tile(2, 1), Tile(2, 2)}  # neighbours that have a map
    toy = Toy(area, mishaps=(Mishap("kill", "composite", poison, memory=str(tmp_path)),))
    _, seen = run(toy, tmp_path / "s", cluster, replace(QUICK, deaths=2))
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
    assert degraded == mapped
    # Next run, without the mishap: only the tile and what reads it.
    _, seen = run(Toy(area), tmp_path / "s", cluster)
    assert set(ran(seen)) == {("composite", poison), ("map", poison)} | {("map", t) for t in mapped}
    store, _ = Toy(area).open(tmp_path / "s")
    assert (read_map(store) == Toy(area).expected()).all()


@pytest.mark.parametrize("stage", ["scenes", "map"])
def test_a_tile_that_raises_once_is_tried_again(tmp_path: Path, cluster: Local, stage: str) -> None:
    mishap = Mishap("raise", stage, Tile(1, 1), times=1, memory=str(tmp_path))
    toy, seen = run(Toy(square(1), mishaps=(mishap,)), tmp_path / "s", cluster)
    assert [e.tile for e in seen if isinstance(e, events.TileRetried)] == [Tile(1, 1)]
    store, _ = toy.open(tmp_path / "s")
    assert (read_map(store) == toy.expected()).all()


def test_a_tile_that_raises_always_is_terminal_after_its_attempts(
    tmp_path: Path, cluster: Local
) -> None:
    mishap = Mishap("raise", "map", Tile(1, 1), memory=str(tmp_path))
    _, seen = run(Toy(square(1), mishaps=(mishap,)), tmp_path / "s", cluster)
    assert len([e for e in seen if isinstance(e, events.TileRetried)]) == QUICK.attempts - 1
    [failed] = [e for e in seen if isinstance(e, events.TileFailed)]
    assert "a toy mishap" in failed.error


def test_a_structural_error_is_not_tried_again(tmp_path: Path, cluster: Local) -> None:
    mishap = Mishap("structural", "scenes", Tile(1, 1), memory=str(tmp_path))
    _, seen = run(Toy(square(1), mishaps=(mishap,)), tmp_path / "s", cluster)
    assert [e for e in seen if isinstance(e, events.TileRetried)] == []
    assert len([e for e in seen if isinstance(e, events.TileFailed)]) == 1


def test_chunks_of_another_tile_are_refused(tmp_path: Path, cluster: Local) -> None:
    mishap = Mishap("foreign", "map", Tile(1, 1), memory=str(tmp_path))
    _, seen = run(Toy(square(2), mishaps=(mishap,)), tmp_path / "s", cluster)
    [failed] = [e for e in seen if isinstance(e, events.TileFailed)]
    assert failed.tile == Tile(1, 1)
    assert "own tile's chunks" in failed.error
    store, _ = Toy(square(2)).open(tmp_path / "s")
    expected = Toy(square(2)).expected()
    expected[16:32, 16:32] = -1
    assert (read_map(store) == expected).all()


def test_all_workers_gone_with_their_nannies(tmp_path: Path) -> None:
    toy = Toy(square(2), delay=0.05)
    store, schedule = toy.open(tmp_path / "s")
    seen: list = []
    begun = threading.Event()

    def listen(event: events.Event) -> None:
        seen.append(event)
        if len(ran(seen)) == 6:
            begun.set()

    with open_local(2) as cluster, store.lock():

        def massacre() -> None:
            assert begun.wait(120)
            for nanny in list(cluster._cluster.workers.values()):
                os.kill(nanny.process.pid, signal.SIGKILL)
            cluster._cluster.sync(_close_nannies, cluster._cluster)

        thread = threading.Thread(target=massacre)
        thread.start()
        execute(schedule, store, cluster, listeners=[listen], limits=replace(QUICK, patience=120))
        thread.join()
    assert any(isinstance(event, events.WorkersLost) for event in seen)
    assert (read_map(store) == toy.expected()).all()


async def _close_nannies(cluster) -> None:  # type: ignore[no-untyped-def]
    for nanny in list(cluster.workers.values()):
        await nanny.close(timeout=1)


def test_a_held_result_of_a_dead_worker_is_not_run_again(tmp_path: Path, cluster: Local) -> None:
    """Results are let go at once, so killing workers afterwards costs nothing."""
    toy = Toy(square(2), delay=0.02)
    store, schedule = toy.open(tmp_path / "s")
    seen: list = []

    def kill_one(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.TileDone) and len(ran(seen)) in (6, 20):
            os.kill(next(iter(cluster._cluster.workers.values())).process.pid, signal.SIGKILL)

    with store.lock():
        execute(schedule, store, cluster, listeners=[kill_one], limits=QUICK)
    assert len(ran(seen)) == len(set(ran(seen)))
    assert (read_map(store) == toy.expected()).all()


def test_a_result_that_was_lost_and_fails_when_it_is_made_again_is_tried_again(
    tmp_path: Path, cluster: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies between the end of a task and the gathering of its result: the scheduler runs
    the task again, that fails too, and the driver is told."""
    toy = Toy(square(1))
    client, killed = cluster.client, []
    gather = client._gather_remote

    async def late(*words: object) -> object:
        for key in client._gather_keys:
            if key.startswith("map-") and not killed:
                [address] = client.cluster.scheduler.tasks[key].who_has
                nannies = client.cluster.workers.values()
                [nanny] = [n for n in nannies if n.worker_address == address.address]
                killed.append(key)
                os.kill(nanny.process.pid, signal.SIGKILL)
        return await gather(*words)

    monkeypatch.setattr(client, "_gather_remote", late)
    store, schedule = toy.open(tmp_path / "s")
    stages = toy.stages()
    stages[2] = replace(stages[2], kernel=Second(stages[2].kernel, tmp_path / "begun"))
    schedule = Schedule(stages, toy.support, schedule.ledger)
    seen: list = []
    with store.lock():
        execute(schedule, store, cluster, listeners=[seen.append], limits=QUICK)
    assert len(killed) == 1
    assert [e.error for e in seen if isinstance(e, events.TileRetried)] == [
        "RuntimeError: a second time"
    ]
    assert (read_map(store) == toy.expected()).all()


@dataclass(frozen=True)
class Second:
    """A kernel that fails when it runs for the second time, wherever that is."""

    kernel: Kernel
    begun: Path

    def __call__(self, task: TileTask) -> Iterator[Output]:
        with self.begun.open("a+") as file:
            file.write("x")
            file.seek(0)
            if file.read() == "xx":
                raise RuntimeError("a second time")
        yield from self.kernel(task)


def test_a_stop_drains_and_the_next_run_does_the_rest(tmp_path: Path, cluster: Local) -> None:
    toy = Toy(square(2), delay=0.02)
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
    toy = Toy(square(3))
    store, schedule = toy.open(tmp_path / "s")
    chosen = Schedule(toy.stages(), toy.support, schedule.ledger, only=[Tile(3, 3)])
    with store.lock():
        execute(chosen, store, cluster, limits=QUICK)
    here = np.s_[48:64, 48:64]
    expected = np.full_like(toy.expected(), -1)
    expected[here] = toy.expected()[here]
    assert (read_map(store) == expected).all()
    # and it stays valid: the full run leaves the tile alone
    _, seen = run(toy, tmp_path / "s", cluster)
    assert ("map", Tile(3, 3)) not in ran(seen)
    assert (read_map(toy.open(tmp_path / "s")[0]) == toy.expected()).all()


def test_where_nothing_comes_back_listeners_are_told_what_is_out(
    tmp_path: Path, cluster: Local
) -> None:
    limits = Limits(window=1, silence=0.5)
    _, told = run(Toy(square(1), delay=1.5), tmp_path / "s", cluster, limits)
    silent = [event for event in told if isinstance(event, events.Silence)]
    assert silent
    assert all(event.seconds >= 0.5 and event.tiles for event in silent)


def test_a_frozen_worker_is_told_of_while_the_others_go_on(tmp_path: Path, cluster: Local) -> None:
    toy = Toy(square(2), delay=0.2)
    store, schedule = toy.open(tmp_path / "s")
    told: list = []
    [nanny, _] = both(cluster)
    worker = nanny.process.pid

    def listen(event: events.Event) -> None:
        told.append(event)
        if len(ran(told)) == 1 and isinstance(event, events.TileDone):
            os.kill(worker, signal.SIGSTOP)
        silent = {e.address for e in told if isinstance(e, events.WorkerSilent)}
        slow = {e.worker for e in told if isinstance(e, events.TileSlow)}
        if nanny.worker_address in silent and str(nanny.name) in slow:
            os.kill(worker, signal.SIGCONT)

    try:
        with store.lock():
            limits = replace(QUICK, silence=2.0)
            summary = execute(schedule, store, cluster, listeners=[listen], limits=limits)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert not summary.failed
    first = next(e for e in told if getattr(e, "address", None) == nanny.worker_address)
    assert first.seconds >= 2.0
    assert first.tiles
    assert len(ran(told[: told.index(first)])) > 1, "nobody went on"
    assert (read_map(store) == toy.expected()).all()
