"""Workers on this machine: processes of one task slot, their cores told to every library.

Whoever may speak to a scheduler, a worker or its nanny can run code with the rights of its user. A
port of the loopback is open to all users of the machine, so all of them ask for the run's
certificate.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
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
from engine.clusters.gpus import VISIBLE, dismiss, gpus_here
from engine.clusters.pages import PrivateScheduler, dashboard_of
from engine.clusters.settings import Tls
from engine.clusters.tls import security_of
from engine.clusters.workers import (
    EXTENSIONS,
    SETTINGS,
    count_slots,
    offers,
    thread_settings,
)
from engine.errors import RunError, first_line
from engine.files import scratch

__all__ = ["Local", "open_local", "usual_workers"]


_LONGEST_START = 300.0  # seconds until a worker has connected; a busy machine takes one


class Local:
    """A cluster of worker processes on this machine."""

    patience = 0.0

    def __init__(self, cluster: SpecCluster, client: Client) -> None:
        self._cluster, self.client = cluster, client
        self._wanted = dict(cluster.worker_spec)

    @property
    def dashboard(self) -> str | None:
        """Address of the scheduler's pages."""
        return dashboard_of(self._cluster)

    @property
    def gpus(self) -> bool:
        """Whether a worker is, or will be again, beside a GPU of this machine."""
        return any(spec["options"]["env"].get(VISIBLE) for spec in self._wanted.values())

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
        # each its own: the next in number might have another's GPU
        self._cluster.worker_spec.update(self._wanted)
        self._cluster.scale(len(self._wanted))

    def dismiss(self, address: str, name: str) -> None:
        """Send a worker away for good."""
        self._wanted = {k: spec for k, spec in self._wanted.items() if str(k) != name}
        dismiss(self._cluster, self.client, address, name)


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
        Processes; by default one for each two cores, at least one, and one for each GPU. Each
        GPU has a process of its own, which takes one task more to read ahead.
    gigabytes : float, optional
        That the widest task needs; refused where a worker's share of memory is less.
    preload : names of modules
        That workers import before they take their first task.
    tls : False lets every user of this machine in.

    Raises
    ------
    RunError
    """
    cores, gpus = _cores(), gpus_here()
    count = workers if workers is not None else max(usual_workers(), len(gpus))
    if count < 1:
        raise RunError("a run needs workers", got=workers, expected="--workers 1 or more")
    gpus = gpus[:count]
    slots = [offers(1)[0]] * len(gpus) + [1] * (count - len(gpus))
    share = _memory() / sum(slots)
    if gigabytes is not None and gigabytes > share:
        raise RunError(
            "a task needs more memory than a worker has",
            got=f"{gigabytes:.1f} GB for a task, {share:.1f} GB for each of {sum(slots)} that "
            f"{count} workers have at once",
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
        _start(count, share, gpus, loop, folder, security_of(tls, folder)) as cluster,
        Client(cluster) as client,
    ):
        yield Local(cluster, client)


def _start(
    workers: int,
    gigabytes: float,
    gpus: Sequence[str],
    loop: Any,
    folder: Path,
    security: Security | None,
) -> SpecCluster:
    """Start workers, the first ones beside GPUs, with so much memory for each of their tasks.

    One that is frozen before it has connected would be waited for without end.
    """
    frozen = threading.Event()

    def end() -> None:
        frozen.set()
        _kill_workers()

    common: dict[str, Any] = {
        "host": "127.0.0.1",
        "protocol": "tls://" if security else "tcp://",
        "security": security,
    }

    def worker(gpu: str | None) -> dict[str, Any]:
        # Nothing is said of CPUs: where cores are few, those beside a GPU read too.
        threads, resources = offers(1) if gpu is not None else (1, None)
        options = common | {
            "nthreads": threads,
            "memory_limit": int(threads * gigabytes * 1e9),
            "resources": resources,
            "env": {VISIBLE: gpu or ""} if gpus else {},
            "local_directory": str(folder),
            "silence_logs": logging.CRITICAL,
            "dashboard": False,
        }
        return {"cls": Nanny, "options": options}

    timer = threading.Timer(_LONGEST_START, end)
    timer.daemon = True
    timer.start()
    try:
        return SpecCluster(
            workers={k: worker(gpus[k] if k < len(gpus) else None) for k in range(workers)},
            worker=worker(None),
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


def _memory() -> float:
    """Gigabytes of this machine that workers may share."""
    return 0.85 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
