"""The engine's own costs stay level as a country grows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.benchmark import BENCHMARKS

pytestmark = pytest.mark.slow
full = [pytest.mark.soak, pytest.mark.timeout(3600)]


def run(log: Path, name: str, *words: object) -> Any:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / name), *map(str, words)]
    subprocess.run([*command, "--log", str(log)], check=True)
    return json.loads(log.read_text())


@pytest.mark.parametrize(
    ("side", "sleep"), [(40, 0), pytest.param(317, 0.005, marks=full)], ids=["1600", "100000"]
)
def test_a_nation(tmp_path: Path, side: int, sleep: float) -> None:
    """Driver and scheduler forget what is done: 100,000 tiles are to fit beside 5,000."""
    words = ["run", "--side", side, "--until", "scenes", "--sleep", sleep]
    found = run(tmp_path / "nation.json", "scale.py", *words)
    assert found["done"] == found["tiles_of_all_stages"] >= side**2
    assert not found["failed"]
    sizes = [tenth["driver_megabytes"] for tenth in found["tenths"]]
    assert sizes[-1] - sizes[1] < (20 if side > 70 else 6.5)  # 5 kB a tile


@pytest.mark.parametrize(
    "words",
    [["--steps", 30_000, 300_000, "--batches", 1], pytest.param([], marks=full)],
    ids=["300000", "10000000"],
)
def test_a_growing_store(tmp_path: Path, words: list[object]) -> None:
    """A commit writes as much into a large store as into one with a tenth of its references."""
    found = run(tmp_path / "references.json", "references.py", "--work", tmp_path, *words)
    written = {int(step): look["filling"] for step, look in found.items() if look["filling"]}
    assert max(written) == (300_000 if words else 10_000_000)
    few = written[30_000]["kilobytes_per_tile"]
    assert all(look["kilobytes_per_tile"] < 1.5 * few for look in written.values())
    for look in found.values():
        assert max(look["cold_read_megabytes"]) < 50
