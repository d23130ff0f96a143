"""What a commit and a cold read cost as a store grows to ten million chunk references.

    python benchmarks/references.py --work FOLDER --log benchmarks/references.json   (25 minutes)

A toy country of 160 x 160 tiles is filled in the writer's order, 100 days to a tile, with virtual
references (they cost a manifest what others do); what each commit of the filling took and wrote is
noted. At each step the engine itself then runs real tiles at the frontier, and a fresh process
opens the store and reads. The folder is kept: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from icechunk import VirtualChunkSpec

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.toys import Toy, open_ledger, square  # noqa: E402

from engine.clusters.local import Local, open_local  # noqa: E402
from engine.grid.grid import Tile, curve_order  # noqa: E402
from engine.runs import events  # noqa: E402
from engine.runs.execute import Limits, execute  # noqa: E402
from engine.runs.memory import bound_heap  # noqa: E402
from engine.runs.schedule import Schedule  # noqa: E402
from engine.store.repository import Store  # noqa: E402

SIDE, FIRST, DAYS, CHUNKS = 158, 3000, 100, 2
TOY = Toy(square(SIDE), days=tuple(range(FIRST, FIRST + 4)))  # real tiles have four days
STEPS = (0, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 6_000_000, 10_000_000)
BATCH = 250  # tiles of a filling commit
REAL = 48  # tiles of a batch that the engine runs

READ = """
import sys, time
sys.path.insert(0, sys.argv[1])
import zarr
from engine.runs.memory import peak_megabytes
from engine.store.repository import Store
before, began = peak_megabytes(), time.perf_counter()
root = zarr.open_group(Store.open(sys.argv[2]).reader().store, mode="r")
row, col, day = map(int, sys.argv[3:])
values = root["scenes/bands"][day, 0, row * 160:(row + 1) * 160, col * 160:(col + 1) * 160]
assert values.any()
print(time.perf_counter() - began, peak_megabytes() - before)
"""


def curve() -> list[Tile]:
    """All tiles in the order in which a run writes them."""
    rows, cols = np.indices(TOY.grid.shape)
    order = np.argsort(curve_order(rows, cols), axis=None, kind="stable")
    return [Tile(*map(int, divmod(i, TOY.grid.shape[1]))) for i in order]


def fill(job: tuple[Any, list[Tile]]) -> Any:
    """References to all days of some tiles."""
    fork, tiles = job
    chunks = [
        VirtualChunkSpec([day, 0, CHUNKS * tile.row + r, CHUNKS * tile.col + c], place, 0, 9000)
        for tile in tiles
        for place in [f"file:///nowhere/{tile}"]
        for day in range(FIRST, FIRST + DAYS)
        for r in range(CHUNKS)
        for c in range(CHUNKS)
    ]
    fork.store.set_virtual_refs("scenes/bands", chunks, validate_containers=False)
    return fork


def metadata(path: Path) -> dict[str, int]:
    return {
        f"{kind}/{file.name}": file.stat().st_size
        for kind in ("manifests", "snapshots", "transactions", "overwritten")
        if (path / kind).is_dir()
        for file in (path / kind).iterdir()
    }


def filling(commits: list[list[float]]) -> dict[str, float]:
    """What commits since the step before cost: by tile of 100 days, and the worst of them."""
    if not commits:
        return {}
    tiles, seconds, size = np.array(commits).T
    return {
        "commits": len(commits),
        "ms_per_tile": round(1e3 * seconds.sum() / tiles.sum(), 2),
        "ms_per_tile_worst": round(1e3 * (seconds / tiles).max(), 2),
        "kilobytes_per_tile": round(size.sum() / tiles.sum() / 1e3, 1),
        "kilobytes_per_tile_worst": round((size / tiles).max() / 1e3, 1),
    }


def measure(path: Path, tiles: list[Tile], cluster: Local) -> dict[str, Any]:
    """Let the engine run real tiles; what its commits and a cold reader cost."""
    store, stages = Store.open(path), TOY.stages()
    commits: list[tuple[int, float]] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Committed):
            commits.append((event.tiles, event.seconds))

    written: list[int] = []
    for start in range(0, len(tiles), REAL):
        batch = tiles[start : start + REAL]
        ledger = open_ledger(store, stages, TOY.grid)
        schedule = Schedule(stages, TOY.support, ledger, only=batch, until="scenes")
        before = metadata(path)
        with store.lock():
            execute(
                schedule, store, cluster, listeners=[listen],
                limits=Limits(commit_tiles=len(batch), commit_seconds=1e9),
            )  # fmt: skip
        written.append(sum(size for name, size in metadata(path).items() if name not in before))
    place = [str(n) for n in (*tiles[-1], FIRST)]
    cold = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", READ, str(ROOT), str(path), *place],
            capture_output=True, text=True, check=True,
        ).stdout.split()
        for _ in written
    ]  # fmt: skip
    return {
        "commit_seconds": [round(seconds, 3) for _, seconds in commits],
        "commit_tiles": [count for count, _ in commits],
        "metadata_kilobytes": [round(size / 1000) for size in written],
        "cold_read_seconds": [round(float(seconds), 3) for seconds, _ in cold],
        "cold_read_megabytes": [round(float(size)) for _, size in cold],
        "driver_megabytes": round(psutil.Process().memory_info().rss / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="references")
    parser.add_argument("--batches", type=int, default=4, help="of real tiles at each step")
    asked = parser.parse_args()
    bound_heap()
    asked.work.mkdir(parents=True, exist_ok=True)
    path, notes = asked.work / "store", asked.work / "steps.json"
    if not Store.exists(path):
        TOY.open(path)
        notes.unlink(missing_ok=True)
    state: dict[str, Any] = {"filled": 0, "steps": {}, "commits": []}
    if notes.exists():
        state = json.loads(notes.read_text())
    tiles = curve()
    per_tile = DAYS * CHUNKS**2
    real = asked.batches * REAL
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
        open_local(1) as cluster,
    ):
        for step in asked.steps:
            while state["filled"] * per_tile < step:
                count = min(2 * BATCH, -(-step // per_tile) - state["filled"])
                these = tiles[state["filled"] : state["filled"] + count]
                store = Store.open(path)
                fork = store.writer().fork()
                halves = [these[: count // 2], these[count // 2 :]]
                forks = list(pool.map(fill, [(fork, half) for half in halves if half]))
                session = store.writer()
                before, began = metadata(path), time.perf_counter()
                session.merge(*forks)
                session.commit(f"{count} tiles")
                took = time.perf_counter() - began
                new = sum(size for name, size in metadata(path).items() if name not in before)
                state["commits"].append([count, took, new])
                state["filled"] += count
                notes.write_text(json.dumps(state))
            if str(step) not in state["steps"]:
                frontier = tiles[state["filled"] : state["filled"] + real]
                if len(frontier) < real:
                    frontier = tiles[-real:]
                state["steps"][str(step)] = {
                    "filling": filling(state["commits"]),
                    **measure(path, frontier, cluster),
                }
                state["commits"] = []
                notes.write_text(json.dumps(state))
                print(step, json.dumps(state["steps"][str(step)]), flush=True)
    short = {
        step: look["filling"].get("kilobytes_per_tile") for step, look in state["steps"].items()
    }
    print("figures: kB per tile by references", json.dumps(short))
    if asked.log:
        asked.log.write_text(json.dumps(state["steps"], indent=1) + "\n")


if __name__ == "__main__":
    main()
