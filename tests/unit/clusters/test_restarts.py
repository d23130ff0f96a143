"""Jobs that die, without a queue: when they are submitted again, and when the run ends."""

from __future__ import annotations

import os
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import engine.clusters.managed as managed
from engine.clusters.settings import ClusterSettings, Group
from engine.errors import RunError


class Fake:
    """A SpecCluster, its queue and its clock: what `alive` refuses is dead at the next look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, logs: Path, **alive: bool) -> None:
        self.alive = {name.replace("_", "-"): value for name, value in alive.items()}
        self.numbers, self.now = count(1), 1000.0
        self.submitted: list[tuple[float, str]] = []
        self.worker_spec = dict.fromkeys(self.alive)
        self.workers: dict[str, Any] = {}
        monkeypatch.setattr(managed, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(managed, "_queued", self.queued)
        groups = tuple(Group(name=name) for name in ("readers", "others"))
        settings = ClusterSettings(kind="slurm", groups=groups)
        self.watched = managed.Managed(self, None, settings, logs)  # type: ignore[arg-type]
        self.scale(len(self.worker_spec))

    @property
    def scheduler_info(self) -> dict[str, Any]:
        return {"workers": {n: {"name": n} for n, alive in self.alive.items() if alive}}

    def queued(self) -> set[str]:
        return {str(job.job_id) for name, job in self.workers.items() if self.alive[name]}

    def scale(self, _: int) -> None:
        for name in self.worker_spec.keys() - self.workers.keys():
            self.workers[name] = SimpleNamespace(job_id=next(self.numbers))
            self.submitted.append((self.now, name))

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now += 1.0
            self.watched.tend()

    def times(self, name: str) -> list[float]:
        return [now - 1000 for now, who in self.submitted if who == name]


def test_what_dies_at_once_is_submitted_ever_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = Fake(monkeypatch, tmp_path, readers_0=True, readers_1=False)
    fake.pass_time(3600)
    times = fake.times("readers-1")
    pauses = [later - before for before, later in pairwise(times)]
    assert pauses[0] <= 10  # a job that was lost comes back at once
    assert pauses == sorted(pauses)
    assert 300 <= pauses[-1] <= 310
    assert len(times) < 20
    assert fake.times("readers-0") == [0]


def test_a_connection_forgets_what_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake(monkeypatch, tmp_path, readers_0=True, readers_1=False)
    fake.pass_time(1000)
    fake.alive["readers-1"] = True
    fake.pass_time(10)
    fake.alive["readers-1"] = False
    lost = fake.now - 1000
    fake.pass_time(20)
    assert min(t for t in fake.times("readers-1") if t > lost) <= lost + 5


def test_a_group_that_never_connects_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, text in enumerate(["an older word", "no module named engine\n" * 50 + "the end"]):
        (tmp_path / f"natmap-others-{number}.err").write_text(text)
        os.utime(tmp_path / f"natmap-others-{number}.err", (number, number))
    (tmp_path / "natmap-others-7.out").touch()
    (tmp_path / "natmap-others-2-8.err").write_text("of another group")
    fake = Fake(monkeypatch, tmp_path, readers_0=True, others_0=False)
    with pytest.raises(RunError, match="group others die") as caught:
        fake.pass_time(600)
    said = str(caught.value)
    assert "5 of others-0 in a row" in said
    assert "no module named engine" in said
    assert "the end" in said
    assert "older" not in said
    assert "of another group" not in said
    assert str(tmp_path) in str(caught.value.remedy)
    assert len(said.splitlines()) < 20
    assert len(fake.times("others-0")) == 5


def test_without_a_log_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake(monkeypatch, tmp_path, others_0=False)
    with pytest.raises(RunError, match="left no log"):
        fake.pass_time(600)


def test_a_silent_queue_is_no_death(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake(monkeypatch, tmp_path, others_0=False)
    monkeypatch.setattr(managed, "_queued", lambda: None)
    fake.pass_time(600)
    assert fake.times("others-0") == [0]
