"""Folds in runs on real worker processes: one result in every layout, resumed, stale where due."""

from __future__ import annotations

import random
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from support import shared
from support.folds import (
    AREAS,
    CLASSES,
    LEAF,
    LOGS,
    FoldToy,
    areas_by_numpy,
    classes_of,
    edges_by_numpy,
    wrapped,
)
from support.toys import CELL, Mishap, Toy, blob, read_map, square

import engine
from engine.clusters.local import Local, open_local
from engine.errors import RunError
from engine.grid import Tile
from engine.runs import events
from engine.runs.execute import Limits, Summary, execute
from engine.runs.layers import fold_release
from engine.runs.schedule import Schedule, Status, Work
from engine.runs.stage import WHOLE, Input, Stage, link
from engine.store.ledger import Flag, State
from engine.store.repository import Store

QUICK = Limits(commit_tiles=8, commit_seconds=0.3, patience=30)


@pytest.fixture(scope="module")
def cluster() -> Local:
    """The workers that all tests share: nothing here harms them."""
    return shared.workers()


def run(toy: Toy, path: Path, cluster: Local, **more: Any) -> tuple[Summary, list[Any]]:
    seen: list[Any] = []
    store, schedule = toy.open(path)
    if more:
        schedule = Schedule(toy.stages(), toy.support, schedule.ledger, **more)
    with store.lock():
        summary = execute(schedule, store, cluster, listeners=[seen.append], limits=QUICK)
    assert toy.mishaps or not summary.failed
    return summary, seen


def ran(seen: list[Any]) -> list[tuple[str, Tile]]:
    return [(e.stage, e.tile) for e in seen if isinstance(e, events.TileDone)]


def values(path: Path, name: str) -> np.ndarray:
    array: Any = zarr.open_group(Store.open(path).reader().store, mode="r")[name]
    return np.asarray(array[...])


def inside(toy: Toy) -> np.ndarray:
    return toy._inside()


def check(toy: Toy, path: Path) -> None:
    """Results equal numpy on the whole map, as the store holds it."""
    found, area = read_map(Store.open(path)), inside(toy)
    assert (values(path, "areas/cells") == areas_by_numpy(found, area)).all()
    assert values(path, "areas/square_km").sum() == pytest.approx(area.sum() * CELL**2 / 1e6)
    edges = edges_by_numpy(found, area)
    assert (values(path, "edges/edges"), values(path, "edges/steepest")) == edges
    logs = np.log(np.maximum(found[area], 1)).mean()
    assert values(path, "logs/mean") == pytest.approx(logs, rel=1e-5)


_RESULTS = ("areas/cells", "areas/square_km", "edges/edges", "edges/steepest", "logs/total")


def results(path: Path) -> tuple[bytes, ...]:
    return tuple(values(path, name).tobytes() for name in (*_RESULTS, "logs/mean"))


@pytest.mark.parametrize(
    ("size", "layouts"),
    [
        (0.4, ((80, 2), (240, 1))),
        pytest.param(0.7, ((80, 2), (160, 1), (160, 2), (240, 2)), marks=pytest.mark.soak),
    ],
)
def test_a_fold_is_the_same_in_every_layout(
    tmp_path: Path, cluster: Local, size: float, layouts: tuple[tuple[int, int], ...]
) -> None:
    """Other tile sizes (one no power of two of a leaf), shuffled order, one and two workers."""
    found = {}
    for tile, workers in layouts:
        toy = FoldToy(blob(size), tile=tile)
        path = tmp_path / f"{tile}-{workers}"
        store, schedule = toy.open(path)
        order = schedule._order.ravel().copy()
        random.Random(tile * workers).shuffle(order)
        schedule._order[:] = order.reshape(schedule.grid.shape)
        for heap in schedule._heaps.values():
            heap.clear()
        for t in schedule.tiles("scenes", Status.READY):
            schedule.again(Work("scenes", t))
        with ExitStack() as stack:
            some = cluster if workers == 2 else stack.enter_context(open_local(workers))
            stack.enter_context(store.lock())
            assert not execute(schedule, store, some, limits=QUICK).failed
        check(toy, path)
        found[tile, workers] = results(path)
    assert len(set(found.values())) == 1
    # sums in other orders are other numbers, or the test would show nothing
    path = tmp_path / "80-2"
    leaves = values(path, "logs-tiles/total")[values(path, "logs-tiles/made") > 0]
    draw = np.random.default_rng(1)
    sums = {np.add.accumulate(draw.permutation(leaves))[-1] for _ in range(50)}
    assert len(sums) > 1


def test_a_killed_worker_and_a_stop_change_nothing(tmp_path: Path, cluster: Local) -> None:
    mishaps = tuple(
        Mishap("kill", stage, tile, times=1, memory=str(tmp_path))
        for stage, tile in (("areas-tiles", Tile(1, 1)), ("logs", WHOLE))
    )
    toy, path = FoldToy(square(3), mishaps=mishaps), tmp_path / "s"
    store, schedule = toy.open(path)
    seen: list[Any] = []

    def interrupt(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.TileDone) and len(ran(seen)) == 70:
            signal.raise_signal(signal.SIGINT)

    with open_local(2) as mortal:
        with store.lock():
            first = execute(schedule, store, mortal, listeners=[interrupt], limits=QUICK)
        assert first.stopped
        _, later = run(toy, path, mortal)
    assert not set(ran(seen)) & set(ran(later))
    retried = [e.stage for e in (*seen, *later) if isinstance(e, events.TileRetried)]
    assert {"areas-tiles", "logs"} <= set(retried)
    check(toy, path)
    clean = tmp_path / "clean"
    run(FoldToy(square(3)), clean, cluster)
    assert ran(run(FoldToy(square(3)), clean, cluster)[1]) == []
    assert results(clean) == results(path)


def test_a_changed_tile_redoes_its_own_part_only(tmp_path: Path, cluster: Local) -> None:
    toy, path = FoldToy(square(4), folds=(AREAS, LOGS)), tmp_path / "s"
    run(toy, path, cluster)
    before = results_of(path, "areas/cells", "logs/total")
    changed = replace(toy, shifts={(Tile(2, 2), 3005): 2000})
    _, seen = run(changed, path, cluster)
    maps = {tile for stage, tile in ran(seen) if stage == "map"}
    parts = [tile for stage, tile in ran(seen) if stage == "areas-tiles"]
    assert sorted(parts) == sorted(set(parts))
    assert set(parts) <= maps
    assert Tile(2, 2) in parts
    assert len(parts) <= 9 < 16
    assert ran(seen).count(("areas", WHOLE)) == ran(seen).count(("logs", WHOLE)) == 1
    check_areas(changed, path)
    assert results_of(path, "areas/cells", "logs/total") != before


def results_of(path: Path, *names: str) -> list[bytes]:
    return [values(path, name).tobytes() for name in names]


def check_areas(toy: Toy, path: Path) -> None:
    found = areas_by_numpy(read_map(Store.open(path)), inside(toy))
    assert (values(path, "areas/cells") == found).all()


def test_only_what_finishes_is_redone_where_it_changed(tmp_path: Path, cluster: Local) -> None:
    toy, path = FoldToy(square(2), folds=(AREAS,)), tmp_path / "s"
    run(toy, path, cluster)
    again = replace(toy, folds=(replace(AREAS, result_version=2),))
    assert ran(run(again, path, cluster)[1]) == [("areas", WHOLE)]
    again = replace(toy, folds=(replace(AREAS, version=2, result_version=2),))
    _, seen = run(again, path, cluster)
    # parts were made anew and are the same: the result is not
    assert {stage for stage, _ in ran(seen)} == {"areas-tiles"}
    assert len(ran(seen)) == 4


def test_a_failed_tile_is_told_and_made_up_for(tmp_path: Path, cluster: Local) -> None:
    area, poison, path = square(4), Tile(2, 2), tmp_path / "s"
    mishap = Mishap("raise", "map", poison, memory=str(tmp_path))
    toy = FoldToy(area, mishaps=(mishap,), folds=(AREAS,), share=True)
    summary, _ = run(toy, path, cluster)
    assert [(stage, tile) for stage, tile, _ in summary.failed] == [("map", str(poison))]
    clean = FoldToy(area, folds=(AREAS,), share=True)
    _, schedule = clean.open(path)
    record = schedule.ledger.get("areas", WHOLE)
    assert record is not None
    assert record["state"] == State.DONE
    assert record["flags"] & Flag.DEGRADED
    assert schedule.ledger.notes[f"areas/{WHOLE}"] == "15 of 16 tiles"
    there = inside(clean)
    there[poison.row * 16 :][:16, poison.col * 16 :][:, :16] = False
    found = areas_by_numpy(read_map(Store.open(path)), there)
    assert (values(path, "areas/cells") == found).all()
    # what read the result says so too, and all of it is stale
    degraded = {t for _, t, r in schedule.ledger.records("share") if r["flags"] & Flag.DEGRADED}
    assert len(degraded) == 15
    assert schedule.status["areas"][WHOLE] == Status.WAITING
    assert schedule.count("share", Status.WAITING) == 16
    _, seen = run(clean, path, cluster)
    assert {t for s, t in ran(seen) if s == "areas-tiles"} == {poison}
    assert ("areas", WHOLE) in ran(seen)
    assert sum(stage == "share" for stage, _ in ran(seen)) == 16
    _, schedule = clean.open(path)
    assert f"areas/{WHOLE}" not in schedule.ledger.notes
    record = schedule.ledger.get("areas", WHOLE)
    assert record is not None
    assert not record["flags"] & Flag.DEGRADED
    check_areas(clean, path)


def test_what_a_tile_once_held_is_not_merged_when_it_fails(tmp_path: Path, cluster: Local) -> None:
    """Its chunk still lies in the store; the ledger says that it does not count."""
    area, path = square(3), tmp_path / "s"
    run(FoldToy(area, folds=(AREAS,)), path, cluster)
    mishap = Mishap("raise", "areas-tiles", Tile(1, 1), memory=str(tmp_path))
    folds = (replace(AREAS, version=2),)
    run(FoldToy(area, folds=folds, mishaps=(mishap,)), path, cluster)
    toy = FoldToy(area)
    there = inside(toy)
    there[16:32, 16:32] = False
    found = areas_by_numpy(read_map(Store.open(path)), there)
    assert (values(path, "areas/cells") == found).all()
    assert values(path, "areas-tiles/made")[1, 1] == 1


def test_a_later_stage_waits_for_all_and_reads_the_result(tmp_path: Path, cluster: Local) -> None:
    toy, path = FoldToy(square(3), folds=(AREAS,), share=True), tmp_path / "s"
    _, seen = run(toy, path, cluster)
    stages = [stage for stage, _ in ran(seen)]
    assert stages.index("share") > stages.index("areas") > stages.count("areas-tiles")
    found = read_map(Store.open(path))
    counts = areas_by_numpy(found, inside(toy))
    expected = np.where(inside(toy), counts[classes_of(found)], -1)
    assert (values(path, "share/cells") == expected).all()
    # one tile changes the areas, and by them every tile of what reads them
    changed = replace(toy, shifts={(Tile(1, 1), 3005): 9})
    _, seen = run(changed, path, cluster)
    assert sum(stage == "share" for stage, _ in ran(seen)) == 9
    # a result that is the same stales nothing
    again = replace(changed, folds=(replace(AREAS, result_version=2),))
    assert ran(run(again, path, cluster)[1]) == [("areas", WHOLE)]


def test_a_result_that_fails_blocks_what_reads_it(tmp_path: Path, cluster: Local) -> None:
    mishap = Mishap("raise", "areas", WHOLE, memory=str(tmp_path))
    toy = FoldToy(square(2), folds=(AREAS,), share=True, mishaps=(mishap,))
    summary, _ = run(toy, tmp_path / "s", cluster)
    assert [(stage, tile) for stage, tile, _ in summary.failed] == [("areas", str(WHOLE))]
    assert summary.blocked == 4
    clean = FoldToy(square(2), folds=(AREAS,), share=True)
    _, seen = run(clean, tmp_path / "s", cluster)
    assert {stage for stage, _ in ran(seen)} == {"areas", "share"}


def test_chosen_tiles_fold_what_is_there(tmp_path: Path, cluster: Local) -> None:
    toy, path = FoldToy(square(3), folds=(AREAS,)), tmp_path / "s"
    run(toy, path, cluster, only=[Tile(1, 1), Tile(1, 2)])
    _, schedule = toy.open(path)
    assert schedule.ledger.notes[f"areas/{WHOLE}"] == "2 of 9 tiles"
    assert values(path, "areas/cells").sum() == 2 * 256
    assert schedule.status["areas"][WHOLE] == Status.WAITING
    _, seen = run(toy, path, cluster)
    assert sum(stage == "areas-tiles" for stage, _ in ran(seen)) == 7
    check_areas(toy, path)


def test_chosen_tiles_that_read_a_result_ask_for_all_of_it(tmp_path: Path, cluster: Local) -> None:
    toy, path = FoldToy(square(3), folds=(AREAS,), share=True), tmp_path / "s"
    _, seen = run(toy, path, cluster, only=[Tile(1, 1)])
    assert sum(stage == "areas-tiles" for stage, _ in ran(seen)) == 9
    assert [tile for stage, tile in ran(seen) if stage == "share"] == [Tile(1, 1)]
    check_areas(toy, path)


def test_until_a_fold(tmp_path: Path, cluster: Local) -> None:
    toy, path = FoldToy(square(2), folds=(AREAS,), share=True), tmp_path / "s"
    _, seen = run(toy, path, cluster, until="areas")
    assert ran(seen)[-1] == ("areas", WHOLE)
    assert not any(stage == "share" for stage, _ in ran(seen))


def test_the_store_shows_tables_and_results(tmp_path: Path, cluster: Local) -> None:
    toy, path = FoldToy(blob(0.4), folds=(AREAS, LOGS)), tmp_path / "s"
    run(toy, path, cluster)
    tree = engine.open_store(path)
    areas = tree["areas"]["square_km"]
    assert areas.dims == ("class",)
    assert areas["class"].values.tolist() == list(range(CLASSES))
    assert areas.attrs["units"] == "km2"
    tables = tree["areas-tiles"]["cells"]
    assert tables.dims == ("class", "y", "x")
    assert (tables.sum(("y", "x")).values == tree["areas"]["cells"].values).all()
    assert float(tree["logs-tiles"]["x"][1] - tree["logs-tiles"]["x"][0]) == LEAF
    # the same fold in this process, of the store's array: bit for bit
    known = replace(LOGS, part=log_where_known)
    again = fold_release(known, Store.open(path), paths=["map/classes"])
    assert again["total"].tobytes() == values(path, "logs/total").tobytes()
    assert again["mean"] == values(path, "logs/mean")


def log_where_known(block: Any) -> Any:
    """As `sum_logs`, of a map that has no value beyond the area."""
    values = block.read("map/classes")
    logs = np.log(np.where(values >= 0, np.maximum(values, 1), 1).astype(np.float32))
    return {"total": logs.sum(), "cells": np.int64((values >= 0).sum())}


def test_a_fork_that_writes_another_tiles_table_is_refused(tmp_path: Path, cluster: Local) -> None:
    mishap = Mishap("foreign", "areas-tiles", Tile(1, 1), memory=str(tmp_path))
    toy = FoldToy(square(2), folds=(AREAS,), mishaps=(mishap,))
    stages = toy.stages()
    # the mishap writes to the last place of the first array, here of one without classes
    parts = stages[3]
    stages[3] = replace(parts, outputs=(parts.outputs[1], parts.outputs[0]))
    store, schedule = toy.open(tmp_path / "s")
    schedule = Schedule(stages, toy.support, schedule.ledger)
    with store.lock():
        summary = execute(schedule, store, cluster, limits=QUICK)
    [(stage, tile, text)] = summary.failed
    assert (stage, tile) == ("areas-tiles", str(Tile(1, 1)))
    assert "own tile's chunks" in text


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        (Input("areas"), "cannot read areas like this"),
        (Input("map", scope="area"), "cannot read map like this"),
        (Input("areas", 100.0, "area"), "a halo of 100 m"),
    ],
)
def test_wrong_scopes_are_refused(reader: Input, words: str) -> None:
    toy = FoldToy(square(2), folds=(AREAS,), share=True)
    stages = toy.stages()
    stages[-1] = replace(stages[-1], inputs=(reader,))
    with pytest.raises(RunError, match=words):
        link(stages, toy.grid, CELL)


def test_a_stage_of_the_area_has_arrays_of_the_area() -> None:
    parts, result = AREAS.stages(1600.0)
    for stage, other in ((parts, "area"), (result, "tile")):
        with pytest.raises(RunError, match="another extent"):
            replace(stage, scope=other)
    assert isinstance(wrapped(result, ()), Stage)
