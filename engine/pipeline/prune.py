"""Prune: what of a store's past may go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from engine.errors import RecipeError
from engine.store.repository import Store

__all__ = ["Pruned", "prune"]

_MOST = 36_500  # days


@dataclass(frozen=True)
class Pruned:
    """What pruning freed.

    Attributes
    ----------
    snapshots : commits that can no longer be opened.
    gigabytes : freed.
    releases : tags, which all stay.
    """

    snapshots: int
    gigabytes: float
    releases: tuple[str, ...]


def prune(store: str | Path, *, keep_days: float = 7.0) -> Pruned:
    """Forget commits older than some days, and free what only they hold; releases stay.

    Parameters
    ----------
    store : folder, or ``s3://bucket/prefix``.
    keep_days : of history, at least 0.

    Raises
    ------
    LockedError
        Where a run is at work: its workers' chunks would be taken for waste.
    RecipeError
        Where `keep_days` is negative, no number, or beyond the calendar.
    """
    if not 0 <= keep_days <= _MOST:  # not a number, neither
        raise RecipeError("so many days cannot be kept", got=keep_days, expected=f"0 to {_MOST}")
    opened = Store.open(store)
    cut = datetime.now(UTC) - timedelta(days=keep_days)
    snapshots, freed = opened.prune(cut)
    return Pruned(snapshots, freed / 1e9, tuple(opened.tags()))
