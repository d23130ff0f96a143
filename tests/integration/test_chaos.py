"""Kill -9 of driver, worker, nanny and scheduler in one run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.benchmark import BENCHMARKS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "kills", [1, pytest.param(10, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_kill_nine(tmp_path: Path, kills: int) -> None:
    log = tmp_path / "chaos.log"
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "chaos.py"), "--seed", "11"]
    subprocess.run([*command, "--kills", str(kills), "--log", str(log)], check=True)
    lines = log.read_text().splitlines()
    assert lines[-1].startswith("all identical")
    told = [json.loads(line) for line in lines[:-1]]
    assert sum(line.get("identical", False) for line in told) == kills
    victims = [line["victim"] for line in told if "victim" in line]
    assert sorted(victims) == sorted(kills * ["driver", "worker", "nanny", "scheduler"])
    runs = [line for line in told if "tasks" in line]
    assert all(run["tiles"] >= 60 for run in runs)
    for kill in (line for line in told if "victim" in line):  # none after the work was done
        assert kill["committed"] + kill["flying"] < runs[0]["tasks"]
