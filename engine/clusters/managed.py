"""Workers on other hosts for a scheduler in the driver: SLURM jobs, or processes over SSH.

One `distributed.SpecCluster` holds workers of several kinds, so that readers and predictors share
a scheduler. Lost ones come back: what the queue no longer knows is submitted again, ever later
where it dies at once (`engine.clusters.restarts`).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, SpecCluster
from distributed.core import Status
from distributed.security import Security

from engine.clusters.gpus import VISIBLE, Seats, asks_for_gpu, dismiss
from engine.clusters.pages import PrivateScheduler, dashboard_of
from engine.clusters.restarts import Returns, require_hope
from engine.clusters.settings import ClusterSettings, Group, require_memory
from engine.clusters.tls import security_of, tls_settings
from engine.clusters.workers import (
    EXTENSIONS,
    SETTINGS,
    count_slots,
    dask_settings,
    offers,
    thread_settings,
)
from engine.errors import RunError
from engine.files import scratch

__all__ = ["Managed", "open_managed"]

_LOOK = 5.0  # seconds between looks at the queue
_LIFE = "120"  # seconds that a worker looks for a scheduler before it ends


class Managed:
    """A scheduler of the driver's own, with workers elsewhere."""

    def __init__(
        self,
        cluster: SpecCluster,
        client: Client,
        settings: ClusterSettings,
        logs: Path | None = None,
    ) -> None:
        self._cluster, self.client, self._logs = cluster, client, logs
        self._beside = {n for group in settings.groups if group.gpus for n in _names(group)}
        self.patience = settings.patience
        self._looked = time.monotonic()
        self._returns = Returns()

    @property
    def dashboard(self) -> str | None:
        """Address of the scheduler's pages, on this host's loopback."""
        return dashboard_of(self._cluster)

    @property
    def gpus(self) -> bool:
        """Whether a worker with a GPU was asked for, and not sent away since."""
        return any(
            str(key) == name or str(key).endswith(f"-{name}")
            for key in self._cluster.worker_spec
            for name in self._beside
        )

    def slots(self) -> dict[str, int]:
        """Task slots of the workers that are there now."""
        return count_slots(self._cluster.scheduler_info["workers"].values())

    def tend(self) -> None:
        """Submit again what is neither connected nor waiting in the queue."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        here = {worker["name"] for worker in self._cluster.scheduler_info["workers"].values()}
        for name in here:
            self._returns.connected(name)
        missing = {name: job for name, job in self._cluster.workers.items() if name not in here}
        if self._logs is not None and missing and (queued := _queued()) is not None:
            for name, job in missing.items():
                if str(job.job_id) in queued:
                    continue
                if self._returns.due(name, job, now):
                    self._cluster.workers.pop(name, None)
                    job.status = Status.closed
                require_hope(self._returns, name, self._logs)
        if len(self._cluster.workers) < len(self._cluster.worker_spec):
            self._cluster.scale(len(self._cluster.worker_spec))  # which starts what is missing

    def heal(self) -> None:
        """Look at the queue at once."""
        self._looked = 0.0
        self.tend()

    def dismiss(self, address: str, name: str) -> None:
        """Send a worker away for good."""
        dismiss(self._cluster, self.client, address, name)


@contextmanager
def open_managed(
    settings: ClusterSettings, gigabytes: float | None = None, preload: Sequence[str] = ()
) -> Iterator[Managed]:
    """Start a scheduler here and ask for its workers; give all back at the end.

    Parameters
    ----------
    settings : of kind slurm or ssh.
    gigabytes : float, optional
        That the widest task needs; refused where a worker of some group has less.
    preload : modules that workers import before their first task.

    Raises
    ------
    RunError
        Where a program or package is missing, or a worker's memory is too small.
    """
    require_memory(settings, gigabytes)
    with ExitStack() as stack:
        folder = settings.shared
        private = stack.enter_context(_private_folder(folder))
        security = security_of(settings.tls, private)
        # workers over SSH inherit these, and have no other way to certificates
        stack.enter_context(dask.config.set(SETTINGS | tls_settings(security)))
        logs = None
        if settings.kind == "slurm":
            logs = (folder or private) / "logs"  # they stay: who looks for a cause comes later
            logs.mkdir(exist_ok=True)
            workers = _slurm(settings, security, preload, logs)
        else:
            workers = _ssh(settings, preload)
        options: dict[str, Any] = {
            "protocol": settings.protocol,
            "port": settings.port,
            "security": security,
            "dashboard_address": "127.0.0.1:0",
            "extensions": EXTENSIONS,
        }
        for name in ("interface", "host"):
            if value := getattr(settings, name):
                options[name] = value
        if "interface" in options:
            options.pop("host", None)
        try:
            cluster = stack.enter_context(
                SpecCluster(
                    workers=workers,
                    scheduler={"cls": PrivateScheduler, "options": options},
                    security=security,
                    silence_logs=logging.CRITICAL,
                    name="natmap",
                )
            )
        except Exception as error:  # of several libraries, without a common root
            # a start that failed is closed, and may fail in that: the first error says why
            cause: BaseException = error
            while cause.__context__ is not None:
                cause = cause.__context__
            lines = [line for line in str(cause).splitlines() if line.strip()]
            raise RunError(
                f"the workers cannot be asked for ({settings.kind})",
                got=lines[-1] if lines else repr(cause),
                remedy="look at the settings file's groups, directives and hosts" + _seen(settings),
            ) from error
        yield Managed(cluster, stack.enter_context(Client(cluster)), settings, logs)


@contextmanager
def _private_folder(shared: Path | None) -> Iterator[Path]:
    """The run's own, in the folder that its hosts share, or on this machine."""
    with ExitStack() as stack:
        try:
            if shared is not None:
                shared.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(scratch(shared))
        except OSError as error:
            raise RunError(
                "the run's own folder cannot be made",
                got=error,
                remedy="set `folder` in the settings file: one that all hosts see"
                if shared
                else "make room, or set TMPDIR",
            ) from error
        yield folder


def _seen(settings: ClusterSettings) -> str:
    """Where the certificate lies, which a host that does not see it cannot show."""
    if settings.tls is not True:
        return ""
    return (
        f", and whether all hosts see {settings.shared}, where the run's certificate lies: "
        "`folder` names another place, `tls: false` does without"
    )


def _names(group: Group) -> list[str]:
    return [f"{group.name}-{number}" for number in range(group.workers)]


def _environment(group: Group) -> dict[str, str]:
    return thread_settings(group.cores) | dask_settings()


def _words(group: Group, preload: Sequence[str]) -> list[str]:
    _, resources = offers(group.gpus)
    words = ["--resources", " ".join(f"{k}={v:g}" for k, v in resources.items()), "--no-dashboard"]
    return words + [word for name in preload for word in ("--preload", name)]


def _slurm(
    settings: ClusterSettings, security: Security | None, preload: Sequence[str], logs: Path
) -> dict[str, Any]:
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from dask_jobqueue.slurm import SLURMJob
        # importing it makes Ctrl-C a SystemExit from here on: nothing would be said of a resume
        if signal.getsignal(signal.SIGINT) is not interrupted:
            signal.signal(signal.SIGINT, interrupted)
    except ImportError as error:
        raise RunError(
            "dask-jobqueue is not installed", remedy="pip install natmap[slurm]"
        ) from error

    class Job(SLURMJob):
        """A job that says when it is closed: SpecCluster asks it of each that a traceback holds."""

        async def close(self) -> None:
            await super().close()  # type: ignore[no-untyped-call]
            self.status = Status.closed

    partitions = _ask("sinfo", "--noheader", "--format=%R")
    if partitions is None:
        raise RunError(
            "SLURM does not answer",
            got="sinfo failed or is not there",
            remedy="run natmap on a login node, or look at slurmctld",
        )
    for group in settings.groups:
        if group.queue is not None and group.queue not in partitions:
            raise RunError(
                f"group {group.name}: there is no such partition",
                got=group.queue,
                expected=", ".join(sorted(partitions)),
            )
    found: dict[str, Any] = {}
    for group in settings.groups:
        threads, _ = offers(group.gpus)
        environment = _environment(group)
        directives = list(group.directives)
        if not group.gpus:
            environment[VISIBLE] = ""
        elif not asks_for_gpu(directives):
            directives.append(f"--gres=gpu:{group.gpus}")  # SLURM then says which: VISIBLE
        exports = [f"export {name}='{value}'" for name, value in environment.items()]
        words = _words(group, preload)
        words[1] = f"'{words[1]}'"  # the job's script is read by a shell
        options: dict[str, Any] = {
            "queue": group.queue,
            "account": group.account,
            "walltime": group.walltime or "12:00:00",
            "cores": threads,  # Dask's threads; what SLURM keeps free is job_cpu
            "job_cpu": group.cores,
            "memory": group.memory,
            "processes": 1,
            "interface": settings.interface,
            "protocol": settings.protocol,
            "security": security,
            "death_timeout": _LIFE,
            "job_extra_directives": directives,
            "job_script_prologue": [*exports, *group.prologue],
            "worker_extra_args": words,
            "log_directory": str(logs),
            "job_name": f"natmap-{group.name}",
            "python": sys.executable,
        }
        for name in _names(group):
            found[name] = {"cls": Job, "options": options}
    return found


def _queued() -> set[str] | None:
    """Numbers of this user's jobs that SLURM runs or will run; None where it does not answer."""
    user = os.environ.get("USER") or str(os.getuid())
    states = "--states=PENDING,RUNNING,CONFIGURING,REQUEUED"
    return _ask("squeue", "--noheader", "--format=%A", states, f"--user={user}")


def _ask(*command: str) -> set[str] | None:
    """The words that a command of SLURM's prints; None where it fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(found.stdout.split()) if found.returncode == 0 else None


def _ssh(settings: ClusterSettings, preload: Sequence[str]) -> dict[str, Any]:
    try:
        from distributed.deploy.ssh import Worker
    except ImportError as error:
        raise RunError("asyncssh is not installed", remedy="pip install natmap[ssh]") from error
    found: dict[str, Any] = {}
    seats = Seats()
    for group in settings.groups:
        threads, resources = offers(group.gpus)
        for host in group.hosts:
            for name in _names(group):
                found[f"{host}-{name}"] = {
                    "cls": Worker,
                    "options": {
                        "address": host,
                        "connect_options": {},
                        "kwargs": {
                            "nthreads": threads,
                            "memory_limit": group.memory,
                            "resources": resources,
                            "preload": list(preload),
                            "env": _environment(group) | seats.take(host, group),
                        },
                        "worker_class": "distributed.Nanny",
                        "remote_python": sys.executable,
                    },
                }
    return found
