"""Kill the driver and its workers at random moments, run again, compare with an undisturbed run.

    python benchmarks/chaos.py --kills 20 --log benchmarks/chaos.log      (about 5 minutes)

Every moment and victim is logged with the seed, so that a failure can be repeated. After each
kill the same run is started again; at the end all arrays must equal those of a run that nobody
disturbed, and no committed tile may have run twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from toys import Toy, blob, read_map  # noqa: E402

from engine.clusters.local import open_local  # noqa: E402
from engine.runs import events  # noqa: E402
from engine.runs.execute import Limits, execute  # noqa: E402

TOY = Toy(blob(), delay=0.02)
LIMITS = Limits(commit_tiles=8, commit_seconds=0.3, deaths=50)


def drive(store_path: str | Path) -> None:
    """One run of the toy country; tells its progress on stdout."""
    store, schedule = TOY.open(store_path)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.TileDone):
            print(f"tile {event.stage} {event.tile}", flush=True)
        elif isinstance(event, events.Committed):
            print(f"commit {event.tiles}", flush=True)

    with store.lock(), open_local(2) as cluster:
        print("start", flush=True)
        summary = execute(schedule, store, cluster, listeners=[listen], limits=LIMITS)
    print(f"end {summary.done} {len(summary.failed)}", flush=True)


def start(store_path: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", __file__, "--drive", str(store_path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)


def attempt(
    victim: str, rng: random.Random, folder: Path, log: TextIO
) -> tuple[int, int, np.ndarray]:
    """Run, kill once at a random tile, run again. Returns committed before, ran after, the map."""
    path = folder / "store"
    after = rng.randrange(1, 60)
    run = start(path)
    assert run.stdout is not None
    tiles: list[str] = []
    safe: list[str] = []
    killed = False
    for line in run.stdout:
        word, *rest = line.split()
        if word == "tile":
            tiles.append(" ".join(rest))
        elif word == "commit":
            safe += tiles[len(safe) : len(safe) + int(rest[0])]
        if not killed and len(tiles) >= after:
            killed = True
            time.sleep(rng.random() * 0.2)
            if victim == "driver":
                children = psutil.Process(run.pid).children(recursive=True)
                run.kill()
                for child in children:  # orphans would die by themselves, in a few seconds
                    if child.is_running():
                        child.kill()
            else:
                workers = [
                    p
                    for p in psutil.Process(run.pid).children(recursive=True)
                    if "spawn_main" in " ".join(p.cmdline())
                ]
                os.kill(rng.choice(workers).pid, signal.SIGKILL)
    run.wait()
    log.write(json.dumps({"victim": victim, "after_tiles": after, "committed": len(safe)}) + "\n")
    again: list[str] = []
    second = start(path)
    assert second.stdout is not None
    for line in second.stdout:
        word, *rest = line.split()
        if word == "tile":
            again.append(" ".join(rest))
    if second.wait() or (victim == "worker" and run.returncode):
        raise SystemExit(f"a run ended with an error after the {victim} was killed")
    twice = set(safe) & set(again)
    if twice:
        raise SystemExit(f"committed tiles ran again: {sorted(twice)}")
    store, schedule = TOY.open(path)
    if schedule.open:
        raise SystemExit(f"{schedule.open} tiles are left")
    return len(safe), len(again), read_map(store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--log", type=Path, default=None)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        drive(asked.drive)
        return
    rng = random.Random(asked.seed)
    expected = TOY.expected()
    log = asked.log.open("w") if asked.log else sys.stdout
    log.write(json.dumps({"seed": asked.seed, "kills": asked.kills}) + "\n")
    for number in range(asked.kills):
        for victim in ("driver", "worker"):
            with tempfile.TemporaryDirectory() as folder:
                before, after, found = attempt(victim, rng, Path(folder), log)
            if not (found == expected).all():
                raise SystemExit(f"the map differs after the {victim} was killed")
            log.write(
                json.dumps({"kill": number, "identical": True, "before": before, "after": after})
                + "\n"
            )
            log.flush()
    log.write("all identical, no committed tile ran twice\n")


if __name__ == "__main__":
    main()
