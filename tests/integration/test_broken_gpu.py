"""A broken GPU takes no tile with it: its worker goes, and the tiles run on those that work.

The GPUs are words here: a kernel on one worker, or on all, raises what CUDA would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from distributed import get_worker
from integration.test_mixed_workers import GPU, PLAIN, workers
from support.toys import Kernel, Toy, read_map, square

from engine.clusters.existing import Existing
from engine.errors import DeviceError, RunError
from engine.grid.grid import Tile
from engine.infer.predict import choose_device
from engine.runs import events
from engine.runs.execute import Limits, Summary, execute
from engine.runs.failures import as_device_error
from engine.runs.schedule import Schedule
from engine.runs.stage import Output
from engine.runs.task import TileTask
from engine.store.ledger import Flag

LOST = "CUDA error: an illegal memory access was encountered"


@dataclass(frozen=True)
class Broken:
    """A kernel that fails as on a broken GPU: on some workers, or wherever a tile is."""

    kernel: Kernel
    where: tuple[str, ...] = ()
    tile: Tile | None = None
    blind: bool = False

    def __call__(self, task: TileTask) -> Iterator[Output]:
        if str(get_worker().name) in self.where or task.tile == self.tile:
            if self.blind:
                choose_device(task.device("auto"))  # here PyTorch finds no GPU
            raise RuntimeError(f"{LOST}\nCUDA kernel errors might be asynchronously reported")
        task.devices.add("Fake GPU")
        yield from self.kernel(task)


def run(
    folder: Path, cluster: Existing, tiles: int = 6, **broken: Any
) -> tuple[Summary, list[events.Event], Toy, Any]:
    """A run whose last stage needs a GPU that may be broken."""
    toy = Toy(square(tiles))
    store, schedule = toy.open(folder / "store")
    stages = list(toy.stages())
    stages[2] = replace(stages[2], resource="auto", kernel=Broken(stages[2].kernel, **broken))
    schedule = Schedule(stages, toy.support, schedule.ledger)
    seen: list[events.Event] = []
    with store.lock():
        summary = execute(
            schedule,
            store,
            cluster,
            listeners=[seen.append],
            limits=Limits(commit_tiles=12, commit_seconds=0.5),
        )
    return summary, seen, toy, store


def test_a_broken_gpu_of_two_costs_no_tile(tmp_path: Path) -> None:
    with workers(good=GPU, bad=GPU, reader=PLAIN) as cluster:
        summary, seen, toy, store = run(tmp_path, cluster, where=("bad",))
        left = {str(w["name"]) for w in cluster.client.scheduler_info()["workers"].values()}
    assert not summary.failed
    assert (read_map(store) == toy.expected()).all()
    (gone,) = [event for event in seen if isinstance(event, events.WorkerRetired)]
    assert gone.worker == "bad"
    assert "illegal memory access" in gone.error
    assert not [e for e in seen if isinstance(e, (events.TileRetried, events.TileFailed))]
    assert left == {"good", "reader"}
    ledger = toy.open(tmp_path / "store")[1].ledger
    records = [record for _, _, record in ledger.records("map")]
    assert len(records) == 36
    assert all(record["attempts"] == 1 for record in records)  # no tile is charged
    assert all(record["flags"] & Flag.GPU for record in records)
    assert ledger.devices == {"map": {"Fake GPU": 36}}
    assert not any(record["flags"] & Flag.GPU for _, _, record in ledger.records("composite"))


def test_a_tile_that_fails_on_many_gpus_is_to_blame(tmp_path: Path) -> None:
    many = {f"gpu{k}": GPU for k in range(4)}
    with workers(**many) as cluster:
        summary, seen, *_ = run(tmp_path, cluster, tiles=2, tile=Tile(1, 2))
    assert [(stage, tile) for stage, tile, _ in summary.failed] == [("map", str(Tile(1, 2)))]
    assert len([e for e in seen if isinstance(e, events.WorkerRetired)]) == 3


def test_where_no_gpu_works_the_run_ends_and_says_why(tmp_path: Path) -> None:
    """`auto` on workers that offer a GPU, whose PyTorch finds none: no tile runs on their CPUs."""
    with (
        workers(one=GPU, reader=PLAIN) as cluster,
        pytest.raises(RunError, match="no worker with a GPU") as caught,
    ):
        run(tmp_path, cluster, tiles=2, where=("one",), blind=True)
    said = str(caught.value)
    assert "one: no GPU on" in said
    assert "device to cpu" in said


def test_whose_error_it_is() -> None:
    for words in (LOST, "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "CUDA out of memory."):
        found = as_device_error(RuntimeError(words))
        assert found is not None
        assert words in str(found)
    assert as_device_error(RuntimeError("a class is missing")) is None
    assert isinstance(as_device_error(DeviceError("no GPU on here")), DeviceError)
