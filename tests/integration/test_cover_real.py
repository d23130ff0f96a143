"""Land cover on real patches, by natmap's own commands; minutes of training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_chesapeake_patches_are_learnt_and_mapped(data: Path, tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "cover" / "chesapeake.py"
    command = [sys.executable, script, "--data", data, "--work", tmp_path / "work"]
    subprocess.run([*command, "--out", tmp_path], check=True, capture_output=True)
    found = json.loads((tmp_path / "chesapeake.json").read_text())
    assert found["classes"]["tree_canopy"]["iou"] >= 0.8
    assert found["classes"]["water"]["iou"] is None  # there is none: no figure, not 0
