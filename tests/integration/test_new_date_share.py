"""A date over a tenth of 400 tiles costs about a tenth of its own bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from services.faulty import PROGRAMS
from services.required import need

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_new_date_over_a_tenth_of_a_country(tmp_path: Path) -> None:
    need(*PROGRAMS)
    log = tmp_path / "new-date.json"
    script = str(ROOT / "benchmarks" / "new_date.py")
    command = [sys.executable, "-W", "ignore", script, "--work", str(tmp_path), "--log", str(log)]
    small = ["--side", "17600", "--tile", "80", "--dates", "2"]
    subprocess.run([*command, *small], check=True, timeout=1180)
    found = json.loads(log.read_text())
    whole = found["full"]
    assert whole["of"] >= 400
    assert all(count >= whole["of"] for count in whole["tiles"].values())  # inputs with a halo
    assert 0 < found["bytes_share"] <= 0.12
    # tiles that the item may reach look for it; those that have a pixel of it run on
    share = found["tiles_share"]
    assert share["scores"] < share["scenes"] == share["composite"] < 0.5
    assert 0.1 <= share["map"] <= 0.2
