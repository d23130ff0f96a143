"""How a run is paced."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """How a run is paced; none of it changes a result.

    Attributes
    ----------
    window : tasks in flight for each worker slot.
    commit_tiles, commit_seconds : a commit is made after so many tiles or so long.
    attempts : tries of a tile that raises.
    deaths : workers that a tile may outlive; more than `attempts`, since innocents die too.
    gpus : workers whose GPU may fail on a tile until it is the tile that is charged.
    patience : seconds without any worker before the run gives up.
    silence : seconds without a finished tile, with one tile, or without a sign of a worker, after
        which listeners are told, and again after twice as long.
    """

    window: int = 4
    commit_tiles: int = 48
    commit_seconds: float = 4.0
    attempts: int = 3
    deaths: int = 4
    gpus: int = 3
    patience: float = 120.0
    silence: float = 180.0
