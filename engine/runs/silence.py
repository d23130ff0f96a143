"""Tiles that are long in coming, and workers that are not heard of, while others go on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from distributed import Client, Future

from engine.runs.events import TileSlow, WorkerSilent
from engine.runs.schedule import Work

__all__ = ["Ear"]

_LOOKS = 6  # within the time after which something is told
_ANSWER = 10.0  # seconds that the scheduler may take
_MANY = 4.0  # times as long as the longest tile of its stage so far


class Ear:
    """Asks the scheduler now and then which worker has which tile.

    Parameters
    ----------
    client : Client
    seconds : with one worker after which a tile is told of, and without a sign of life after which
        a worker is; then again whenever that time has doubled. A stage whose tiles take longer is
        given four times what they took.
    """

    def __init__(self, client: Client, seconds: float) -> None:
        self._client, self._seconds = client, seconds
        self._looked = time.monotonic()
        self._with: dict[tuple[str, str], float] = {}  # key and worker, since when
        self._beats: dict[str, tuple[float, float]] = {}  # a worker's last sign, since when
        self._told: dict[Any, float] = {}  # seconds after which the next is due
        self._longest: dict[str, float] = {}

    def came(self, stage: str, seconds: float) -> None:
        """A tile of a stage took so long."""
        self._longest[stage] = max(seconds, self._longest.get(stage, 0.0))

    def listen(self, flying: Mapping[Future[Any], Work]) -> Iterator[TileSlow | WorkerSilent]:
        """What is to be told now, of tiles in flight and of those who have them."""
        now = time.monotonic()
        if not flying or now - self._looked < self._seconds / _LOOKS:
            return
        self._looked = now
        try:
            having, workers = self._ask()
        except (OSError, TimeoutError):
            return  # a lost scheduler is found out by others
        works = {future.key: work for future, work in flying.items()}
        pairs = [(key, worker) for worker, keys in having.items() for key in keys if key in works]
        self._with = {pair: self._with.get(pair, now) for pair in pairs}
        self._beats = {
            address: self._beats[address]
            if self._beats.get(address, (None,))[0] == worker["last_seen"]
            else (worker["last_seen"], now)
            for address, worker in workers.items()
        }
        for address, (_, since) in self._beats.items():
            if self._due(address, now - since, self._seconds):
                held = [works[key] for key, worker in pairs if worker == address]
                tiles = tuple((work.stage, work.tile) for work in held)
                yield WorkerSilent(str(workers[address]["name"]), address, now - since, tiles)
        for (key, address), since in self._with.items():
            work = works[key]
            usual = max(self._seconds, _MANY * self._longest.get(work.stage, 0.0))
            if self._due((key, address), now - since, usual):
                name = str(workers.get(address, {}).get("name", address))
                yield TileSlow(work.stage, work.tile, name, now - since)
        self._told = {
            what: due
            for what, due in self._told.items()
            if what in self._with or what in self._beats
        }

    def _due(self, what: Any, seconds: float, first: float) -> bool:
        """Whether it has lasted so long that it is told, or told again."""
        if seconds < first:
            self._told.pop(what, None)
            return False
        if seconds < self._told.get(what, first):
            return False
        self._told[what] = 2 * seconds
        return True

    def _ask(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Keys by worker, and what the scheduler knows of each worker."""
        scheduler: Any = self._client.scheduler
        having = self._client.sync(scheduler.processing, workers=None, callback_timeout=_ANSWER)
        told = self._client.sync(scheduler.identity, n_workers=-1, callback_timeout=_ANSWER)
        return having, told["workers"]
