"""Kill -9 of driver, worker, nanny and scheduler: three of each here, ten by `make chaos`."""

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
    assert sum(json.loads(line).get("identical", False) for line in lines[:-1]) == 12
