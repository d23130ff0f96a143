"""What a process says of its memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from engine.runs.memory import peak_megabytes

CHILD = "from engine.runs.memory import peak_megabytes; print(peak_megabytes())"


def test_the_peak_is_the_process_own() -> None:
    """A worker's must not be that of the driver which started it."""
    before = peak_megabytes()
    ballast = np.ones(400 * 1024**2, np.uint8)
    assert peak_megabytes() >= 400
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert 5 < float(told.stdout) < 300
    del ballast
    assert peak_megabytes() >= max(before, 400)  # of the past, not of now


def test_a_system_without_proc_is_asked_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = peak_megabytes()
    monkeypatch.setattr("engine.runs.memory._STATUS", tmp_path_factory.mktemp("none") / "status")
    monkeypatch.setattr("engine.runs.memory.sys.platform", "linux")
    assert peak_megabytes() >= 0.9 * here  # or what a parent had
