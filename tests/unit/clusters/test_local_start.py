"""Workers that never come are not waited for without end, and without a word."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.clusters import local
from engine.errors import RunError


def test_a_worker_frozen_at_its_start_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "stuck_at_start.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(local, "_LONGEST_START", 8.0)
    began = time.monotonic()
    with (
        pytest.raises(RunError, match="did not start"),
        local.open_local(1, preload=[str(tmp_path / "stuck_at_start.py")]),
    ):
        pass
    assert time.monotonic() - began < 60
