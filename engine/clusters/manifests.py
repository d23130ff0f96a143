"""What a run asks Kubernetes for: resources of the Dask operator, and a secret with its key."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distributed.security import Security

from engine.clusters.gpus import VISIBLE
from engine.clusters.settings import ClusterSettings, Group
from engine.clusters.workers import dask_settings, offers, thread_settings

__all__ = ["PORT", "manifest", "secret", "worker_groups"]

PORT = 8786
"""Of the scheduler."""

_IDLE = 3600
"""Seconds without a task after which the operator removes a cluster: its driver was killed."""

_TLS = "/run/natmap-tls"
_FILES = {"--tls-ca-file": "ca.pem", "--tls-cert": "certificate.pem", "--tls-key": "key.pem"}
# Whoever reaches the pod reaches its web server: it says whether it lives, for Kubernetes, and
# whether it idles, for the operator.
_ROUTES = ["distributed.http.health", "engine.clusters.idle"]


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
        "args": ["dask-scheduler", "--host", "0.0.0.0", "--no-dashboard", *_tls(settings)],
        "env": _env(
            dask_settings() | {"DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": json.dumps(_ROUTES)}
        ),
        "ports": [
            {"name": "tcp-comm", "containerPort": PORT, "protocol": "TCP"},
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
            {"name": "tcp-comm", "protocol": "TCP", "port": PORT, "targetPort": "tcp-comm"},
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
            "scheduler": {"spec": _mounted(settings, name, scheduler), "service": service},
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
            f"{settings.protocol}{name}-scheduler.{settings.namespace}.svc:{PORT}",
            "--name",
            "$(DASK_WORKER_NAME)",
            "--nthreads",
            str(threads),
            "--memory-limit",
            group.memory,
            "--resources",
            " ".join(f"{key}={value:g}" for key, value in resources.items()),
            "--no-dashboard",
            *_tls(settings),
            *(word for module in preload for word in ("--preload", module)),
        ],
        "env": _env(
            thread_settings(group.cores)
            | dask_settings()
            # the driver's plug-in says which to whoever asked for one; a node's default is all
            | ({} if group.gpus else {VISIBLE: "", "NVIDIA_VISIBLE_DEVICES": "void"})
        ),
        "resources": _resources(str(group.cores), _kube_memory(group), group.gpus),
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    if settings.secret:
        container["envFrom"] = [{"secretRef": {"name": settings.secret}}]
    pod = _mounted(settings, name, container)
    pod.setdefault("volumes", []).append({"name": "scratch", "emptyDir": {}})
    return pod


def _tls(settings: ClusterSettings) -> list[str]:
    if not settings.tls:
        return []
    files = [word for option, name in _FILES.items() for word in (option, f"{_TLS}/{name}")]
    return ["--protocol", "tls", *files]


def _mounted(settings: ClusterSettings, name: str, container: dict[str, Any]) -> dict[str, Any]:
    """A pod of one container, with the run's certificate where it asks for one."""
    if not settings.tls:
        return {"containers": [container]}
    mounts = [
        *container.get("volumeMounts", ()),
        {"name": "tls", "mountPath": _TLS, "readOnly": True},
    ]
    return {
        "containers": [container | {"volumeMounts": mounts}],
        "volumes": [{"name": "tls", "secret": {"secretName": _secret_name(name)}}],
    }


def _secret_name(name: str) -> str:
    return f"{name}-tls"


def secret(settings: ClusterSettings, name: str, owner: str, security: Security) -> dict[str, Any]:
    """The secret that pods mount; Kubernetes removes it with the cluster, whoever removes that.

    Parameters
    ----------
    settings : of kind kubernetes.
    name : of the DaskCluster.
    owner : its uid.
    security : whose files become the secret's data.
    """
    files = security.get_tls_config_for_role("worker")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": _secret_name(name),
            "namespace": settings.namespace,
            "ownerReferences": [
                {
                    "apiVersion": "kubernetes.dask.org/v1",
                    "kind": "DaskCluster",
                    "name": name,
                    "uid": owner,
                }
            ],
        },
        "type": "Opaque",
        "data": {
            name: base64.b64encode(Path(files[role]).read_bytes()).decode()
            for name, role in zip(_FILES.values(), ("ca_file", "cert", "key"), strict=True)
        },
    }


def _env(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def _resources(cores: str, memory: str, gpus: int = 0) -> dict[str, dict[str, str]]:
    wanted = {"cpu": cores, "memory": memory}
    if gpus:
        wanted["nvidia.com/gpu"] = str(gpus)
    return {"requests": wanted, "limits": {k: v for k, v in wanted.items() if k != "cpu"}}


def _kube_memory(group: Group) -> str:
    return f"{round(group.gigabytes * 1.1 * 1000)}M"  # the worker's own limit comes first
