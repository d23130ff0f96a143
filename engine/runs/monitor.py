"""The workers of a run: what a cluster must offer, and a watch that no wait for it is silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from distributed import Client

from engine.errors import RunError
from engine.runs.schedule import Schedule, Status

__all__ = ["Cluster", "Watch", "address_of"]

_LOOK = 1.0  # seconds between looks
_WONDER = 3.0  # seconds without workers after which new ones are asked for


class Cluster(Protocol):
    """Workers, wherever they are."""

    @property
    def client(self) -> Client:
        """A client of the scheduler."""

    @property
    def dashboard(self) -> str | None:
        """Address of the scheduler's pages, None where it has none; Dask draws them with Bokeh."""

    @property
    def gpus(self) -> bool:
        """Whether workers with a GPU are there, or were asked for."""

    @property
    def patience(self) -> float:
        """Seconds that workers may be long in coming: a queue takes longer than a machine."""

    def slots(self) -> Mapping[str, int]:
        """Task slots of the workers that are there now.

        ``gpu`` and ``cpu``: those that take GPU stages, and all others; ``mixed``: not 0 where
        workers without a GPU are kept for the latter, and offer the resource CPU.
        """

    def tend(self) -> None:
        """Called about once a second: bring lost workers back."""

    def heal(self) -> None:
        """Ask for new workers after all were lost."""

    def dismiss(self, address: str, name: str) -> None:
        """Send a worker away, where it is still there, and never bring it back in this run."""


def address_of(client: Client) -> str:
    """Where its scheduler is, with the protocol that it is spoken to by."""
    scheduler: Any = client.scheduler
    return str(scheduler.address)


class Watch:
    """Looks after a cluster's workers.

    Parameters
    ----------
    cluster : Cluster
    schedule : Schedule
    patience : seconds without a worker that is needed before the run gives up; at least the
        cluster's own.
    lost : called once when new workers are asked for.
    """

    def __init__(
        self, cluster: Cluster, schedule: Schedule, patience: float, lost: Callable[[], None]
    ) -> None:
        self._cluster, self._schedule, self._lost = cluster, schedule, lost
        self._patience = max(patience, cluster.patience)
        self.slots: Mapping[str, int] = {"cpu": 0, "gpu": 0, "mixed": 0}
        self._looked = -_LOOK
        self._lacking: float | None = None  # since when
        self._asked = False
        self.told = ""  # what else there is to say where no worker is left

    def require_resources(self) -> None:
        """Refuse stages that no worker will ever take.

        Raises
        ------
        RunError
        """
        for name, resource in self._schedule.resource.items():
            wanted = self._schedule.count(name, Status.WAITING, Status.READY)
            if resource == "gpu" and wanted and not self._cluster.gpus:
                raise RunError(
                    f"stage {name} needs a GPU and no worker offers one",
                    got=f"{sum(self._cluster.slots().values())} slots without one",
                    remedy="start a worker with --resources GPU=2, or set model.device to auto",
                )

    def look(self, flying: Mapping[str, int]) -> bool:
        """Count slots, tend the cluster, and ask for workers where none are left.

        Parameters
        ----------
        flying : how many tasks are out that need what: ``cpu``, ``gpu``.

        Returns
        -------
        bool : no worker at all is there.

        Raises
        ------
        RunError
            Where a kind of worker that is needed has been missing for too long.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK and self._lacking is None:
            return False
        self._looked = now
        self.slots = self._cluster.slots()
        self._cluster.tend()
        none = not any(self.slots.values())
        lacking = [
            kind
            for kind in ("cpu", "gpu")
            if (self._schedule.waiting(kind) or flying[kind]) and not self.slots[kind]
        ]
        if not lacking:
            self._lacking, self._asked = None, False
            return False
        if self._lacking is None:
            self._lacking = now
        if now - self._lacking > self._patience:
            raise RunError(
                "all workers are gone and none came back"
                if none
                else f"no worker is left for stages that need a {lacking[0].upper()}",
                got=f"{self._patience:g} s without one{self.told}",
                remedy="look at the cluster's logs, then run the same command again",
            )
        if now - self._lacking > _WONDER and not self._asked:
            self._asked = True
            self._lost()
            self._cluster.heal()
        time.sleep(0.2)
        return none
