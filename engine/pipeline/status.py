"""What a store's ledger says, in counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.runs.meter import read_usage
from engine.store.ledger import Flag, Ledger, State
from engine.store.repository import Store

__all__ = ["last_usage", "read_status"]


def read_status(path: str | Path, price: float | None = None) -> dict[str, Any]:
    """Records per stage and state, the texts of failures and gaps, and what the last run used.

    Parameters
    ----------
    path : folder of the store, or ``s3://bucket/prefix``.
    price : of a task slot and hour; with it ``usage`` has ``money``.

    Returns
    -------
    dict with ``stages`` (stage to state to count; of a daily stage tiles x days), ``notes`` (stage
    and tile to text), ``notes_dropped``, ``releases``, ``usage`` (of the last run that made tiles,
    as `engine.runs.usage.Usage.describe` tells it, with its number ``run``; None before any).

    Raises
    ------
    StoreError
    """
    store = Store.open(path)
    ledger = Ledger.of(store.reader())
    stages: dict[str, dict[str, int]] = {}
    order = ("scenes", "composite", "scores", "embedding", "pool-tiles", "pool", "map")
    for name in sorted(ledger.daily, key=lambda n: order.index(n) if n in order else len(order)):
        counts = {
            "done": 0,
            "failed": 0,
            "blocked": 0,
            "with gaps": 0,
            "degraded": 0,
            "on a GPU": 0,
        }
        for _, _, record in ledger.records(name):
            counts[State(int(record["state"])).name.lower()] += 1
            flags = Flag(int(record["flags"]))
            counts["with gaps"] += bool(flags & (Flag.TRANSIENT_GAP | Flag.STRUCTURAL_GAP))
            counts["degraded"] += bool(flags & Flag.DEGRADED)
            counts["on a GPU"] += bool(flags & Flag.GPU)
        stages[name] = counts
    return {
        "store": str(path),
        "stages": stages,
        "notes": ledger.notes,
        "notes_dropped": ledger.notes_dropped,
        "releases": store.tags(),
        "usage": last_usage(ledger, price),
    }


def last_usage(ledger: Ledger, price: float | None) -> dict[str, Any] | None:
    """What the last run that made tiles used, with its number and its price; None before any."""
    runs = read_usage(ledger)
    if not runs:
        return None
    number, usage = max(runs.items())
    return {"run": number, **usage.describe(price)}
