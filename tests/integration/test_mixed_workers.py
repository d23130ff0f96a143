"""Workers with and without a GPU on one scheduler: who takes what. The GPU is a word here."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Scheduler, SpecCluster, Worker, get_worker
from support.toys import Kernel, Toy, read_map, square

from engine.clusters.existing import Existing, open_existing
from engine.clusters.settings import ClusterSettings
from engine.clusters.workers import SETTINGS
from engine.errors import RunError
from engine.runs.execute import Limits, execute
from engine.runs.schedule import Schedule
from engine.runs.stage import Output
from engine.runs.task import TileTask

GPU = {"nthreads": 2, "resources": {"GPU": 2}}
PLAIN = {"nthreads": 1, "resources": {"CPU": 1}}


@dataclass(frozen=True)
class Witnessed:
    """A kernel that leaves word of when and where it ran."""

    kernel: Kernel
    folder: Path

    def __call__(self, task: TileTask) -> Iterator[Output]:
        began = time.time()
        time.sleep(0.3 if task.stage == "map" else 0.1)
        outputs = list(self.kernel(task))
        word = {"stage": task.stage, "worker": get_worker().name, "times": [began, time.time()]}
        (self.folder / f"{task.stage}-{task.tile}.json").write_text(json.dumps(word))
        yield from outputs


@contextmanager
def workers(**specs: dict[str, Any]) -> Iterator[Existing]:
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SETTINGS))
        local = {"host": "127.0.0.1", "port": 0}
        cluster = stack.enter_context(
            SpecCluster(
                workers={n: {"cls": Worker, "options": local | o} for n, o in specs.items()},
                scheduler={"cls": Scheduler, "options": {**local, "dashboard_address": ":0"}},
                silence_logs="CRITICAL",
            )
        )
        settings = ClusterSettings(kind="address", address=cluster.scheduler_address)
        found = stack.enter_context(open_existing(settings))
        found.client.wait_for_workers(len(specs), timeout=60)
        yield found


def run(folder: Path, cluster: Existing, resource: str) -> dict[str, list[dict[str, Any]]]:
    """What each worker did in a run whose last stage asks for a resource."""
    toy = Toy(square(2))
    store, schedule = toy.open(folder / "store")
    stages = [replace(s, kernel=Witnessed(s.kernel, folder)) for s in toy.stages()]
    stages[2] = replace(stages[2], resource=resource)  # type: ignore[arg-type]
    schedule = Schedule(stages, toy.support, schedule.ledger)
    with store.lock():
        summary = execute(
            schedule, store, cluster, limits=Limits(commit_tiles=8, commit_seconds=0.5)
        )
    assert not summary.failed
    assert (read_map(store) == toy.expected()).all()
    found = defaultdict(list)
    for path in folder.glob("*.json"):
        word = json.loads(path.read_text())
        found[word["worker"]].append(word)
    return found


def at_once(words: list[dict[str, Any]]) -> int:
    """The most tiles that were in work at one time."""
    moments = sorted((t, step) for w in words for t, step in zip(w["times"], (1, -1), strict=True))
    most = now = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def test_a_gpu_takes_its_stages_and_leaves_the_rest(tmp_path: Path) -> None:
    with workers(card=GPU, reader=PLAIN) as cluster:
        done = run(tmp_path, cluster, "auto")
    assert {word["stage"] for word in done["card"]} == {"map"}
    assert {word["stage"] for word in done["reader"]} == {"scenes", "composite"}
    assert at_once(done["card"]) == 2  # one tile is read while another is computed
    assert at_once(done["reader"]) == 1


@pytest.mark.soak
def test_without_a_gpu_the_others_take_all(tmp_path: Path) -> None:
    with workers(one=PLAIN) as cluster:
        assert {word["stage"] for word in run(tmp_path, cluster, "auto")["one"]} == {
            "scenes",
            "composite",
            "map",
        }
        with pytest.raises(RunError, match="needs a GPU and no worker offers one"):
            run(tmp_path / "again", cluster, "gpu")
