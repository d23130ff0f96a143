"""Workers as pods, through the resources of the Dask operator for Kubernetes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
from distributed import Client

from engine.clusters.settings import ClusterSettings, Group, require_memory
from engine.clusters.workers import (
    SETTINGS,
    ask_workers,
    count_slots,
    dask_settings,
    offers,
    thread_settings,
)
from engine.errors import RunError, first_line

__all__ = ["Pods", "manifest", "open_kubernetes", "worker_groups"]

_IDLE = 3600
"""Seconds without a task after which the operator removes a cluster: its driver was killed."""


class Pods:
    """A scheduler and workers that the operator keeps alive."""

    def __init__(self, client: Client, settings: ClusterSettings) -> None:
        self.client = client
        self.gpus = any(group.gpus for group in settings.groups)
        self.patience = settings.patience

    def slots(self) -> dict[str, int]:
        """Task slots of the workers that are there now."""
        return count_slots(ask_workers(self.client))

    def tend(self) -> None:
        """The operator replaces lost pods by itself."""

    def heal(self) -> None:
        """The operator does."""


def manifest(settings: ClusterSettings, name: str, preload: Sequence[str] = ()) -> dict[str, Any]:
    """The DaskCluster resource of a run; groups after the first are DaskWorkerGroups of it.

    Parameters
    ----------
    settings : of kind kubernetes.
    name : of the resource.
    preload : modules that workers import before their first task.

    Returns
    -------
    dict, ``kubernetes.dask.org/v1`` DaskCluster, for the first group of workers.
    """
    first = settings.groups[0]
    probe = {"port": "http-dashboard", "path": "/health"}
    scheduler: dict[str, Any] = {
        "name": "scheduler",
        "image": settings.image,
        "args": ["dask-scheduler", "--host", "0.0.0.0"],
        "env": _env(dask_settings()),
        "ports": [
            {"name": "tcp-comm", "containerPort": 8786, "protocol": "TCP"},
            {"name": "http-dashboard", "containerPort": 8787, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": probe, "initialDelaySeconds": 5, "periodSeconds": 10},
        "livenessProbe": {"httpGet": probe, "initialDelaySeconds": 15, "periodSeconds": 20},
        "resources": _resources("1", "4G"),
    }
    service = {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [
            {"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"},
            {
                "name": "http-dashboard",
                "protocol": "TCP",
                "port": 8787,
                "targetPort": "http-dashboard",
            },
        ],
    }
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name, "namespace": settings.namespace},
        "spec": {
            # a living driver gives up before: it waits for workers no longer than its patience
            "idleTimeout": max(_IDLE, round(settings.patience) + 600),
            "worker": {
                "replicas": first.workers,
                "spec": _pod(settings, first, name, preload),
            },
            "scheduler": {"spec": {"containers": [scheduler]}, "service": service},
        },
    }


def worker_groups(
    settings: ClusterSettings, name: str, preload: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """DaskWorkerGroup resources of the groups after the first."""
    return [
        {
            "apiVersion": "kubernetes.dask.org/v1",
            "kind": "DaskWorkerGroup",
            "metadata": {"name": f"{name}-{group.name}", "namespace": settings.namespace},
            "spec": {
                "cluster": name,
                "worker": {
                    "replicas": group.workers,
                    "spec": _pod(settings, group, name, preload),
                },
            },
        }
        for group in settings.groups[1:]
    ]


def _pod(
    settings: ClusterSettings, group: Group, name: str, preload: Sequence[str]
) -> dict[str, Any]:
    threads, resources = offers(group.gpus)
    container: dict[str, Any] = {
        "name": "worker",
        "image": settings.image,
        "args": [
            "dask-worker",
            "--name",
            "$(DASK_WORKER_NAME)",
            "--nthreads",
            str(threads),
            "--memory-limit",
            group.memory,
            "--resources",
            " ".join(f"{key}={value:g}" for key, value in resources.items()),
            "--no-dashboard",
            *(word for module in preload for word in ("--preload", module)),
        ],
        "env": _env(thread_settings(group.cores) | dask_settings()),
        "resources": _resources(str(group.cores), _kube_memory(group), group.gpus),
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    if settings.secret:
        container["envFrom"] = [{"secretRef": {"name": settings.secret}}]
    return {"containers": [container], "volumes": [{"name": "scratch", "emptyDir": {}}]}


def _env(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def _resources(cores: str, memory: str, gpus: int = 0) -> dict[str, dict[str, str]]:
    wanted = {"cpu": cores, "memory": memory}
    if gpus:
        wanted["nvidia.com/gpu"] = str(gpus)
    return {"requests": wanted, "limits": {k: v for k, v in wanted.items() if k != "cpu"}}


def _kube_memory(group: Group) -> str:
    return f"{round(group.gigabytes * 1.1 * 1000)}M"  # the worker's own limit comes first


@contextmanager
def open_kubernetes(
    settings: ClusterSettings, gigabytes: float | None = None, preload: Sequence[str] = ()
) -> Iterator[Pods]:
    """Make the cluster's resources, connect, and delete them at the end.

    Each opening has a name of its own: two runs in one namespace must not share workers, and a
    killed driver's successor must not find those of the dead.

    Parameters
    ----------
    settings : of kind kubernetes.
    gigabytes : float, optional
        That the widest task needs; refused where a worker of some group has less.
    preload : modules that workers import before their first task.

    Raises
    ------
    RunError
        Where Kubernetes or its operator is not there, or refuses, or the scheduler's pod has not
        started within the settings' patience.
    """
    require_memory(settings, gigabytes)
    try:
        from dask_kubernetes.operator import KubeCluster
        from dask_kubernetes.operator.kubecluster.kubecluster import CreateMode
    except ImportError as error:
        raise RunError(
            "dask-kubernetes is not installed", remedy="pip install natmap[kubernetes]"
        ) from error
    name = f"natmap-{uuid.uuid4().hex[:6]}"
    with dask.config.set(SETTINGS), ExitStack() as stack:

        def make() -> Any:
            return KubeCluster(
                custom_cluster_spec=manifest(settings, name, preload),
                namespace=settings.namespace,
                create_mode=CreateMode.CREATE_ONLY,
            )

        try:
            cluster = stack.enter_context(_wait_for(make, settings, name))
            for group, wanted in zip(
                settings.groups[1:], worker_groups(settings, name, preload), strict=True
            ):
                # the whole of spec.worker; the cluster's name is put before the group's
                cluster.add_worker_group(
                    group.name, n_workers=group.workers, custom_spec=wanted["spec"]["worker"]
                )
            client = stack.enter_context(Client(cluster))
        except RunError:
            raise
        except Exception as error:  # of four libraries, without a common root
            raise RunError(
                "Kubernetes does not give a cluster",
                got=first_line(error),
                remedy="look at the pod's service account or the kubeconfig, at the rights in "
                f"namespace {settings.namespace}, and whether the Dask operator runs",
            ) from error
        yield Pods(client, settings)


def _wait_for(make: Callable[[], Any], settings: ClusterSettings, name: str) -> Any:
    """What is made, within the settings' patience: dask-kubernetes waits without end for a
    scheduler's pod that cannot start. What is made after all is closed at once."""
    made: Future[Any] = Future()

    def work() -> None:
        try:
            cluster = make()
        except Exception as error:
            with suppress(InvalidStateError):
                made.set_exception(error)
            return
        try:
            made.set_result(cluster)
        except InvalidStateError:  # nobody waits any more
            cluster.close()

    threading.Thread(target=work, daemon=True).start()
    try:
        wait([made], settings.patience)
    finally:  # Ctrl-C as well
        late = made.cancel()
    if late:
        raise RunError(
            "Kubernetes does not start the scheduler's pod",
            got=f"waited {settings.patience:g} s for DaskCluster {name}",
            remedy=f"`kubectl -n {settings.namespace} describe pod "
            f"-l dask.org/cluster-name={name}` says what it lacks (an image, room, a quota); then "
            f"`kubectl -n {settings.namespace} delete daskcluster {name}`",
        )
    return made.result()
