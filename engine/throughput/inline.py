"""All stale tiles of a recipe in this process, one after the other: no cluster, so CPU seconds are
those of the kernels alone."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from engine.errors import RunError
from engine.grid.grid import Tile
from engine.pipeline.prepare import Prepared, prepare
from engine.pipeline.verbs import load
from engine.runs.choice import named
from engine.runs.schedule import Schedule, Work
from engine.runs.task import TileTask, run_tile
from engine.runs.usage import Usage
from engine.store.digests import commit
from engine.store.ledger import RECORD

__all__ = ["Inline", "run_inline"]

_TOGETHER = 8  # tiles of a commit


@dataclass(frozen=True)
class Inline:
    """What it took.

    Attributes
    ----------
    seconds, cpu : from the first tile to the last commit; of this process, all threads.
    usage : of the tiles, by stage and step.
    """

    seconds: float
    cpu: float
    usage: Usage


def run_inline(
    prepared: Prepared,
    *,
    until: str | None = None,
    tiles: Sequence[Tile] | None = None,
    seen: Callable[[TileTask], None] = lambda task: None,
) -> Inline:
    """Run a recipe into its store, which must be new, and commit as a run does.

    Parameters
    ----------
    prepared : Prepared
    until : last stage.
    tiles : to be finished; by default all.
    seen : gets each task before it runs, outside of what is timed.

    Raises
    ------
    NatmapError
        Where a tile fails: a benchmark of half a run says nothing.
    """
    store = prepared.open_store()
    usage = Usage()
    with store.lock():
        session = store.writer()
        prepared.blank_ledger().create(zarr.open_group(session.store, mode="r+"))
        commit(session, "make the ledger")
        schedule = prepared.schedule(store, until=until, tiles=tiles)
        untimed = 0.0
        began, cpu = time.perf_counter(), time.process_time()
        while works := _next(schedule):
            results = []
            for work in works:
                task = schedule.task(work, 0)
                aside = time.perf_counter()
                seen(task)
                untimed += time.perf_counter() - aside
                results.append(run_tile(task, store.writer().fork()))
                usage.add(results[-1])
            session = store.writer()
            session.merge(*(result.fork for result in results))
            for result in results:
                for part, raw in result.records:
                    record = np.frombuffer(bytearray(raw), RECORD)[0]
                    schedule.ledger.put(result.stage, result.tile, record, part)
            schedule.ledger.write(zarr.open_group(session.store, mode="r+"))
            commit(session, f"{len(results)} tiles")
            schedule.ledger.written()
            schedule.settled(works)
        seconds = time.perf_counter() - began - untimed
        cpu = time.process_time() - cpu
    if schedule.open:
        raise RunError("tiles are left that nothing can make ready", got=schedule.open)
    usage.pass_time(seconds, 1)
    return Inline(seconds, cpu, usage)


def _next(schedule: Schedule) -> list[Work]:
    works: list[Work] = []
    for kind in ("cpu", "gpu"):
        while len(works) < _TOGETHER and (work := schedule.take(kind)):
            works.append(work)
    return works


def main() -> None:
    """One copy among several at once: RECIPE STORE UNTIL TILES BASE, a line of JSON on stdout.

    It waits for a line on stdin, so that all copies begin together.
    """
    recipe, store, until, tiles, base = sys.argv[1:6]
    told, _ = load(Path(recipe), None)
    prepared = prepare(told.model_copy(update={"store": store}), Path(base))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    found = run_inline(
        prepared, until=until or None, tiles=named(tiles.split(",")) if tiles else None
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told_ = {"seconds": found.seconds, "cpu": found.cpu, "peak_kilobytes": peak}
    sys.stdout.write(json.dumps(told_) + "\n")


if __name__ == "__main__":
    main()
