"""What a store's ledger says, in counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.store.ledger import Flag, Ledger, State
from engine.store.repository import Store

__all__ = ["read_status"]


def read_status(path: str | Path) -> dict[str, Any]:
    """Records per stage and state, and the texts of failures and gaps.

    Parameters
    ----------
    path : folder of the store, or ``s3://bucket/prefix``.

    Returns
    -------
    dict with ``stages`` (stage to state to count; of a daily stage tiles x days), ``notes`` (stage
    and tile to text), ``notes_dropped``, ``releases``.

    Raises
    ------
    StoreError
    """
    store = Store.open(path)
    ledger = Ledger.of(store.reader())
    stages: dict[str, dict[str, int]] = {}
    order = ("scenes", "composite", "scores", "embedding", "pool-tiles", "pool", "map")
    for name in sorted(ledger.daily, key=lambda n: order.index(n) if n in order else len(order)):
        counts = {"done": 0, "failed": 0, "blocked": 0, "with gaps": 0, "degraded": 0}
        for _, _, record in ledger.records(name):
            counts[State(int(record["state"])).name.lower()] += 1
            flags = Flag(int(record["flags"]))
            counts["with gaps"] += bool(flags & (Flag.TRANSIENT_GAP | Flag.STRUCTURAL_GAP))
            counts["degraded"] += bool(flags & Flag.DEGRADED)
        stages[name] = counts
    return {
        "store": str(path),
        "stages": stages,
        "notes": ledger.notes,
        "notes_dropped": ledger.notes_dropped,
        "releases": store.tags(),
    }
