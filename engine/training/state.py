"""The state of a training on disk, from which a killed one goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from engine.errors import RunError

__all__ = ["keep", "resume"]


def resume(path: Path, key: str) -> dict[str, Any] | None:
    """What `keep` wrote, None where nothing is there.

    Raises
    ------
    RunError
        Where it is another training's.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["key"] != key:
        raise RunError(
            "the folder holds the state of another training",
            got=str(path),
            remedy="remove it to start again, or write to another folder",
        )
    return state


def keep(path: Path, fabric: Fabric, key: str, state: dict[str, Any]) -> None:
    """Write a training's state, whole or not at all; `key` says whose it is."""
    if fabric.is_global_zero:
        part = path.with_suffix(".part")
        try:
            # Fabric's own writes into the system's temporary folder first, where a process that
            # is killed leaves it
            torch.save({"key": key, **state}, part)
        except BaseException:
            part.unlink(missing_ok=True)  # half of it, on a disk that may be full
            raise
        os.replace(part, path)
    fabric.barrier()
