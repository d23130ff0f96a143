"""Workers on this machine: processes of one task slot, their cores told to every library."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.scheduler import DEFAULT_EXTENSIONS

from engine.errors import RunError

__all__ = ["Local", "open_local"]

_SETTINGS = {
    # A worker takes one task at a time, so that none is blamed for its neighbour's death ...
    "distributed.scheduler.worker-saturation": 1.0,
    # ... and the driver, which knows tiles, counts attempts: the scheduler allows no repeats.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.admin.tick.limit": "30s",
    "distributed.worker.profile.enabled": False,
    # The scheduler keeps its last messages, and with them whole tasks.
    "distributed.admin.low-level-log-length": 50,
    "distributed.admin.system-monitor.log-length": 600,
}


class _NoSpans:
    """Stands where Dask's accounting of spans would: that keeps every group of tasks for ever."""

    def __init__(self, scheduler: Any) -> None: ...

    def observe_tasks(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}

    def heartbeat(self, *_: Any) -> None: ...


class Local:
    """A cluster of worker processes on this machine."""

    def __init__(self, workers: int, cluster: LocalCluster, client: Client) -> None:
        self._wanted, self._cluster, self.client = workers, cluster, client

    def slots(self) -> int:
        """Task slots of the workers that are there now."""
        workers = self._cluster.scheduler_info["workers"]
        return sum(worker["nthreads"] for worker in workers.values())

    def heal(self) -> None:
        """Replace all workers; needed when their nannies died too."""
        self._cluster.scale(0)
        until = time.monotonic() + 20
        while self._cluster.workers and time.monotonic() < until:
            time.sleep(0.1)  # asked at once, the dead would be counted as there
        self._cluster.scale(self._wanted)


def thread_settings(cores: int) -> dict[str, str]:
    """Environment that bounds every library's threads to a worker's cores.

    It must be set before numpy, torch or GDAL are imported, so the nanny sets it at spawn.
    """
    names = (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLOSC_NTHREADS",
        "NUMEXPR_NUM_THREADS",
    )
    return {
        **{name: str(cores) for name in names},
        "GDAL_NUM_THREADS": str(cores),
        "GDAL_CACHEMAX": "64",
        "NATMAP_CORES": str(cores),
        # Dask's own 64 kB hands memory back so eagerly that every array is faulted in anew:
        # reading and sorting took twice as long. One heap that keeps what it has.
        "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_ARENA_MAX": "1",
    }


@contextmanager
def open_local(
    workers: int | None = None, gigabytes: float | None = None, preload: Sequence[str] = ()
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

    Raises
    ------
    RunError
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    count = workers if workers is not None else max(cores // 2, 1)
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
    settings = _SETTINGS | {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.worker.preload": list(preload),
    }
    with (
        dask.config.set(settings),
        tempfile.TemporaryDirectory(prefix="natmap-") as scratch,
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=int(share * 1e9),
            local_directory=scratch,
            silence_logs="CRITICAL",
            scheduler_kwargs={"extensions": DEFAULT_EXTENSIONS | {"spans": _NoSpans}},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Local(count, cluster, client)


def _memory() -> float:
    """Gigabytes of this machine that workers may share."""
    return 0.85 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
