"""One run in a process of its own, as people start one: RECIPE BASE WORKERS TILES."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from engine.errors import RunError
from engine.pipeline.verbs import load, run
from engine.runs import events

__all__ = ["main"]


def main() -> None:
    """Run, and tell when the first tile began (by the clock), what was used, and memory."""
    recipe, base, workers, tiles = sys.argv[1:5]
    first: list[float] = []
    memory: list[tuple[float, int]] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.TileDone):
            now = time.time()
            if not first:
                first.append(now - event.seconds)
            most = memory[-1][1] if memory else 0
            memory.append((now, max(most, event.megabytes)))

    found = run(
        load(Path(recipe), None)[0],
        base=Path(base),
        workers=int(workers),
        tiles=tiles.split(",") if tiles else None,
        listeners=[listen],
    )
    if found.failed or found.usage is None:
        raise RunError("tiles failed", got="; ".join(text for _, _, text in found.failed[:3]))
    cpu = sum(stage.cpu for stage in found.usage.stages.values())
    mine = resource.getrusage(resource.RUSAGE_SELF)
    told: dict[str, Any] = {
        "first": first[0],
        "cpu": cpu + mine.ru_utime + mine.ru_stime,
        "memory": memory,
        "usage": found.usage.describe(),
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
