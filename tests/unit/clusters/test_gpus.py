"""Who gets which GPU: on this machine, over SSH, of SLURM; and the memory of both slots."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engine.clusters import connect, local, managed
from engine.clusters.connect import open_cluster
from engine.clusters.gpus import VISIBLE, Seats, asks_for_gpu, gpus_here
from engine.clusters.manifests import manifest
from engine.clusters.settings import ClusterSettings, Group, require_memory
from engine.errors import RunError


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NVIDIA's program, which says that there are three GPUs."""
    path = tmp_path / "nvidia-smi"
    path.write_text('#!/bin/sh\nfor k in 0 1 2; do echo "GPU $k: Fake (UUID: GPU-$k)"; done\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv(VISIBLE, raising=False)
    return path


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("2,0", ["2", "0"]),
        ("1,9,0", ["1"]),
        ("-1", []),
        ("GPU-1, GPU-2", ["GPU-1", "GPU-2"]),
    ],
)
def test_the_gpus_of_this_machine(
    driver: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, found: list[str]
) -> None:
    if told is not None:
        monkeypatch.setenv(VISIBLE, told)
    assert gpus_here() == found


def test_without_the_driver_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here() == []


def _seen(dask_worker: Any) -> tuple[str | None, str]:
    return os.environ.get(VISIBLE), str(dask_worker.name)


def test_local_workers_have_a_gpu_each(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "2,0")
    with local.open_local(3, gigabytes=0.01) as cluster:
        seen = {name: told for told, name in cluster.client.run(_seen).values()}
        assert seen == {"0": "2", "1": "0", "2": ""}
        assert cluster.slots() == {"gpu": 4, "cpu": 5, "mixed": 0}
        workers = list(cluster.client.scheduler_info()["workers"].values())
        slots = {str(w["name"]): w["nthreads"] for w in workers}
        assert slots == {"0": 2, "1": 2, "2": 1}
        memory = {str(w["name"]): w["memory_limit"] for w in workers}
        assert memory["0"] == pytest.approx(2 * memory["2"], rel=1e-3)  # of both of its tasks
        assert cluster.gpus
        known = cluster.client.scheduler_info()["workers"].items()
        for name in ("0", "1"):  # both break: none comes back, the third stays
            (address,) = [where for where, w in known if str(w["name"]) == name]
            cluster.dismiss(address, name)
        assert not cluster.gpus
        assert {told for told, _ in cluster.client.run(_seen).values()} == {""}


def test_both_tasks_of_a_local_worker_need_memory(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_memory", lambda: 8.0)
    with pytest.raises(RunError, match="more memory than a worker has"), local.open_local(1, 7.9):
        pass
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.setattr(local, "_start", lambda *_: pytest.skip("enough for one task"))
    with pytest.raises(pytest.skip.Exception), local.open_local(1, 7.9):
        pass


def test_memory_of_a_group_counts_both_slots() -> None:
    groups = [Group(name="a", gpus=gpus, memory="8GB") for gpus in (0, 1)]
    plain, beside = (ClusterSettings(kind="slurm", groups=(group,)) for group in groups)
    require_memory(plain, 7.9)
    require_memory(beside, 4.0)
    with pytest.raises(RunError, match="more memory") as caught:
        require_memory(beside, 7.9)
    assert "2 at once" in str(caught.value)


def _ssh(*groups: Group) -> dict[str, dict[str, str]]:
    found = managed._ssh(ClusterSettings(kind="ssh", groups=groups), ())
    return {name: spec["options"]["kwargs"]["env"] for name, spec in found.items()}


def test_over_ssh_each_worker_of_a_host_sees_a_gpu_of_its_own() -> None:
    one = Group(name="a", hosts=("x", "y"), workers=4, gpus=1)
    other = Group(name="b", hosts=("x",), workers=4, gpus=1)
    readers = Group(name="r", hosts=("x",), workers=2)
    found = _ssh(one, other, readers)
    assert [found[f"x-a-{k}"][VISIBLE] for k in range(4)] == ["0", "1", "2", "3"]
    assert [found[f"y-a-{k}"][VISIBLE] for k in range(4)] == ["0", "1", "2", "3"]
    assert [found[f"x-b-{k}"][VISIBLE] for k in range(4)] == ["4", "5", "6", "7"]
    assert [found[f"x-r-{k}"][VISIBLE] for k in range(2)] == ["", ""]
    assert not any("NATMAP_GPU_SHARE" in each for each in found.values())


def test_workers_that_share_a_gpu_share_its_memory() -> None:
    found = _ssh(Group(name="a", hosts=("x",), workers=4, gpus=1, gpus_of_host=2))
    assert [found[f"x-a-{k}"][VISIBLE] for k in range(4)] == ["0", "1", "0", "1"]
    assert {each["NATMAP_GPU_SHARE"] for each in found.values()} == {"0.450"}
    with pytest.raises(ValidationError, match="gpus_of_host"):
        Group(name="a", hosts=("x",), gpus_of_host=2)
    with pytest.raises(ValidationError, match="gpus_of_host"):
        Group(name="a", gpus=1, gpus_of_host=2)
    assert Seats().take("x", Group(name="a")) == {VISIBLE: ""}


def _script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, group: Group) -> dict[str, Any]:
    monkeypatch.setattr(managed, "_ask", lambda *_: {"gpu"})
    settings = ClusterSettings(kind="slurm", groups=(group,))
    found: dict[str, Any] = managed._slurm(settings, None, (), tmp_path)["a-0"]["options"]
    return found


def test_slurm_is_asked_for_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usual = _script(monkeypatch, tmp_path, Group(name="a", gpus=1))
    assert usual["job_extra_directives"] == ["--gres=gpu:1"]
    assert not any(VISIBLE in line for line in usual["job_script_prologue"])  # SLURM says which
    own = ("--gres=gpu:a100:1",)
    theirs = _script(monkeypatch, tmp_path, Group(name="a", gpus=1, directives=own))
    assert theirs["job_extra_directives"] == list(own)
    plain = _script(monkeypatch, tmp_path, Group(name="a"))
    assert plain["job_extra_directives"] == []
    assert f"export {VISIBLE}=''" in plain["job_script_prologue"]
    for line in ("--gpus=1", "--gpus-per-node=1", "-G 1", "--gres=gpu:1"):
        assert asks_for_gpu([line])
    assert not asks_for_gpu(["--gres=scratch:10", "--constraint=gpuless"])


def test_where_a_recipe_needs_one_slurm_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ClusterSettings] = []

    def opened(settings: ClusterSettings, *_: Any) -> Any:
        seen.append(settings)
        raise RunError("enough")

    monkeypatch.setattr(connect, "open_managed", opened)
    word = ClusterSettings(kind="slurm", groups=(Group(name="a"), Group(name="b")))
    named = ClusterSettings(kind="slurm", groups=(Group(name="a"), Group(name="b", gpus=1)))
    for settings, gpu in ((word, True), (word, False), (named, True)):
        with pytest.raises(RunError, match="enough"), open_cluster(settings, gpu=gpu):
            pass
    assert [[g.gpus for g in each.groups] for each in seen] == [[1, 1], [0, 0], [0, 1]]


def test_pods_without_a_gpu_see_none() -> None:
    groups = (Group(name="a"), Group(name="b", gpus=1))
    settings = ClusterSettings(kind="kubernetes", image="natmap", groups=groups)
    first = manifest(settings, "n", ())["spec"]["worker"]["spec"]["containers"][0]["env"]
    assert {"name": VISIBLE, "value": ""} in first
