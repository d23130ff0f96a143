"""Workers on this machine: processes of one task slot, their cores told to every library.

Whoever may speak to a scheduler, a worker or its nanny can run code with the rights of its user. A
port of the loopback is open to all users of the machine, so all of them ask for the run's
certificate.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Nanny, SpecCluster
from distributed.security import Security

from engine.clusters import apart
from engine.clusters.pages import PrivateScheduler, dashboard_of
from engine.clusters.settings import Tls
from engine.clusters.tls import security_of
from engine.clusters.workers import EXTENSIONS, SETTINGS, count_slots, thread_settings
from engine.errors import RunError, first_line
from engine.files import scratch

__all__ = ["Local", "open_local", "usual_workers"]


_LONGEST_START = 300.0  # seconds until a worker has connected; a busy machine takes one


class Local:
    """A cluster of worker processes on this machine."""

    patience = 0.0

    def __init__(self, workers: int, cluster: SpecCluster, client: Client) -> None:
        self._wanted, self._cluster, self.client = workers, cluster, client

    @property
    def dashboard(self) -> str | None:
        """Address of the scheduler's pages."""
        return dashboard_of(self._cluster)

    @property
    def gpus(self) -> bool:
        """Whether this machine has a card."""
        return bool(self.slots()["gpu"])

    def slots(self) -> dict[str, int]:
        """Task slots of the workers that are there now."""
        return count_slots(self._cluster.scheduler_info["workers"].values())

    def tend(self) -> None:
        """Nannies bring lost workers back by themselves."""

    def heal(self) -> None:
        """Replace all workers; needed when their nannies died too."""
        self._cluster.scale(0)
        until = time.monotonic() + 20
        while self._cluster.workers and time.monotonic() < until:
            time.sleep(0.1)  # asked at once, the dead would be counted as there
        self._cluster.scale(self._wanted)


@contextmanager
def open_local(
    workers: int | None = None,
    gigabytes: float | None = None,
    preload: Sequence[str] = (),
    tls: bool | Tls = True,
) -> Iterator[Local]:
    """Start workers on this machine, and stop them at the end.

    Parameters
    ----------
    workers : int, optional
        Processes; by default one for each two cores, at least one.
    gigabytes : float, optional
        That the widest task needs; refused where a worker's share of memory is less.
    preload : names of modules
        That workers import before they take their first task.
    tls : False lets every user of this machine in.

    Raises
    ------
    RunError
    """
    cores = _cores()
    count = workers if workers is not None else usual_workers()
    if count < 1:
        raise RunError("a run needs workers", got=workers, expected="--workers 1 or more")
    share = _memory() / count
    if gigabytes is not None and gigabytes > share:
        raise RunError(
            "a task needs more memory than a worker has",
            got=f"{gigabytes:.1f} GB for a task, {share:.1f} GB for each of {count} workers",
            remedy="start fewer workers with --workers, or choose a smaller grid.tile",
        )
    environment = thread_settings(max(cores // count, 1))
    settings = SETTINGS | {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.worker.preload": [apart.PRELOAD, *preload],
    }
    with (
        scratch() as folder,
        # the scheduler's own files too
        dask.config.set(settings | {"temporary-directory": str(folder)}),
        apart.shielded_loop() as loop,
        _start(count, share, loop, folder, security_of(tls, folder)) as cluster,
        Client(cluster) as client,
    ):
        yield Local(count, cluster, client)


def _start(
    workers: int, gigabytes: float, loop: Any, folder: Path, security: Security | None
) -> SpecCluster:
    """Start workers; one that is frozen before it has connected would be waited for without end."""
    frozen = threading.Event()

    def end() -> None:
        frozen.set()
        _kill_workers()

    common: dict[str, Any] = {
        "host": "127.0.0.1",
        "protocol": "tls://" if security else "tcp://",
        "security": security,
    }
    worker: dict[str, Any] = {
        "cls": Nanny,
        "options": common
        | {
            "nthreads": 1,
            "memory_limit": int(gigabytes * 1e9),
            # all share the machine's card, if it has one
            "resources": {"GPU": 1} if _gpus() else None,
            "local_directory": str(folder),
            "silence_logs": logging.CRITICAL,
            "dashboard": False,
        },
    }
    timer = threading.Timer(_LONGEST_START, end)
    timer.daemon = True
    timer.start()
    try:
        return SpecCluster(
            workers=dict.fromkeys(range(workers), worker),
            worker=worker,
            scheduler={
                "cls": PrivateScheduler,
                "options": common | {"dashboard_address": "127.0.0.1:0", "extensions": EXTENSIONS},
            },
            security=security,
            loop=loop,
            silence_logs=logging.CRITICAL,
        )
    except Exception as error:
        late = f"none of {workers} after {_LONGEST_START:g} s" if frozen.is_set() else None
        raise RunError(
            "the workers of this machine did not start",
            got=late or first_line(error),
            remedy="look at memory, load and disk of the machine, and at `natmap doctor`",
        ) from error
    except BaseException:
        _kill_workers()  # those that have not connected would look for their nanny, and say so
        raise
    finally:
        timer.cancel()


def _kill_workers() -> None:
    for process in multiprocessing.active_children():
        if "Dask Worker" in process.name:
            process.kill()


def usual_workers() -> int:
    """Workers that are started where nothing is said: one for each two cores."""
    return max(_cores() // 2, 1)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _gpus() -> int:
    """Cards that the driver of NVIDIA's shows; torch, which knows better, costs a second."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or shutil.which("nvidia-smi") is None:
        return 0
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())


def _memory() -> float:
    """Gigabytes of this machine that workers may share."""
    return 0.85 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
