"""One door to all clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from engine.clusters.existing import Existing, open_existing
from engine.clusters.kubernetes import Pods, open_kubernetes
from engine.clusters.local import Local, open_local
from engine.clusters.managed import Managed, open_managed
from engine.clusters.settings import ClusterSettings
from engine.clusters.workers import require_worker_memory

__all__ = ["Opened", "open_cluster"]

Opened = Local | Managed | Existing | Pods
"""A cluster that is open: what `open_cluster` yields, and takes again for the next run."""


@contextmanager
def open_cluster(
    settings: ClusterSettings | Opened,
    workers: int | None = None,
    gigabytes: float | None = None,
    preload: Sequence[str] = (),
    *,
    gpu: bool = False,
    again: bool = False,
) -> Iterator[Opened]:
    """Start or find the workers of a run.

    Parameters
    ----------
    settings : ClusterSettings, or a cluster that is open
        The latter is yielded as it is and stays open: its owner closes it.
    workers : processes of a local cluster; others say it themselves.
    gigabytes : float, optional
        That the widest task needs.
    preload : modules that workers import before their first task.
    gpu : some stage needs one: SLURM is asked for one for each job where no group asks for any.
    again : the scheduler was lost; one that others started may be long in coming back.

    Yields
    ------
    What a run asks of a cluster (`engine.runs.monitor.Cluster`).

    Raises
    ------
    RunError
    """
    doors: dict[str, Callable[..., AbstractContextManager[Opened]]] = {
        "address": partial(open_existing, again=again),
        "kubernetes": open_kubernetes,
        "slurm": open_managed,
        "ssh": open_managed,
    }
    if not isinstance(settings, ClusterSettings):
        if gigabytes is not None:
            require_worker_memory(settings.client, gigabytes)
        yield settings
        return
    if settings.kind == "local":
        with open_local(workers, gigabytes, preload, settings.tls) as cluster:
            yield cluster
        return
    if gpu and settings.kind == "slurm" and not any(group.gpus for group in settings.groups):
        groups = tuple(group.model_copy(update={"gpus": 1}) for group in settings.groups)
        settings = settings.model_copy(update={"groups": groups})
    with doors[settings.kind](settings, gigabytes, preload) as opened:
        yield opened
