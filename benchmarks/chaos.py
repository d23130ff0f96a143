"""Kill a process of each kind in one run, at random moments; compare with an undisturbed run.

    python benchmarks/chaos.py --kills 10 --log benchmarks/chaos.log      (about 8 minutes)

Scheduler and nannies are processes with a keeper that starts what has ended, as systemd or
Kubernetes would; a driver that was killed is started again on its store, as a person would. In
each run worker, nanny, scheduler and driver die once, in an order and at tiles of chance, before
most of the run is done; every moment is logged with the seed, so that a failure can be repeated.
At the end all arrays must equal those that brute force gives, no committed tile may have run
twice, and no run may have ended before all four were dead.
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
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.toys import Toy, blob, read_map  # noqa: E402

from engine.clusters.connect import open_cluster  # noqa: E402
from engine.clusters.settings import load_cluster  # noqa: E402
from engine.clusters.workers import dask_settings  # noqa: E402
from engine.errors import SchedulerLostError  # noqa: E402
from engine.runs import events  # noqa: E402
from engine.runs.execute import Limits, execute  # noqa: E402
from engine.runs.schedule import Status  # noqa: E402

TOY = Toy(blob(2), delay=0.05)  # 71 tiles of map, 80 of composite, 82 of scenes
LIMITS = Limits(commit_tiles=8, commit_seconds=0.3, deaths=50)
LAST = 0.8  # of the tasks: by then all have been killed
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


def start(store_path: str | Path, address: str) -> subprocess.Popen[str]:
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

    def kill(self, victim: str, rng: random.Random) -> None:
        """Kill the scheduler, a nanny, or a worker that a nanny keeps."""
        if victim != "worker":
            name = rng.choice(["nanny", "nanny 2"]) if victim == "nanny" else victim
            self._processes[name].kill()
            return
        while not (workers := self._workers()):
            time.sleep(0.05)
        rng.choice(workers).kill()

    def _workers(self) -> list[psutil.Process]:
        found = []
        for name in ("nanny", "nanny 2"):
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process(self._processes[name].pid).children(recursive=True)
                found += [p for p in children if "spawn_main" in " ".join(p.cmdline())]
        return found


def attempt(rng: random.Random, folder: Path, log: TextIO) -> np.ndarray:
    """One run in which one process of each kind is killed, each at a random tile. Returns the map.

    A run whose driver died is begun again on the same store, as a person would.
    """
    path = folder / "store"
    _, schedule = TOY.open(path)
    total = schedule.open
    victims = rng.sample(VICTIMS, len(VICTIMS))
    moments = sorted(rng.sample(range(1, round(LAST * total)), len(VICTIMS)))
    log.write(
        json.dumps(
            {"tasks": total, "tiles": len(schedule.tiles("map", Status.WAITING, Status.READY))}
        )
        + "\n"
    )
    safe: list[str] = []  # tiles that were committed, by any driver
    with Keeper() as keeper:
        run = start(path, keeper.address)
        flying: list[str] = []
        while True:
            assert run.stdout is not None
            for line in run.stdout:
                word, *rest = line.split()
                if word == "tile":
                    flying.append(" ".join(rest))
                elif word == "commit":
                    safe += flying[: int(rest[0])]
                    del flying[: int(rest[0])]
                elif word == "lost":
                    flying.clear()  # what had not been committed runs again
                if victims and len(safe) + len(flying) >= moments[0]:
                    told = {"victim": victims[0], "committed": len(safe), "flying": len(flying)}
                    log.write(json.dumps(told) + "\n")
                    log.flush()
                    time.sleep(rng.random() * 0.1)
                    moments.pop(0)
                    victim = victims.pop(0)
                    if victim == "driver":
                        run.kill()
                    else:
                        keeper.kill(victim, rng)
            run.wait()
            if run.returncode == 0:
                break
            if run.returncode != -signal.SIGKILL:
                raise SystemExit(f"a run ended with error {run.returncode}")
            flying.clear()  # a driver that was killed; what it had not committed runs again
            run = start(path, keeper.address)
    if victims:
        raise SystemExit(f"the run ended before these were killed: {', '.join(victims)}")
    twice = {tile for tile in safe if safe.count(tile) > 1}
    if twice:
        raise SystemExit(f"committed tiles ran again: {sorted(twice)}")
    store, schedule = TOY.open(path)
    if schedule.open:
        raise SystemExit(f"{schedule.open} tiles are left")
    return read_map(store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each kind: so many runs")
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
        with tempfile.TemporaryDirectory() as folder:
            found = attempt(rng, Path(folder), log)
        if not (found == expected).all():
            raise SystemExit(f"the map of run {number} differs")
        log.write(json.dumps({"run": number, "identical": True}) + "\n")
        log.flush()
    log.write("all identical, no committed tile ran twice\n")
    print(f"figures: {4 * asked.kills} kills, {asked.kills} runs identical, no tile ran twice")


if __name__ == "__main__":
    main()
