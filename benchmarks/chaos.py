"""Kill a process of each kind at random moments, run again, compare with an undisturbed run.

    python benchmarks/chaos.py --kills 10 --log benchmarks/chaos.log      (about 8 minutes)

Driver and worker die on a cluster that the driver started; nanny and scheduler are processes of
their own, with a keeper that starts what has ended, as systemd or Kubernetes would. Every moment
and victim is logged with the seed, so that a failure can be repeated. After each kill the same run
is started again; at the end all arrays must equal those of a run that nobody disturbed, and no
committed tile may have run twice. Only the death of the driver may end a run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from toys import Toy, blob, read_map  # noqa: E402

from engine.clusters.opening import open_cluster  # noqa: E402
from engine.clusters.settings import load_cluster  # noqa: E402
from engine.clusters.workers import dask_settings  # noqa: E402
from engine.errors import SchedulerLostError  # noqa: E402
from engine.runs import events  # noqa: E402
from engine.runs.execute import Limits, execute  # noqa: E402

TOY = Toy(blob(), delay=0.02)
LIMITS = Limits(commit_tiles=8, commit_seconds=0.3, deaths=50)


VICTIMS = ("driver", "worker", "nanny", "scheduler")


def drive(store_path: str | Path, address: str) -> None:
    """One run of the toy country; tells its progress on stdout."""
    store, _ = TOY.open(store_path)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.TileDone):
            print(f"tile {event.stage} {event.tile}", flush=True)
        elif isinstance(event, events.Committed):
            print(f"commit {event.tiles}", flush=True)

    settings = load_cluster(address)
    with store.lock():
        print("start", flush=True)
        while True:
            _, schedule = TOY.open(store_path)
            try:
                with open_cluster(settings, 2) as cluster:
                    summary = execute(schedule, store, cluster, listeners=[listen], limits=LIMITS)
                break
            except SchedulerLostError:
                print("lost", flush=True)  # as `engine.run` does: from the ledger on
    print(f"end {summary.done} {len(summary.failed)}", flush=True)


def start(store_path: str | Path, address: str = "local") -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", __file__, "--drive", str(store_path)]
    return subprocess.Popen(
        [*command, "--cluster", address], stdout=subprocess.PIPE, text=True, bufsize=1
    )


class Keeper:
    """A scheduler and two workers as processes, started again whenever they end."""

    def __init__(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{found.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        dask = [sys.executable, "-W", "ignore", "-m", "dask"]
        worker = [*dask, "worker", self.address, "--nthreads", "1", "--no-dashboard"]
        self._commands = {
            "scheduler": [
                *dask,
                "scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                port,
                "--no-dashboard",
            ],
            "nanny": [*worker, "--death-timeout", "60"],
            "nanny 2": [*worker, "--death-timeout", "60"],
        }
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._environment = os.environ | dask_settings() | {"PYTHONPATH": path}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for process in self._processes.values():
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()

    def _keep(self) -> None:
        while not self._over.wait(0.3):
            for name, command in self._commands.items():
                process = self._processes.get(name)
                if process is None or process.poll() is not None:
                    self._processes[name] = subprocess.Popen(
                        command,
                        env=self._environment,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )

    def kill(self, name: str) -> None:
        self._processes[name].kill()


def attempt(
    victim: str, rng: random.Random, folder: Path, log: TextIO
) -> tuple[int, int, np.ndarray]:
    """Run, kill once at a random tile, run again. Returns committed before, ran after, the map."""
    path = folder / "store"
    after = rng.randrange(1, 60)
    with Keeper() if victim in ("nanny", "scheduler") else nullcontext() as keeper:
        address = keeper.address if keeper else "local"
        run = start(path, address)
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
            elif word == "lost":
                tiles = list(safe)  # what had not been committed runs again
            if not killed and len(tiles) >= after:
                killed = True
                time.sleep(rng.random() * 0.2)
                if keeper:
                    keeper.kill(victim)
                else:
                    _kill(run, victim, rng)
        run.wait()
        told = {"victim": victim, "after_tiles": after, "committed": len(safe)}
        log.write(json.dumps(told) + "\n")
        again: list[str] = []
        second = start(path, address)
        assert second.stdout is not None
        for line in second.stdout:
            word, *rest = line.split()
            if word == "tile":
                again.append(" ".join(rest))
        second.wait()
    if second.returncode or (victim != "driver" and run.returncode):
        raise SystemExit(f"a run ended with an error after the {victim} was killed")
    twice = (set(safe) & set(again)) | {tile for tile in safe if safe.count(tile) > 1}
    if twice:
        raise SystemExit(f"committed tiles ran again: {sorted(twice)}")
    if victim != "driver" and again:
        raise SystemExit(f"the run left {len(again)} tiles after the {victim} was killed")
    store, schedule = TOY.open(path)
    if schedule.open:
        raise SystemExit(f"{schedule.open} tiles are left")
    return len(safe), len(again), read_map(store)


def _kill(run: subprocess.Popen[str], victim: str, rng: random.Random) -> None:
    children = psutil.Process(run.pid).children(recursive=True)
    if victim == "driver":
        run.kill()
        for child in children:  # orphans would die by themselves, in a few seconds
            if child.is_running():
                child.kill()
        return
    workers = [p for p in children if "spawn_main" in " ".join(p.cmdline())]
    os.kill(rng.choice(workers).pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each kind")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--log", type=Path, default=None)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--cluster", default="local", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        drive(asked.drive, asked.cluster)
        return
    rng = random.Random(asked.seed)
    expected = TOY.expected()
    log = asked.log.open("w") if asked.log else sys.stdout
    log.write(json.dumps({"seed": asked.seed, "kills": asked.kills}) + "\n")
    for number in range(asked.kills):
        for victim in VICTIMS:
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
