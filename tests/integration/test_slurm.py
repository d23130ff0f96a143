"""Runs on a real SLURM: a controller and two emulated nodes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from services.required import need
from services.slurm import PROGRAMS, Slurm
from support.near import near
from support.stranger import knock
from support.toys import Toy, blob, read_map

import engine
from engine.clusters import managed, restarts
from engine.clusters.managed import open_managed
from engine.clusters.settings import ClusterSettings, Group, load_cluster
from engine.errors import RunError
from engine.runs import events
from engine.runs.execute import Limits, execute
from engine.runs.schedule import Status

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
QUICK = Limits(commit_tiles=8, commit_seconds=0.5, deaths=8)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    need(*PROGRAMS)
    found = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(autouse=True)
def _environment(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("USER", "root")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))


def settings(folder: Path, **more: object) -> ClusterSettings:
    groups = [
        Group(name="readers", workers=1, cores=1, memory="4GB"),
        Group(name="others", workers=1, cores=1, memory="4GB", walltime="00:30:00"),
    ]
    return ClusterSettings(
        kind="slurm", interface="lo", folder=str(folder), groups=groups, patience=90, **more
    )


def jobs(slurm: Slurm) -> dict[str, str]:
    """Number of each job that runs, and its node."""
    lines = slurm.call("squeue", "-h", "-t", "RUNNING", "-o", "%A %N").splitlines()
    return dict(line.split() for line in lines)


def test_a_run_outlives_a_cancelled_job_and_a_lost_node(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "_LOOK", 1.0)
    toy = Toy(blob(0.8), delay=0.5)
    store, schedule = toy.open(tmp_path / "store")
    total = schedule.open
    done: list[events.TileDone] = []
    at: dict[str, int] = {}  # tiles done when it happened
    with open_managed(settings(tmp_path / "shared")) as cluster, store.lock():
        assert cluster.client.scheduler.address.startswith("tls://")
        until = time.monotonic() + 60
        while cluster.slots()["cpu"] < 2 and time.monotonic() < until:
            time.sleep(0.2)
        first = jobs(slurm)
        assert len(first) == 2
        seen: list[dict[str, str]] = []

        def disturb() -> None:
            while len(done) < 6:
                time.sleep(0.05)
            slurm.call("scancel", min(first))
            at["cancelled"] = len(done)
            while len(jobs(slurm)) < 2:  # it was submitted again
                time.sleep(0.3)
            seen.append(jobs(slurm))
            node = seen[0][max(seen[0])]
            slurm.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
            at["down"] = len(done)

        other = threading.Thread(target=disturb, daemon=True)
        other.start()
        summary = execute(
            schedule,
            store,
            cluster,
            listeners=[lambda e: done.append(e) if isinstance(e, events.TileDone) else None],
            limits=QUICK,
        )
        other.join(60)
    assert not summary.failed
    assert len(seen) == 1, "the cancelled job did not come back"
    assert 0 < at["cancelled"] < at["down"] < total - 10, "the node was lost too late"
    assert set(seen[0]) - set(first)
    down = [line for line in slurm.call("sinfo", "-h", "-N", "-o", "%N %T").split("\n") if line]
    assert any("down" in line for line in down)
    for name in slurm.nodes:
        slurm.call("scontrol", "update", f"NodeName={name}", "State=RESUME", check=False)
    assert (read_map(store) == toy.expected()).all()
    log = (tmp_path / "shared" / "logs").iterdir()
    assert any(log)


@pytest.mark.soak
@pytest.mark.parametrize("until", ["composite", None])
def test_a_recipe_runs_by_a_settings_file(tmp_path: Path, until: str | None) -> None:
    wanted = yaml.safe_load((near() / "recipe.yaml").read_text()) | {"store": str(tmp_path / "far")}
    file = tmp_path / "cluster.yaml"
    values = settings(tmp_path / "shared").model_dump(mode="json", exclude_defaults=True)
    file.write_text(yaml.safe_dump(values))
    assert load_cluster(str(file)).groups[1].walltime == "00:30:00"
    assert not engine.run(wanted, base=near(), cluster=str(file), until=until).failed
    plan = engine.plan(wanted, base=near())
    done = [s.name for s in plan.stages if not s.stale and not s.waiting]
    assert done == ["scenes", "composite"] if until else len(done) == len(plan.stages)
    a, b = (engine.open_store(path) for path in (tmp_path / "far", near() / "store"))
    compared = [("composite", "bands"), ("map", "classes"), ("map", "confidence")]
    for group, name in compared[: 1 if until else 3]:
        np.testing.assert_array_equal(a[group][name], b[group][name])


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    wrong = settings(tmp_path)
    bad = wrong.model_copy(
        update={"groups": (wrong.groups[0].model_copy(update={"queue": "nowhere"}),)}
    )
    with pytest.raises(RunError, match="no such partition"), open_managed(bad):
        pass
    with pytest.raises(RunError, match="more memory"), open_managed(wrong, gigabytes=5.0):
        pass


def test_the_word_alone_leaves_logs_where_hosts_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with open_managed(load_cluster("slurm", 1)) as cluster:
        until = time.monotonic() + 60
        while not cluster.slots()["cpu"] and time.monotonic() < until:
            time.sleep(0.2)
        assert cluster.slots()["cpu"] == 1
        [worker] = cluster.client.scheduler_info(n_workers=-1)["workers"].items()
        doors = [cluster.client.scheduler.address, worker[0], worker[1]["nanny"]]
        assert all(door.startswith("tls://") for door in doors)
        (key,) = (tmp_path / "natmap-slurm").glob("*/key.pem")
        tried = knock(doors, files=[str(key)])
        for found in tried.values():
            assert all(answer.startswith("refused") for answer in found.values()), tried
    folder = tmp_path / "natmap-slurm"
    assert [path.name for path in folder.iterdir()] == ["logs"]  # scratch is gone
    assert any(path.stat().st_size for path in (folder / "logs").iterdir())


def test_plain_tcp_is_for_settings_that_ask_for_it(tmp_path: Path) -> None:
    with open_managed(settings(tmp_path / "shared", tls=False)) as cluster:
        address = cluster.client.scheduler.address
        assert address.startswith("tcp://")
        assert knock([address])[address]["in the clear"] == "in"


def test_a_group_whose_jobs_only_die_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "_FIRST", 0.5)  # seconds to the second try; doubled each time
    monkeypatch.setattr(managed, "_LOOK", 1.0)
    right = settings(tmp_path / "shared")
    # no job dies before something is done that is to be kept
    wait = f"until test -e {tmp_path}/committed; do sleep 0.1; done"
    prologue = (wait, "echo no such module here", "exit 3")
    bad = right.groups[1].model_copy(update={"prologue": prologue})
    broken = right.model_copy(update={"groups": (right.groups[0], bad)})
    toy = Toy(blob(), delay=1.0)  # longer than the jobs of the other group take to die
    store, schedule = toy.open(tmp_path / "store")

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Committed):
            (tmp_path / "committed").touch()

    with (
        pytest.raises(RunError, match="group others die") as caught,
        open_managed(broken) as cluster,
        store.lock(),
    ):
        execute(schedule, store, cluster, listeners=[tell], limits=QUICK)
    assert "no such module here" in str(caught.value)
    _, left = toy.open(tmp_path / "store")
    assert left.count("scenes", Status.SETTLED)  # what was done is kept
