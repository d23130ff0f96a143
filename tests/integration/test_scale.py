"""The engine's own costs stay level as a country grows; the full sizes are benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.slow


def run(log: Path, name: str, *words: str) -> Any:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / name), *words, "--log", str(log)]
    subprocess.run(command, check=True, timeout=580)
    return json.loads(log.read_text())


def test_a_small_nation(tmp_path: Path) -> None:
    """Driver and scheduler forget what is done: 100,000 tiles are to fit beside 5,000."""
    words = ["run", "--side", "70", "--until", "scenes", "--sleep", "0.005"]
    found = run(tmp_path / "nation.json", "scale.py", *words)
    assert found["done"] == found["tiles_of_all_stages"] >= 4900
    assert not found["failed"]
    sizes = [tenth["driver_megabytes"] for tenth in found["tenths"]]
    assert sizes[-1] - sizes[1] < 20


def test_a_growing_store(tmp_path: Path) -> None:
    """A commit writes as much into a store of a million references as into one of 100,000."""
    words = ["--work", str(tmp_path), "--most", "1000000"]
    found = run(tmp_path / "references.json", "references.py", *words)
    written = {int(step): look["filling"] for step, look in found.items() if look["filling"]}
    assert list(written) == [100_000, 300_000, 1_000_000]
    few = written[100_000]["kilobytes_per_tile"]
    assert all(look["kilobytes_per_tile"] < 1.5 * few for look in written.values())
    for look in found.values():
        assert max(look["cold_read_megabytes"]) < 50
