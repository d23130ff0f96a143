"""What a run says in a file: when, of which stage, how fast, how long still, and what is silent."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from engine.cli import render
from engine.grid import Tile
from engine.pipeline.verbs import Plan
from engine.runs import events


def heard(monkeypatch: pytest.MonkeyPatch, *told: Any, seconds: float = 0.0) -> list[str]:
    """Lines that a log has of some events, `seconds` apart."""
    file, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(render, "_err", Console(file=file, soft_wrap=True))
    monkeypatch.setattr(render.time, "monotonic", lambda: now[0])
    with render.progress() as listen:
        for event in told:
            now[0] += seconds
            listen(event)
    return file.getvalue().splitlines()


def test_lines_have_time_stage_rate_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    done = events.TileDone("scores", Tile(0, 1), 1.0, 0, 0)
    lines = heard(
        monkeypatch,
        events.RunStarted("a", 600, "http://127.0.0.1:8787/status"),
        *[done] * 8,
        events.Committed(8, 592, 0.1),
        seconds=20.0,
    )
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert "http://127.0.0.1:8787/status" in "".join(lines)
    # 8 tiles in 200 s, and 592 left at that rate
    assert lines[-1].endswith(
        "scores: 8 tiles done, 0 failed, 592 left, 0.04 tiles/s, 4 h 07 min to go"
    )


def test_lines_tell_the_ground_a_second_and_what_takes_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = events.TileDone("scores", Tile(0, 1), 1.0, 0, 0)
    lines = heard(
        monkeypatch,
        events.RunStarted("a", 9),
        events.Committed(0, 9, 0.1),
        done,
        events.Committed(1, 8, 0.1, 1.5, "read"),
        seconds=20.0,
    )
    # no tile is done yet: nobody knows how long it takes
    assert lines[1].endswith("tiles: 0 tiles done, 0 failed, 9 left, 0 tiles/s")
    assert "tiles/s, 1.5 km2/s, most time: read, 11 min to go" in lines[2]


def test_silence_names_what_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = heard(monkeypatch, events.Silence(400.0, (("map", Tile(2, 3)),)))
    assert "nothing came back for 7 min" in line
    assert f"map {Tile(2, 3)}" in line


def test_a_slow_tile_and_a_silent_worker_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, silent = heard(
        monkeypatch,
        events.TileSlow("map", Tile(2, 3), "readers-1", 600.0),
        events.WorkerSilent("1", "tls://127.0.0.1:4", 200.0, (("map", Tile(2, 3)),)),
    )
    assert f"map {Tile(2, 3)} has been with worker readers-1 for 10 min" in slow
    assert "worker 1 (tls://127.0.0.1:4) has not been heard of for 3 min" in silent
    assert f"it has map {Tile(2, 3)}" in silent


def test_a_cluster_without_tls_is_told_of_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = heard(monkeypatch, events.PlainCluster("tcp://10.0.0.1:8786"))
    assert "no TLS" in line
    assert "tcp://10.0.0.1:8786" in line


def test_a_plan_says_hours_memory_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(render, "out", Console(file=file, soft_wrap=True))
    plan = Plan("a", 1, 1, 1, (), (), 1.0, 1.0, 28_800.0, None, (), ())
    shared = {"files": 1234, "worker_gigabytes": 6.5, "workers": 4, "hours": 2.0}
    render.draw_plan(Plan(**{**plan.__dict__, **shared}))
    assert "2 h 00 min with 4 workers of 6.5 GB, up to 1,234 files" in file.getvalue()
