"""Workers as pods, through the resources of the Dask operator for Kubernetes.

dask-kubernetes speaks to schedulers without TLS only, so the resources are made here.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
from distributed import Client

from engine.clusters.gpus import send_away
from engine.clusters.manifests import PORT, manifest, secret, worker_groups
from engine.clusters.settings import ClusterSettings, require_memory
from engine.clusters.tls import security_of
from engine.clusters.workers import SETTINGS, ask_workers, count_slots
from engine.errors import RunError, first_line
from engine.files import scratch

__all__ = ["Pods", "open_kubernetes"]

_LOOK = 1.0  # seconds between looks at a pod that starts
_FIRST = 60  # seconds for a scheduler's first answer


class Pods:
    """A scheduler and workers that the operator keeps alive."""

    dashboard = None  # their scheduler shows no pages

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

    def dismiss(self, address: str, name: str) -> None:
        """Send a worker away; the operator may bring it back, on another node."""
        send_away(self.client, address)


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
        import kr8s  # noqa: F401
    except ImportError as error:
        raise RunError("kr8s is not installed", remedy="pip install natmap[kubernetes]") from error
    name = f"natmap-{uuid.uuid4().hex[:6]}"
    with dask.config.set(SETTINGS), ExitStack() as stack:
        security = security_of(settings.tls, stack.enter_context(scratch()))
        try:
            owner = _make(stack, manifest(settings, name, preload), settings)
            if security is not None:
                _make(stack, secret(settings, name, owner, security), settings)
            for group in worker_groups(settings, name, preload):
                _make(stack, group, settings)
            _wait_for_scheduler(settings, name)
            address = f"{settings.protocol}{_reach(stack, settings, name)}"
            client = stack.enter_context(Client(address, security=security, timeout=_FIRST))
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


def _make(stack: ExitStack, resource: dict[str, Any], settings: ClusterSettings) -> str:
    """Create a resource, which goes at the end; its uid."""
    from kr8s.objects import Secret, new_class

    kind = resource["kind"]
    kinds = Secret if kind == "Secret" else new_class(kind, resource["apiVersion"], asyncio=False)
    made = kinds(resource, namespace=settings.namespace)
    made.create()
    if kind == "DaskCluster":  # what it owns goes with it: its pods, groups and secret
        stack.callback(_remove, made)
    return str(made.metadata["uid"])


def _remove(made: Any) -> None:
    from kr8s import NotFoundError

    with suppress(NotFoundError):
        made.delete()


def _wait_for_scheduler(settings: ClusterSettings, name: str) -> None:
    """Until the scheduler's pod is ready, within the settings' patience."""
    from kr8s.objects import Pod

    labels = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    until = time.monotonic() + settings.patience
    why = "the operator has made none"
    while True:
        for pod in Pod.list(namespace=settings.namespace, label_selector=labels):
            status = pod.raw.get("status", {})
            if _conditions(status).get("Ready", {}).get("status") == "True":
                return
            why = _what_it_lacks(status)
        if time.monotonic() > until:
            raise RunError(
                "Kubernetes does not start the scheduler's pod",
                got=f"{why}, after {settings.patience:g} s",
                remedy="an image that is not there, no room and a quota are usual: look at `image` "
                f"and at the events of namespace {settings.namespace}; or raise `patience`",
            )
        time.sleep(_LOOK)


def _conditions(status: dict[str, Any]) -> dict[str, Any]:
    return {condition["type"]: condition for condition in status.get("conditions", ())}


def _what_it_lacks(status: dict[str, Any]) -> str:
    """In Kubernetes' own words, why a pod is not ready."""
    waiting = [
        container.get("state", {}).get("waiting") or {}
        for container in status.get("containerStatuses", ())
    ]
    said = [*waiting, *(c for c in _conditions(status).values() if c.get("status") == "False")]
    words = [f"{one.get('reason')}: {one.get('message', '')}" for one in said if one.get("reason")]
    return words[0].strip(": ") if words else f"its pod is {status.get('phase', 'not there')}"


def _reach(stack: ExitStack, settings: ClusterSettings, name: str) -> str:
    """Host and port at which this process finds the scheduler."""
    service = f"{name}-scheduler"
    if "KUBERNETES_SERVICE_HOST" in os.environ:  # this is a pod
        return f"{service}.{settings.namespace}.svc:{PORT}"
    from kr8s.objects import Service

    found = Service.get(service, namespace=settings.namespace, timeout=_FIRST)
    forward = found.portforward(PORT, local_port="auto")
    forward.start()
    stack.callback(forward.stop)
    until = time.monotonic() + _FIRST
    while not forward.local_port and time.monotonic() < until:
        time.sleep(0.1)
    return f"127.0.0.1:{forward.local_port}"
