"""Schedule: which tiles of which stages are needed, stale, ready, done.

The one place that decides what runs. `plan` reads it before anything ran; the driver moves it on
with every commit. A tile is looked at again whenever something that it reads has settled, so there
is no barrier between stages; and where a recomputed digest is unchanged nothing downstream runs.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.errors import RecipeError
from engine.grid.area import Support
from engine.grid.grid import Tile, curve_order
from engine.runs.choice import choose
from engine.runs.stage import WHOLE, Input, Part, Stage, link
from engine.runs.task import Tiles, TileTask
from engine.runs.why import Why, changed_settings, difference, words
from engine.store.ledger import Flag, Ledger, Mark, State

__all__ = ["Schedule", "Status", "Work"]


class Status(IntEnum):
    """Where a tile of a stage stands in this run."""

    OUT = 0  # not needed
    WAITING = 1  # an input is not settled yet
    READY = 2  # stale, inputs committed
    RUNNING = 3
    WRITTEN = 4  # done, not yet committed
    SETTLED = 5  # committed, or found unchanged
    FAILED = 6  # terminal for this run
    BLOCKED = 7  # its own input failed


_OPEN = (Status.WAITING, Status.READY, Status.RUNNING, Status.WRITTEN)
_GONE = (Status.FAILED, Status.BLOCKED)


class Work(NamedTuple):
    """A tile of a stage."""

    stage: str
    tile: Tile


class Schedule:
    """States of all tiles of all stages.

    Parameters
    ----------
    stages : in the order of the data's flow.
    support : Support
        Area, grid and the cell in which the area is measured, but for stages of other cells.
    ledger : Ledger
        As loaded from the store, or empty.
    only : tiles, optional
        Finish no other tiles; upstream stages also run for what these read.
    until : stage name, optional
        The last stage to run; what is upstream is made as wide as the later stages need.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        support: Support,
        ledger: Ledger,
        only: Iterable[Tile] | None = None,
        until: str | None = None,
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.support, self.grid, self.ledger = support, support.grid, ledger
        self.links = link(stages, self.grid, support.cell)
        self._supports = {name: support.in_cells(cell) for name, cell in self.links.cell.items()}
        self._results = {name for name, stage in self.stages.items() if stage.scope == "area"}
        self._wanted = {name: self._tiles_wanted(name) for name in self.stages}
        self.forms = {spec.path: spec for stage in stages for spec in stage.outputs}
        self._rank = {name: i for i, name in enumerate(self.stages)}
        self._stamp = {name: stage.fingerprint for name, stage in self.stages.items()}
        for name, stage in self.stages.items():
            ledger.remember(name, _number(self._stamp[name], 4), stage.settings)
        self.status: dict[str, npt.NDArray[np.int8]] = {}
        self.why: dict[str, npt.NDArray[np.int8]] = {}
        self._heaps: dict[str, list[tuple[int, int, Work]]] = {"cpu": [], "gpu": []}
        self.place(gpus=False)
        self._order = curve_order(*np.indices(self.grid.shape))
        self._parts = lru_cache(maxsize=4096)(self._parts_of)
        chosen = choose(self.stages, self.links, self._wanted, only)
        last = self._rank[until] if until else len(stages)
        for name in self.stages:
            needed = self._wanted[name] & chosen[name] & (self._rank[name] <= last)
            self.status[name] = np.where(needed, Status.WAITING, Status.OUT).astype(np.int8)
            self.why[name] = np.zeros(self.grid.shape, np.int8)
        if not any((status != Status.OUT).any() for status in self.status.values()):
            raise RecipeError("no tile meets the area", remedy="look at `area`, `grid` and --tiles")
        for name in self.stages:
            for tile in self._tiles(name, Status.WAITING):
                self._assess(name, tile)

    def _tiles_wanted(self, name: str) -> npt.NDArray[np.bool_]:
        """The tiles that a stage is defined on, whatever was chosen: bool (rows, cols)."""
        if self.stages[name].scope == "tile":
            return self._supports[name].meets(self.links.reach[name])
        found = np.zeros(self.grid.shape, bool)
        found[WHOLE] = True
        return found

    def _tiles(self, stage: str, *states: Status) -> Iterator[Tile]:
        rows, cols = np.nonzero(np.isin(self.status[stage], states))
        for i in np.argsort(self._order[rows, cols], kind="stable"):
            yield Tile(int(rows[i]), int(cols[i]))

    # -- questions ----------------------------------------------------------------------------

    def count(self, stage: str, *states: Status) -> int:
        """How many tiles of a stage are in any of these states."""
        return int(np.isin(self.status[stage], states).sum())

    def tiles(self, stage: str, *states: Status) -> list[Tile]:
        """The tiles of a stage in any of these states, along the curve."""
        return list(self._tiles(stage, *states))

    def stale_parts(self, name: str, tile: Tile) -> int:
        """How many parts of a tile have to be made: of one that waits all that it has."""
        parts = self._parts(name, tile) if self.stages[name].daily else (None,)
        if self.status[name][tile] != Status.READY or self.why[name][tile] == Why.NEW:
            return len(parts)
        return len(self._stale(name, tile))

    def reason(self, name: str, tile: Tile) -> str:
        """Why a tile is stale, in a few words."""
        stage, why = self.stages[name], Why(int(self.why[name][tile]))
        if why == Why.SETTINGS:
            stamps = {
                int(record["settings"])
                for part in self._parts(name, tile)
                if (record := self.ledger.get(name, tile, part.index)) is not None
            } - {_number(self._stamp[name], 4)}
            known = self.ledger.settings.get(name, {})
            changed = {
                key
                for stamp in stamps
                for key in changed_settings(known.get(str(stamp), {}), stage.settings)
            }
            return f"changed {', '.join(sorted(changed)) or 'settings'}"
        return words(why, stage)

    def made_from_inputs(self, name: str, tile: Tile) -> bool:
        """Whether a tile of a stage without days is done, and made from what its inputs hold."""
        record = self.ledger.get(name, tile)
        if record is None or record["state"] != State.DONE:
            return False
        return int(record["inputs"]) == _number(self._inputs_digest(name, tile), 4)

    @property
    def ready(self) -> int:
        """How many tiles wait for a worker."""
        return sum(map(len, self._heaps.values()))

    def waiting(self, resource: str) -> int:
        """How many of them need a resource."""
        return len(self._heaps[resource])

    @property
    def open(self) -> int:
        """How many tiles are not settled, failed or blocked yet."""
        return sum(self.count(name, *_OPEN) for name in self.stages)

    # -- moves --------------------------------------------------------------------------------

    def place(self, *, gpus: bool) -> None:
        """Say where stages run that take a GPU if there is one; `resource` tells of each stage."""
        auto = "gpu" if gpus else "cpu"
        self.resource = {
            name: auto if stage.resource == "auto" else stage.resource
            for name, stage in self.stages.items()
        }
        ready = [work for heap in self._heaps.values() for _, _, work in heap]
        self._heaps = {"cpu": [], "gpu": []}
        for work in ready:
            self._push(work)

    def take(self, resource: str) -> Work | None:
        """The next tile that needs a resource: later stages first, then along the curve."""
        if not self._heaps[resource]:
            return None
        work = heapq.heappop(self._heaps[resource])[2]
        self.status[work.stage][work.tile] = Status.RUNNING
        return work

    def again(self, work: Work) -> None:
        """Put a tile back, to be tried once more."""
        self._push(work)

    def wrote(self, work: Work) -> None:
        """Its task has come back; its chunks are not committed yet."""
        self.status[work.stage][work.tile] = Status.WRITTEN

    def settled(self, works: Iterable[Work]) -> None:
        """These are committed: look again at what reads them."""
        works = list(works)
        for work in works:
            self.status[work.stage][work.tile] = Status.SETTLED
        self._wake(works)

    def failed(self, works: Iterable[Work]) -> list[Work]:
        """These are terminal for this run, and committed as such; returns what they block."""
        works = list(works)
        for work in works:
            self.status[work.stage][work.tile] = Status.FAILED
        blocked: list[Work] = []
        self._wake(works, blocked)
        return blocked

    def _push(self, work: Work) -> None:
        self.status[work.stage][work.tile] = Status.READY
        key = (-self._rank[work.stage], int(self._order[work.tile]), work)
        heapq.heappush(self._heaps[self.resource[work.stage]], key)

    def _wake(self, works: list[Work], blocked: list[Work] | None = None) -> None:
        pending, whole = list(works), dict[str, None]()
        while pending or whole:
            if pending:
                readers = self._readers(pending.pop(), whole)
            else:
                readers = iter([Work(whole.popitem()[0], WHOLE)])
            for work in readers:
                if self.status[work.stage][work.tile] != Status.WAITING:
                    continue
                now = self._assess(*work)
                if now in (Status.SETTLED, Status.BLOCKED):
                    pending.append(work)
                if now == Status.BLOCKED and blocked is not None:
                    blocked.append(work)

    def _readers(self, work: Work, whole: dict[str, None]) -> Iterator[Work]:
        """Tiles that read a tile; a stage that reads all of them is noted, to be looked at once."""
        for consumer, source in self.links.consumers[work.stage]:
            if consumer in self._results:
                whole[consumer] = None
            elif source.scope == "area":
                yield from (Work(consumer, tile) for tile in self._tiles(consumer, Status.WAITING))
            else:
                around = self.grid.neighbours(work.tile) if source.halo else []
                yield from (Work(consumer, other) for other in (work.tile, *around))

    # -- staleness ----------------------------------------------------------------------------

    def _assess(self, name: str, tile: Tile) -> Status:
        stage = self.stages[name]
        for source in stage.inputs:
            status = self.status[source.stage]
            if self._reads_all(name, source):
                if np.isin(status, _OPEN).any():
                    return Status.WAITING
                gone = not self._made(source.stage).any()
                near = []
            else:
                at = WHOLE if source.scope == "area" else tile
                gone = status[at] in _GONE
                near = [at, *(self.grid.neighbours(tile) if source.halo else ())]
            if gone:
                self.status[name][tile] = Status.BLOCKED
                return Status.BLOCKED
            if any(status[t] in _OPEN for t in near):
                return Status.WAITING
        why = max((w for _, _, w in self._stale(name, tile)), default=Why.FRESH)
        self.why[name][tile] = why
        if why == Why.FRESH:
            self.status[name][tile] = Status.SETTLED
            return Status.SETTLED
        self._push(Work(name, tile))
        return Status.READY

    def _stale(self, name: str, tile: Tile) -> list[tuple[Part, Mark, Why]]:
        support = b"whole   "
        if name not in self._results:
            support = self._supports[name].fingerprint(tile, self.links.reach[name])
        inputs = self._inputs_digest(name, tile)
        base = self._stamp[name] + support + inputs
        whole = _number(self._stamp[name], 4), _number(support, 4), _number(inputs, 4)
        parts = self._parts(name, tile)
        known = any(self.ledger.get(name, tile, part.index) is not None for part in parts)
        stale: list[tuple[Part, Mark, Why]] = []
        for part in parts:
            text = struct.pack("<q", part.index) + part.fingerprint
            mark = Mark(_number(base + text, 8), *whole, _number(text, 4))
            record = self.ledger.get(name, tile, part.index)
            if record is None:
                why = Why.NEW_PART if known else Why.NEW
            elif record["state"] != State.DONE:
                why = Why.FAILED_BEFORE
            elif int(record["fingerprint"]) != mark.fingerprint:
                why = difference(record, mark)
            elif record["flags"] & Flag.TRANSIENT_GAP:
                why = Why.GAP
            else:
                continue
            stale.append((part, mark, why))
        return stale

    def _inputs_digest(self, name: str, tile: Tile) -> bytes:
        """What the tile reads, by digest: its own whole, of neighbours the strip on this side."""
        found = hashlib.blake2b(digest_size=8)
        for source in self.stages[name].inputs:
            if self._reads_all(name, source):
                made = self._made(source.stage)
                digests = np.where(made, self.ledger.column(source.stage, "digest"), 0)
                for values in (self._wanted[source.stage], made, digests):
                    found.update(np.ascontiguousarray(values).data)
                continue
            if source.scope == "area":
                found.update(self._digest(source.stage, WHOLE, 0, "digest"))
                continue
            for part in self._indices(source, tile):
                found.update(self._digest(source.stage, tile, part, "digest"))
                for other in self.grid.neighbours(tile) if source.halo else ():
                    found.update(self._digest(source.stage, other, part, _side(tile, other)))
        return found.digest()

    def _digest(self, stage: str, tile: Tile, part: int, side: str) -> bytes:
        where = struct.pack("<iiq", tile.row, tile.col, part)
        if self.status[stage][tile] in _GONE:
            return where + b"failed  "
        record = self.ledger.get(stage, tile, part)
        if record is None or record["state"] != State.DONE:
            return where + b"nothing "
        return where + int(record[side]).to_bytes(8, "little")

    def _reads_all(self, name: str, source: Input) -> bool:
        """Whether a stage reads all tiles of a source, rather than some or a result."""
        return name in self._results and source.stage not in self._results

    def _made(self, stage: str) -> npt.NDArray[np.bool_]:
        """The tiles of a stage that are wanted and there: bool (rows, cols)."""
        made: npt.NDArray[np.bool_] = self.ledger.states(stage) == State.DONE
        made &= self._wanted[stage] & ~np.isin(self.status[stage], _GONE)
        return made

    def _parts_of(self, stage: str, tile: Tile) -> tuple[Part, ...]:
        return self.stages[stage].parts_of(tile)

    def _indices(self, source: Input, tile: Tile) -> tuple[int, ...]:
        """The parts of an upstream stage that are read."""
        if not self.stages[source.stage].daily:
            return (0,)
        parts = self._parts(source.stage, tile)
        return tuple(part.index for part in parts if source.reads(part.index))

    # -- tasks --------------------------------------------------------------------------------

    def task(self, work: Work, attempt: int) -> TileTask:
        """All that a worker needs for a tile."""
        stage = self.stages[work.stage]
        stale = self._stale(work.stage, work.tile)
        support = self._supports[work.stage]
        blank = {
            source.stage: tuple(
                t for t in self.grid.neighbours(work.tile) if self.status[source.stage][t] in _GONE
            )
            for source in stage.inputs
            if source.halo
        }
        reads = {source.stage for source in stage.inputs}
        tiles = {
            source.stage: Tiles(self._made(source.stage), int(self._wanted[source.stage].sum()))
            for source in stage.inputs
            if self._reads_all(work.stage, source)
        }
        results = [self.ledger.get(name, WHOLE) for name in sorted(reads & self._results)]
        part_of = any(found.count < found.of for found in tiles.values())
        return TileTask(
            stage=work.stage,
            kernel=stage.kernel,
            outputs=stage.outputs,
            grid=self.grid,
            tile=work.tile,
            parts=tuple(part for part, _, _ in stale),
            marks=tuple(mark for _, mark, _ in stale),
            attempt=attempt,
            input_parts={s.stage: self._indices(s, work.tile) for s in stage.inputs},
            blank={s: tiles for s, tiles in blank.items() if tiles},
            forms={path: spec for path, spec in self.forms.items() if spec.group in reads},
            support=support.packed(work.tile, self.links.reach[work.stage]),
            cell=support.cell,
            border=self.links.border[work.stage],
            tiles=tiles,
            gpu=self.resource[work.stage] == "gpu",
            degraded=part_of or any(r is not None and r["flags"] & Flag.DEGRADED for r in results),
        )


def _number(text: bytes, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=size).digest(), "little")


def _side(tile: Tile, other: Tile) -> str:
    """Which strip of `other` faces `tile`; at a corner the longer of its two serves for both."""
    if other.row != tile.row:
        return "south" if other.row < tile.row else "north"
    return "east" if other.col < tile.col else "west"
