"""A run's figures for Prometheus, of the driver and, through it, of all workers.

Workers tell the driver what each tile took, so one address has it all: workers of a queue or
behind a firewall need no page of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from engine.errors import RunError
from engine.runs import events

__all__ = ["Metrics", "serve_metrics"]


class Metrics:
    """A listener that counts events; names begin with ``natmap_``.

    Attributes
    ----------
    registry : that Prometheus' exporter reads.
    port : where they are served, 0 where they are not.
    """

    port = 0

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"natmap_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"natmap_{name}", text, labels, registry=registry)

        self._tiles = counter("tiles", "Tiles by what became of them", "stage", "state")
        self._ground = counter("square_km", "Ground of tiles that were made", "stage")
        self._steps = counter("step_seconds", "Seconds of workers' threads", "stage", "step")
        self._moved = counter("step_bytes", "Bytes that steps moved", "stage", "step")
        self._cpu = counter("cpu_seconds", "CPU seconds of tasks", "stage", "worker")
        self._tasks = counter("task_seconds", "Seconds of tasks", "stage", "worker")
        self._memory = gauge("worker_peak_bytes", "The most memory a worker has had", "worker")
        self._open = gauge("open_tiles", "Tiles that are not settled")
        self._rate = gauge("square_km_per_second", "Of the run's last stage so far")
        self._commits = counter("commit_seconds", "Seconds that commits took")
        self._lost = counter("workers_lost", "Times that no worker was left")
        self._silent = counter("workers_silent", "Times that a worker gave no sign of life")

    def __call__(self, event: events.Event) -> None:
        """Count an event."""
        match event:
            case events.RunStarted():
                self._open.set(event.open)
            case events.TileDone():
                self._tiles.labels(event.stage, "done").inc()
                self._ground.labels(event.stage).inc(event.square_km)
                for step, spent in event.spent.items():
                    self._steps.labels(event.stage, step).inc(spent.seconds)
                    self._moved.labels(event.stage, step).inc(spent.bytes)
                self._cpu.labels(event.stage, event.worker).inc(event.cpu)
                self._tasks.labels(event.stage, event.worker).inc(event.seconds)
                self._memory.labels(event.worker).set(event.megabytes * 2**20)
            case events.TileRetried():
                self._tiles.labels(event.stage, "retried").inc()
            case events.TileFailed():
                self._tiles.labels(event.stage, "failed").inc()
            case events.TileBlocked():
                self._tiles.labels(event.stage, "blocked").inc()
            case events.Committed():
                self._open.set(event.open)
                self._rate.set(event.rate)
                self._commits.inc(event.seconds)
            case events.WorkersLost():
                self._lost.inc()
            case events.WorkerSilent():
                self._silent.inc()
            case _:
                pass


@contextmanager
def serve_metrics(address: str) -> Iterator[Metrics]:
    """Serve a run's figures at ``http://ADDRESS/metrics`` as long as the body runs.

    Parameters
    ----------
    address : a port of this machine alone, ``9464``; or ``HOST:PORT``, for all who reach that.

    Raises
    ------
    RunError
        Where it is neither, or the port cannot be had.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise RunError(
            "no such address for metrics",
            got=address,
            expected="a port from 0 to 65535, or HOST:PORT",
        )
    metrics = Metrics()
    try:
        server, thread = start_http_server(
            int(port), addr=host.strip("[]") or "127.0.0.1", registry=metrics.registry
        )
    except OSError as error:
        raise RunError(
            "metrics cannot be served there",
            got=f"{address}: {error.strerror or error}",
            remedy="choose another port",
        ) from error
    metrics.port = server.server_port
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
