"""Execution: a bounded window of tile tasks, driver-only commits, and an answer to every failure.

The loop holds no Dask graph. It keeps a few tasks per worker slot in flight, merges the forks that
come back, writes the ledger beside them and commits; only then do the tiles that read them become
ready, with a fork of the new snapshot. Whatever dies, at most the uncommitted tiles are lost.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import icechunk
import numpy as np
import zarr
from distributed import Future
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from engine.accounting import Account, add
from engine.errors import (
    ChunkError,
    DeviceError,
    ReadError,
    RunError,
    SchedulerLostError,
    StoreError,
    first_line,
)
from engine.legend import Reason
from engine.runs import events
from engine.runs.arrivals import Arrivals
from engine.runs.failures import DIED, error_of, full, is_full
from engine.runs.limits import Limits
from engine.runs.memory import Heap
from engine.runs.meter import Meter
from engine.runs.monitor import Cluster, Watch, address_of
from engine.runs.retirement import Retirement
from engine.runs.schedule import Schedule, Work
from engine.runs.signals import draining
from engine.runs.silence import Ear
from engine.runs.summary import Summary
from engine.runs.task import TileResult, run_tile
from engine.store.chunks import check_changes, tile_chunks
from engine.store.digests import commit
from engine.store.ledger import RECORD, State
from engine.store.repository import Store

__all__ = ["Limits", "Summary", "execute"]

_AT_ONCE = 16  # tasks sent together at most
_NAMED = 4  # of tiles that nothing is heard of


def execute(
    schedule: Schedule,
    store: Store,
    cluster: Cluster,
    *,
    listeners: Sequence[events.Listener] = (),
    limits: Limits | None = None,
    number: int = 0,
    done: Callable[[], None] = lambda: None,
    account: Account | None = None,
) -> Summary:
    """Run all that is stale.

    The caller holds the store's lock. SIGINT, SIGTERM and SIGHUP drain: tiles in flight are
    finished and committed.

    Parameters
    ----------
    schedule : Schedule
    store : Store
        With all arrays of the stages made.
    cluster : Cluster
    listeners : callables of an event.
    limits : Limits, optional
    number : of the run in the store's table, which its records name; 0 where it is in none.
    account : of the driver, open since it began to prepare the run.
    done : called when all is committed, before signals break off again (`signals.unwinding`).

    Raises
    ------
    RunError
        Where no worker is left and none comes, or none offers what a stage needs.
    """
    driver = _Driver(schedule, store, cluster, listeners, limits or Limits(), number, account)
    with draining(driver.stop):
        summary = driver.run()
        done()
        return summary


class _Driver:
    def __init__(
        self,
        schedule: Schedule,
        store: Store,
        cluster: Cluster,
        listeners: Sequence[events.Listener],
        limits: Limits,
        number: int = 0,
        account: Account | None = None,
    ) -> None:
        self.schedule, self.store, self.cluster = schedule, store, cluster
        self.number = number
        self.listeners, self.limits = listeners, limits
        self.run_id = uuid.uuid4().hex[:8]
        self.flying: dict[Future[Any], Work] = {}
        self.aloft = {"cpu": 0, "gpu": 0}  # how many of these need what
        self.finished: Any = Arrivals(  # type: ignore[no-untyped-call]
            loop=cluster.client.loop, with_results=True, raise_errors=False
        )
        self.results: list[TileResult] = []  # came back, not committed
        self.rows: list[tuple[Work, np.void]] = []  # failed and blocked, not committed
        self.tries: dict[Work, list[int]] = {}  # errors, deaths
        self.failures: list[tuple[str, str, str]] = []
        self.done = self.blocked = 0
        self.stopping = self.told = False
        self.committed_at = self.heard_at = time.monotonic()
        self.silence = self.limits.silence
        self.meter = Meter(schedule.ledger, number, list(schedule.stages), account)
        self._heap = Heap()
        self.retirement = Retirement(cluster, self.limits.gpus)
        self.ear = Ear(cluster.client, self.limits.silence)
        self.watch = Watch(
            cluster, schedule, self.limits.patience, lambda: self._tell(events.WorkersLost())
        )

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> Summary:
        began = time.monotonic()
        self.schedule.place(gpus=self.cluster.gpus)
        self.watch.require_resources()
        self._tell(events.RunStarted(self.run_id, self.schedule.open, self.cluster.dashboard))
        if (address := address_of(self.cluster.client)).startswith("tcp://"):
            self._tell(events.PlainCluster(address))
        self.fork = self.store.writer().fork()
        try:
            while True:
                if self.watch.look(self.aloft) and self.results:
                    self._commit()  # nothing else to do: keep what there is
                if not self.stopping:
                    self._refill()
                elif not self.told:
                    self.told = True
                    self._tell(events.Stopping(len(self.flying)))
                if not self.flying and not self._more():
                    break
                self._collect()
                self.meter.look(self.watch.slots)
                self._listen()
                if self._due():
                    self._commit()
        except StoreError:
            raise
        except BaseException:
            # Whatever ends the loop, what has come back is kept.
            self._commit()
            raise
        finally:
            for future in self.flying:
                future.cancel()
        if self.schedule.open and not self.stopping:
            raise RunError("tiles are left that nothing can make ready", got=self.schedule.open)
        seconds = time.monotonic() - began
        stopped = self.schedule.open > 0  # one that was asked to stop too late is whole
        failed, usage = len(self.failures), self.meter.usage
        self._tell(events.RunFinished(self.done, failed, self.blocked, stopped, seconds, usage))
        return Summary(self.done, tuple(self.failures), self.blocked, stopped, seconds, usage)

    def _more(self) -> bool:
        """With nothing in flight: commit what is left, and say whether that made work."""
        self._commit()
        return bool(self.schedule.ready) and not self.stopping

    def stop(self) -> None:
        """Start no new tiles; a signal's handler, that may interrupt whatever prints or writes."""
        self.stopping = True

    def _refill(self) -> None:
        for kind in ("gpu", "cpu"):
            # A task that names a resource is sent to a worker at once, and dies with it: of these
            # no more than there are slots.
            bound = kind == "gpu" or self.watch.slots["mixed"]
            most = self.watch.slots[kind] * (1 if bound else self.limits.window)
            room = most - self.aloft[kind]
            # Several at once: the scheduler takes a graph of many for little more than one of one.
            if room >= (1 if bound else min(most // 2, _AT_ONCE)):
                self._send(kind, room, {kind.upper(): 1} if bound else None)

    def _send(self, kind: str, room: int, resources: dict[str, int] | None) -> None:
        works: list[Work] = []
        while len(works) < room and (work := self.schedule.take(kind)):
            works.append(work)
        if not works:
            return
        tries = [sum(self.tries.get(work, (0, 0))) for work in works]
        uncharged = [self.retirement.tries(work) for work in works]
        # One key prefix per stage makes the scheduler queue these as root-ish tasks, so that
        # none is prefetched beside a tile that kills its worker; run and attempt keep a key
        # from being taken for an earlier one's result.
        keys = [
            f"{work.stage}-{self.run_id}-{work.tile}-{number + more}"
            for work, number, more in zip(works, tries, uncharged, strict=True)
        ]
        futures = self.cluster.client.map(
            run_tile,
            [self.schedule.task(*pair) for pair in zip(works, tries, strict=True)],
            [self.fork] * len(works),
            key=keys,
            pure=False,
            retries=0,
            resources=resources,
        )
        if not self.flying:
            self.heard_at = time.monotonic()
        self.flying.update(zip(futures, works, strict=True))
        self.aloft[kind] += len(works)
        self.finished.update(futures)

    def _collect(self) -> None:
        with self.finished.thread_condition:
            if self.finished.queue.empty():
                self.finished.thread_condition.wait(timeout=0.2)
        for future, result in self.finished.next_batch(block=False):
            work = self.flying.pop(future, None)
            if work is None:
                continue
            self.heard_at, self.silence = time.monotonic(), self.limits.silence
            self.aloft[self.schedule.resource[work.stage]] -= 1
            # What was lost on its way may be finished, and yet an error is all that came.
            finished = future.status == "finished" and not isinstance(result, BaseException)
            # A finished task whose future is held runs again if its worker dies: let go at once.
            future.release()
            if finished:
                self._accept(work, result)
            else:
                self._refuse(work, error_of(result))

    def _listen(self) -> None:
        """Say so where nothing comes back: a tile may hang, a worker may be frozen."""
        quiet = time.monotonic() - self.heard_at
        if self.flying and quiet > self.silence:
            self.silence *= 2
            works = list(self.flying.values())[:_NAMED]
            self._tell(events.Silence(quiet, tuple((work.stage, work.tile) for work in works)))
        for event in self.ear.listen(self.flying):
            self._tell(event)

    def _accept(self, work: Work, result: TileResult) -> None:
        stage = self.schedule.stages[work.stage]
        parts = [part for part, _ in result.records] if stage.daily else [0]
        own: dict[str, set[tuple[int, ...]]] = {
            spec.path: set().union(
                *(tile_chunks(spec, self.schedule.grid, work.tile, part) for part in parts)
            )
            for spec in stage.outputs
        }
        try:
            check_changes(result.changes, own)
        except ChunkError as error:
            self._fail(work, str(error), Reason.QUARANTINED)
            return
        self.results.append(result)
        self.schedule.wrote(work)
        self.ear.came(work.stage, result.seconds)
        self.meter.came(result)
        if set(result.devices) - {"cpu"}:
            self.retirement.came()
        self._tell(
            events.TileDone(
                work.stage,
                work.tile,
                result.seconds,
                result.bytes_read,
                result.bytes_written,
                result.note,
                result.spent,
                result.cpu,
                result.megabytes,
                result.square_km,
                result.worker,
            )
        )

    def _refuse(self, work: Work, error: BaseException) -> None:
        if isinstance(error, FutureCancelledError):
            raise SchedulerLostError(
                "the scheduler was lost",
                got=error,
                remedy="run the same command again; what was committed is kept",
            )
        if is_full(error):
            self._commit()
            raise full(error)  # each further tile would only fail as this one did
        broken = isinstance(error, DeviceError) and self._retire(work, error)
        if broken and not self.retirement.to_blame(work):
            return self.schedule.again(work)
        errors, deaths = self.tries.get(work, [0, 0])
        died = isinstance(error, KilledWorker)
        errors, deaths = errors + (not died), deaths + died
        self.tries[work] = [errors, deaths]
        text = DIED if died else f"{type(error).__name__}: {error}"
        hopeless = broken or (isinstance(error, ReadError) and not error.transient)
        if hopeless or errors >= self.limits.attempts or deaths >= self.limits.deaths:
            reason = Reason.READ_FAILED if isinstance(error, ReadError) else Reason.QUARANTINED
            self._fail(work, text, reason)
        else:
            self.schedule.again(work)
            self._tell(events.TileRetried(work.stage, work.tile, errors + deaths, text))

    def _retire(self, work: Work, error: DeviceError) -> bool:
        """Send a worker away whose GPU failed; False where nothing says which it was."""
        bound = self.schedule.resource[work.stage] == "gpu"
        if error.address and (event := self.retirement.retire(work, error, bound=bound)):
            self._tell(event)
        self.watch.told = self.retirement.told
        return bool(error.address)

    def _fail(self, work: Work, text: str, reason: Reason) -> None:
        self.failures.append((work.stage, str(work.tile), text))
        errors, deaths = self.tries.get(work, [1, 0])
        self._row(work, State.FAILED, reason, errors + deaths)
        self.schedule.ledger.note(work.stage, work.tile, text)
        self._tell(events.TileFailed(work.stage, work.tile, text))
        for other in self.schedule.failed([work]):
            self.blocked += 1
            self._row(other, State.BLOCKED, reason, 0)
            self._tell(events.TileBlocked(other.stage, other.tile))

    def _row(self, work: Work, state: State, reason: Reason, attempts: int) -> None:
        record = np.zeros(1, RECORD)[0]
        record["state"], record["reason"], record["run"] = state, reason, self.number
        record["attempts"] = min(attempts, 255)
        record["finished"] = int(time.time())
        self.rows.append((work, record))

    # -- commits ------------------------------------------------------------------------------

    def _due(self) -> bool:
        waiting = len(self.results)
        if not waiting:
            return False
        starving = not self.schedule.ready and len(self.flying) <= max(self.watch.slots["cpu"], 1)
        late = time.monotonic() - self.committed_at > self.limits.commit_seconds
        return waiting >= self.limits.commit_tiles or late or starving

    def _commit(self) -> None:
        if not self.results and not self.rows:
            return
        began = time.monotonic()
        results, rows = self.results, self.rows
        ledger = self.schedule.ledger
        session = self.store.writer()
        self.meter.keep()
        try:
            if results:
                session.merge(*(result.fork for result in results))
            for result in results:
                for part, raw in result.records:
                    record = np.frombuffer(bytearray(raw), RECORD)[0]
                    record["run"] = self.number
                    ledger.put(result.stage, result.tile, record, part)
                ledger.note(result.stage, result.tile, result.note)
                if result.devices:
                    ledger.ran_on(result.stage, result.devices)
                ledger.count(
                    result.stage,
                    len(result.records),
                    result.seconds,
                    result.bytes_read,
                    result.bytes_written,
                )
            for work, record in rows:
                for part in self._parts(work):
                    ledger.put(work.stage, work.tile, record, part)
            root = zarr.open_group(session.store, mode="r+")
            ledger.write(root)
            commit(session, f"run {self.run_id}: {len(results)} tiles")
        except (icechunk.IcechunkError, OSError) as error:
            if is_full(error):
                raise full(error) from error
            raise StoreError(
                "the commit failed; all that was committed before is kept",
                got=first_line(error),
                remedy="make room or mend the store's folder, then run the same command again",
            ) from error
        ledger.written()
        self.results, self.rows = [], []
        self.done += len(results)
        self.fork = self.store.writer().fork()
        self.schedule.settled(Work(r.stage, r.tile) for r in results)
        self._heap.trim()
        self.committed_at = time.monotonic()
        open_, took, usage = self.schedule.open, self.committed_at - began, self.meter.usage
        add("commit", took)
        self._tell(events.Committed(len(results), open_, took, usage.rate, usage.limiting))

    def _parts(self, work: Work) -> list[int]:
        stage = self.schedule.stages[work.stage]
        return [part.index for part in stage.parts_of(work.tile)] if stage.daily else [0]

    def _tell(self, event: events.Event) -> None:
        for listener in self.listeners:
            listener(event)
