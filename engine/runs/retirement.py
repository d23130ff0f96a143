"""Workers whose GPU failed: sent away, so that no further tile is lost to them.

A broken GPU fails at once, and so its worker would ask for tile after tile. The tile is not to
blame and is tried elsewhere; the worker takes no further task in this run.
"""

from __future__ import annotations

from collections import defaultdict

from engine.errors import DeviceError, RunError, first_line
from engine.runs.events import WorkerRetired
from engine.runs.monitor import Cluster
from engine.runs.schedule import Work

__all__ = ["Retirement"]

_RETURNS = 3  # times in a row that a worker may come back from outside, and fail again


class Retirement:
    """Which workers were sent away, and what became of the tiles that they had.

    Parameters
    ----------
    cluster : whose workers they are.
    most : workers whose GPU may fail on one tile until that is the tile's fault.
    """

    def __init__(self, cluster: Cluster, most: int) -> None:
        self._cluster, self._most = cluster, most
        self._gone: dict[str, DeviceError] = {}  # by address
        self._met: dict[Work, list[str]] = defaultdict(list)
        self._in_a_row = 0

    def retire(self, work: Work, error: DeviceError, *, bound: bool) -> WorkerRetired | None:
        """Send the worker of a tile away; None where it went before.

        Parameters
        ----------
        work : the tile.
        error : with the worker's address.
        bound : the tile runs on workers with a GPU alone.

        Raises
        ------
        RunError
            Where no worker with a GPU is left, or they come back only to fail again.
        """
        self._met[work].append(error.worker)
        self._in_a_row += 1
        new = error.address not in self._gone
        self._gone[error.address] = error
        if new:
            self._cluster.dismiss(error.address, error.worker)
        workers = {each.worker for each in self._gone.values()}
        none = bound and not self._cluster.gpus
        if none or self._in_a_row > _RETURNS * len(workers):
            raise RunError(
                "no worker with a GPU that works is left",
                got=f"{work.stage} {work.tile}{self.told}",
                remedy=error.remedy,
            )
        return WorkerRetired(error.worker, error.address, _cause(error)) if new else None

    def to_blame(self, work: Work) -> bool:
        """Whether so many GPUs failed on a tile that it is the tile."""
        return len(set(self._met[work])) >= self._most

    def tries(self, work: Work) -> int:
        """How often a tile was tried on a GPU that failed."""
        return len(self._met.get(work, ()))

    def came(self) -> None:
        """A tile came back from a GPU: some worker can compute."""
        self._in_a_row = 0

    @property
    def told(self) -> str:
        """Who was sent away and why, to follow an error's words; empty where nobody was."""
        names = sorted({f"{each.worker}: {_cause(each)}" for each in self._gone.values()})
        return f"; sent away: {'; '.join(names[:4])}" if names else ""


def _cause(error: DeviceError) -> str:
    return first_line(error) if error.got is None else f"{error.what} ({error.got})"
