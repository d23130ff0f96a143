"""What a fold costs: class areas of a huge toy country in one pass.

    python benchmarks/folds.py --side 317 --log FILE.json         (100,489 tiles)

The map is written beforehand, in slabs, with its ledger: it is not what is measured. A table is
256 counts, 2 kB a tile. Reported per tenth of the tiles: tiles/s and the driver's memory; then the
seconds of merging, and the most memory that the workers had by the last tile and by the merging.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.toys import CELL, CRS, field_at, open_ledger, square  # noqa: E402

from engine.clusters.local import open_local  # noqa: E402
from engine.grid import Grid, Support  # noqa: E402
from engine.runs import events  # noqa: E402
from engine.runs.execute import execute  # noqa: E402
from engine.runs.fold import Fold  # noqa: E402
from engine.runs.memory import bound_heap  # noqa: E402
from engine.runs.schedule import Schedule  # noqa: E402
from engine.runs.stage import WHOLE, Input, Output, Stage  # noqa: E402
from engine.runs.tables import Block, Column, Table  # noqa: E402
from engine.runs.task import TileTask  # noqa: E402
from engine.store.arrays import ArraySpec  # noqa: E402
from engine.store.ledger import RECORD, State  # noqa: E402
from engine.store.repository import Store  # noqa: E402

TILE, N = 800.0, 8


def never(task: TileTask) -> Iterator[Output]:
    raise AssertionError(f"{task.tile} is there already")


def count(block: Block) -> Table:
    classes = block.read("cover/classes")[block.inside("cover/classes")]
    return {"cells": np.bincount(classes, minlength=256).astype(np.int64)}


COVER = Stage("cover", never, (ArraySpec("cover/classes", "uint8", CELL, N, 0),))
AREAS = Fold(
    "areas",
    (Input("cover"),),
    (Column("cells", "int64", (("class", tuple(range(256))),)),),
    count,
)


def write_map(store: Store, grid: Grid, support: Support) -> np.ndarray:
    """The whole map and its records; returns it."""
    height, width = grid.array_shape(CELL)
    classes = field_at(np.arange(width), np.arange(height), 1).astype(np.uint8)
    ledger = open_ledger(store, [COVER, *AREAS.stages(TILE)], grid)
    schedule = Schedule([COVER], support, ledger)
    for row in range(0, grid.n_rows, 16):
        session = store.writer()
        root: Any = zarr.open_group(session.store, mode="r+")
        rows = slice(row * N, min(row + 16, grid.n_rows) * N)
        root["cover/classes"][rows] = classes[rows]
        session.commit("a slab")
    for tile in grid.tiles():
        for _, mark, _ in schedule._stale("cover", tile):
            record = np.zeros((), RECORD)
            for name, value in mark._asdict().items():
                record[name] = value
            record["state"], record["digest"] = State.DONE, hash(tile) % 2**32
            ledger.put("cover", tile, record[()])
    session = store.writer()
    ledger.write(zarr.open_group(session.store, mode="r+"))
    session.commit("the ledger")
    return classes


def run(side: int, workers: int) -> dict[str, object]:
    bound_heap()
    area = square(side, round(TILE / 10))
    grid = Grid.fit(area.bounds(), crs=CRS, tile_size=TILE)
    support = Support(area, grid, CELL)
    stages = [COVER, *AREAS.stages(TILE)]
    specs = [spec for stage in stages for spec in stage.outputs]
    tenths: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", grid, specs)
        classes = write_map(store, grid, support)
        ledger = open_ledger(store, stages, grid)
        schedule = Schedule(stages, support, ledger)
        total, state = schedule.open, {"done": 0, "wall": 0.0}
        step = max(total // 10, 1)

        def listen(event: events.Event) -> None:
            if not isinstance(event, events.TileDone):
                return
            state["done"] += 1
            if state["done"] % step == 0:
                wall = time.perf_counter()
                tenths.append(
                    {
                        "tiles": state["done"],
                        "tiles_per_second": round(step / (wall - state["wall"]), 1),
                        "driver_megabytes": round(psutil.Process().memory_info().rss / 1e6),
                    }
                )
                print(tenths[-1], flush=True)
                state["wall"] = wall

        with store.lock(), open_local(workers) as cluster:
            began = state["wall"] = time.perf_counter()
            summary = execute(schedule, store, cluster, listeners=[listen])
            seconds = time.perf_counter() - began
        root: Any = zarr.open_group(store.reader().store, mode="r")
        found = root["areas/cells"][:]
        merged = ledger.get("areas", WHOLE)
        assert merged is not None
        parts = max(int(r["megabytes"]) for _, _, r in ledger.records("areas-tiles"))
    return {
        "tiles": side * side,
        "done": summary.done,
        "failed": len(summary.failed),
        "seconds": round(seconds, 1),
        "merging_seconds": round(float(merged["seconds"]), 1),
        "tables_megabytes": round(side * side * AREAS.bytes / 1e6, 1),
        "worker_megabytes_parts": parts,
        "worker_megabytes_merging": int(merged["megabytes"]),
        "equals_numpy": bool((found == np.bincount(classes.ravel(), minlength=256)).all()),
        "tenths": tenths,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args()
    found = run(asked.side, asked.workers)
    print(json.dumps(found, indent=1))
    if asked.log:
        asked.log.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
