"""What every worker is told, wherever it runs: its threads, its heap, Dask's settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distributed import Client
from distributed.scheduler import DEFAULT_EXTENSIONS

from engine.errors import RunError, SchedulerLostError

__all__ = [
    "EXTENSIONS",
    "SETTINGS",
    "ask_workers",
    "count_slots",
    "dask_settings",
    "offers",
    "require_worker_memory",
    "thread_settings",
]

SETTINGS: dict[str, Any] = {
    # A worker takes one task at a time, so that none is blamed for its neighbour's death ...
    "distributed.scheduler.worker-saturation": 1.0,
    # ... and the driver, which knows tiles, counts attempts: the scheduler allows no repeats.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.admin.tick.limit": "30s",
    "distributed.worker.profile.enabled": False,
    # Nobody asks a worker's web server for anything: it answers nothing.
    "distributed.worker.http.routes": [],
    # The scheduler keeps its last messages, and with them whole tasks.
    "distributed.admin.low-level-log-length": 50,
    "distributed.admin.system-monitor.log-length": 600,
}
"""Dask's settings, of scheduler and workers alike."""


class _NoSpans:
    """Stands where Dask's accounting of spans would: that keeps every group of tasks for ever."""

    def __init__(self, scheduler: Any) -> None: ...

    def observe_tasks(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}

    def heartbeat(self, *_: Any) -> None: ...


EXTENSIONS = DEFAULT_EXTENSIONS | {"spans": _NoSpans}
"""Of a scheduler that the driver starts."""


def thread_settings(cores: int) -> dict[str, str]:
    """Environment that bounds every library's threads to a worker's cores.

    It must be set before numpy, torch or GDAL are imported, so whoever starts the worker sets it.
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


def dask_settings() -> dict[str, str]:
    """`SETTINGS` as environment, for workers that read no configuration of the driver's."""
    return {
        "DASK_" + key.upper().replace(".", "__").replace("-", "_"): str(value)
        for key, value in SETTINGS.items()
    }


def offers(gpus: int) -> tuple[int, dict[str, float]]:
    """Threads and resources of a worker: one slot, and one more beside a GPU to read ahead."""
    return (2, {"GPU": 2.0}) if gpus else (1, {"CPU": 1.0})


def ask_workers(client: Client) -> list[dict[str, Any]]:
    """What a scheduler elsewhere says of its workers.

    Raises
    ------
    SchedulerLostError
        Where it does not answer.
    """
    try:
        return list(client.scheduler_info(n_workers=-1)["workers"].values())
    except (OSError, TimeoutError) as error:
        raise SchedulerLostError(
            "the scheduler was lost",
            got=error,
            remedy="run the same command again; what was committed is kept",
        ) from error


def require_worker_memory(client: Client, gigabytes: float) -> None:
    """Refuse a task that no worker of an open cluster has the memory for.

    Raises
    ------
    RunError
    """
    limits = [
        w["memory_limit"] / int(w.get("nthreads") or 1) / 1e9
        for w in ask_workers(client)
        if w.get("memory_limit")
    ]
    if limits and max(limits) < gigabytes:
        raise RunError(
            "a task needs more memory than any worker has",
            got=f"{gigabytes:.1f} GB for a task, {max(limits):.1f} GB for each task slot of a "
            "worker",
            remedy="start larger workers, or choose a smaller grid.tile",
        )


def count_slots(workers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Task slots by the stages that they take, from a scheduler's word on its workers.

    Parameters
    ----------
    workers : as in ``scheduler_info``.

    Returns
    -------
    dict with ``gpu``: slots beside a GPU; ``cpu``: slots for all other stages, those of workers
    without a GPU if there are any, else all; ``mixed``: 1 where there are both kinds, and the
    readers say so with the resource CPU.
    """
    found = {"gpu": 0, "cpu": 0, "mixed": 0}
    plain = declared = every = 0
    for worker in workers:
        resources, threads = worker.get("resources") or {}, int(worker["nthreads"])
        every += threads
        if resources.get("GPU"):
            found["gpu"] += int(resources["GPU"])
        else:
            plain += threads
            declared += int(resources.get("CPU", 0))
    if found["gpu"] and declared:
        return found | {"cpu": declared, "mixed": 1}
    return found | {"cpu": plain if plain and not found["gpu"] else every}
