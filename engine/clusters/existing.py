"""A scheduler that somebody else started."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dask
from distributed import Client

from engine.clusters.gpus import send_away
from engine.clusters.settings import ClusterSettings, Tls
from engine.clusters.tls import named_security
from engine.clusters.workers import (
    SETTINGS,
    ask_workers,
    count_slots,
    require_worker_memory,
)
from engine.errors import RunError, first_line

__all__ = ["Existing", "open_existing"]

_PATIENCE = 30  # seconds for the first answer
_AGAIN = 600  # for one that was lost: a network may be mended, a scheduler started again


class Existing:
    """Workers of a scheduler at an address; who started them brings them back."""

    patience = 600.0

    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def dashboard(self) -> str | None:
        """Address of the scheduler's pages, where it has some."""
        try:
            return self.client.dashboard_link or None
        except (KeyError, OSError, TimeoutError):
            return None

    @property
    def gpus(self) -> bool:
        """Whether a worker with a GPU is there now."""
        return bool(self.slots()["gpu"])

    def slots(self) -> dict[str, int]:
        """Task slots of the workers that are there now."""
        return count_slots(ask_workers(self.client))

    def tend(self) -> None:
        """Nothing to do."""

    def heal(self) -> None:
        """Nothing that could be done from here."""

    def dismiss(self, address: str, name: str) -> None:
        """Send a worker away; who started it may bring it back."""
        send_away(self.client, address)


@contextmanager
def open_existing(
    settings: ClusterSettings,
    gigabytes: float | None = None,
    preload: Sequence[str] = (),
    *,
    again: bool = False,
) -> Iterator[Existing]:
    """Connect to a scheduler.

    Parameters
    ----------
    settings : of kind address.
    gigabytes : float, optional
        That the widest task needs; refused where no worker has it.
    preload : modules that workers import now.
    again : it was there and was lost; it may take minutes to come back.

    Raises
    ------
    RunError
        Where nobody answers, certificates do not fit, or workers are too small.
    """
    security = named_security(settings.tls) if isinstance(settings.tls, Tls) else None
    # a lost scheduler is an error of ours, with its remedy
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    with dask.config.set(SETTINGS):
        try:
            client = Client(
                settings.address, security=security, timeout=_AGAIN if again else _PATIENCE
            )
        except (OSError, TimeoutError, RuntimeError, TypeError) as error:
            raise RunError(
                "the scheduler does not answer",
                got=f"{settings.address}: {first_line(error)}",
                remedy="look at the address, the network, and whether it asks for certificates",
            ) from error
        with client:
            if gigabytes is not None:
                require_worker_memory(client, gigabytes)
            yield Existing(client)
