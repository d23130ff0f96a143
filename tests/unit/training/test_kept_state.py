"""The state of a training: whole in its folder, and nothing anywhere else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.errors import RunError
from engine.training.state import keep, resume

FIRST: Any = SimpleNamespace(is_global_zero=True, barrier=lambda: None)
OTHER: Any = SimpleNamespace(is_global_zero=False, barrier=lambda: None)


def test_a_state_is_written_beside_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process leaves what it has in the system's temporary folder, for good."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    keep(tmp_path / "state.pt", OTHER, "key", {})
    assert not list(tmp_path.iterdir())
    keep(tmp_path / "state.pt", FIRST, "key", {"model": {"w": torch.ones(3)}})
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    state = resume(tmp_path / "state.pt", "key")
    assert state is not None
    assert torch.equal(state["model"]["w"], torch.ones(3))
    with pytest.raises(RunError, match="another training"):
        resume(tmp_path / "state.pt", "other")


def test_half_a_state_does_not_stay(tmp_path: Path) -> None:
    with pytest.raises((TypeError, AttributeError), match="pickle"):
        keep(tmp_path / "state.pt", FIRST, "key", {"model": lambda: None})
    assert not list(tmp_path.iterdir())
