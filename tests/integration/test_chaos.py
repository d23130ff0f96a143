"""Kill -9 of driver, worker, nanny and scheduler in one run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_kill_nine(tmp_path: Path) -> None:
    log = tmp_path / "chaos.log"
    script = str(ROOT / "benchmarks" / "chaos.py")
    command = [sys.executable, "-W", "ignore", script, "--kills", "3", "--seed", "11"]
    subprocess.run([*command, "--log", str(log)], check=True, timeout=580)
    lines = log.read_text().splitlines()
    assert lines[-1].startswith("all identical")
    told = [json.loads(line) for line in lines[:-1]]
    assert sum(line.get("identical", False) for line in told) == 3
    kills = [line["victim"] for line in told if "victim" in line]
    assert sorted(kills) == sorted(3 * ["driver", "worker", "nanny", "scheduler"])
    runs = [line for line in told if "tasks" in line]
    assert all(run["tiles"] >= 60 for run in runs)
    for kill in (line for line in told if "victim" in line):  # none after the work was done
        assert kill["committed"] + kill["flying"] < runs[0]["tasks"]
