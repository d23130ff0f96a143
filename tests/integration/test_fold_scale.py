"""Class areas of a whole country in one pass, with memory that does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "folds.py"


def run(log: Path, side: int, timeout: float) -> Any:
    words = [sys.executable, "-W", "ignore", str(SCRIPT), "--side", str(side), "--log", str(log)]
    subprocess.run(words, check=True, timeout=timeout)
    return json.loads(log.read_text())


def check(found: Any, side: int) -> None:
    assert found["equals_numpy"]
    assert not found["failed"]
    assert found["done"] == side**2 + 1
    # of tables as many are held as are read at once, however many there are
    assert found["worker_megabytes_merging"] - found["worker_megabytes_parts"] < 64


@pytest.mark.slow
def test_areas_of_a_thousand_tiles(tmp_path: Path) -> None:
    check(run(tmp_path / "small.json", 32, 500), 32)


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_areas_of_a_hundred_thousand_tiles(tmp_path: Path) -> None:
    """Tables of 206 MB, by workers and a driver that hold a few."""
    found = run(tmp_path / "nation.json", 317, 5300)
    check(found, 317)
    assert found["tables_megabytes"] > 200
    sizes = [tenth["driver_megabytes"] for tenth in found["tenths"]]
    assert sizes[-1] - sizes[1] < 20
