"""The verbs: plan and run. The command does what these do, and draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from engine.accounting import Account
from engine.clusters.connect import Opened, open_cluster
from engine.clusters.local import usual_workers
from engine.clusters.settings import ClusterSettings, load_cluster
from engine.errors import RecipeError, SchedulerLostError
from engine.grid.grid import Tile
from engine.pipeline.prepare import Prepared, freeze, prepare
from engine.pipeline.provenance import facts_of, items_of, require_product
from engine.pipeline.rates import Cost, Rates, read_rates
from engine.products.registry import load_recipe
from engine.recipes.run import Recipe
from engine.runs.choice import named
from engine.runs.events import Listener
from engine.runs.execute import Limits, Summary, execute
from engine.runs.schedule import Schedule, Status
from engine.runs.signals import unwinding
from engine.runs.stage import Stage
from engine.store.chunks import tile_chunks
from engine.store.digests import commit
from engine.store.guarantees import MANY_CHUNKS
from engine.store.location import Folder
from engine.store.provenance import begin_run
from engine.tables import html_table

__all__ = ["Plan", "StagePlan", "load", "plan", "run"]


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan, in tiles.

    `stale` are known to run, by reason; `waiting` run if what they read changes; `fresh` do not.
    `tiles` gives the reason of each stale tile.
    """

    name: str
    stale: dict[str, int]
    waiting: int
    fresh: int
    tiles: dict[str, str]


@dataclass(frozen=True, repr=False)
class Plan:
    """What a run would do.

    Attributes
    ----------
    tiles : tiles of the grid that the last stage needs.
    items, days : scenes found and solar days they fall on.
    gigabytes_read, gigabytes : of images read, and of chunks as they are stored, by stale tiles
        and those that wait for them.
    seconds : worker seconds of these tiles.
    money : seconds x price, or None: not priced.
    assumed : stages that no run has been seen of; their cost is a rough guess.
    files : that are written at most, a chunk each.
    worker_gigabytes : memory that each worker needs, for the widest stage that has work.
    workers, hours : worker hours shared by so many workers that are always busy.
    """

    name: str
    tiles: int
    items: int
    days: int
    left_out: tuple[tuple[str, str], ...]
    stages: tuple[StagePlan, ...]
    gigabytes_read: float
    gigabytes: float
    seconds: float
    money: float | None
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    files: int = 0
    worker_gigabytes: float = 0.0
    workers: int = 1
    hours: float = 0.0

    def __repr__(self) -> str:
        stages = ", ".join(f"{s.name} {sum(s.stale.values())}+{s.waiting}" for s in self.stages)
        return f"<Plan {self._head}; stale+waiting: {stages}; {self._cost}>"

    def _repr_html_(self) -> str:
        rows = [
            (
                stage.name,
                sum(stage.stale.values()),
                ", ".join(f"{n} {reason}" for reason, n in stage.stale.items()),
                stage.waiting,
                stage.fresh,
            )
            for stage in self.stages
        ]
        guesses = [f"rough guesses for {', '.join(self.assumed)}"] if self.assumed else []
        head = ("stage", "stale", "because", "waits for it", "done")
        return html_table(self._head, head, rows, self._cost, *guesses, *self.notes)

    @property
    def _head(self) -> str:
        return f"{self.name}: {self.tiles} tiles, {self.items} scenes of {self.days} days"

    @property
    def _cost(self) -> str:
        money = "not priced" if self.money is None else f"money {self.money:.2f}"
        return (
            f"{self.gigabytes_read:.3g} GB to read, {self.gigabytes:.3g} GB to write, "
            f"{self.seconds:.0f} worker seconds, {money}"
        )


PRELOAD = ("engine.products.registry",)
_STARTS = 3  # schedulers that a run may lose, and one more


def plan(
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    base: Path | None = None,
    until: str | None = None,
    tiles: Iterable[str] | None = None,
    rates: str | Path | None = None,
    workers: int | None = None,
) -> Plan:
    """Say what `run` would do, and why; writes nothing.

    Parameters
    ----------
    recipe : a Recipe, a mapping, or the path of a recipe file.
    base : folder of the recipe's relative paths; by default the file's own.
    until, tiles : as in `run`.
    rates : another store, of a pilot area say, whose runs tell what a tile costs.
    workers : among which the hours are shared; by default as many as `run` starts here.

    Raises
    ------
    NatmapError
    """
    prepared = prepare(*load(recipe, base))
    schedule = prepared.schedule(
        prepared.check_store(), until=_stage(prepared, until), tiles=named(tiles)
    )
    _require_workers(workers)
    known = None if rates is None else read_rates(rates)
    return describe(prepared, schedule, known, workers or usual_workers())


def run(
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    base: Path | None = None,
    cluster: str | ClusterSettings | Opened = "local",
    workers: int | None = None,
    until: str | None = None,
    tiles: Iterable[str] | None = None,
    listeners: Sequence[Listener] = (),
    limits: Limits | None = None,
) -> Summary:
    """Run all that is missing or stale, on this machine or on a cluster.

    Call it under ``if __name__ == "__main__":`` in a script; workers import the script once more.

    Parameters
    ----------
    recipe : a Recipe, a mapping, or the path of a recipe file.
    base : folder of the recipe's relative paths; by default the file's own.
    cluster : "local", "slurm", an address, a settings file, settings, or a cluster that is open
        (`engine.clusters.connect.open_cluster`): several runs then share its workers.
    workers : processes of a local cluster; by default one for each two cores.
    until : name of the last stage to run.
    tiles : names of tiles to finish, as in ``r0003c0012``; by default all.
    listeners : told of every event of the run.
    limits : pace of the run.

    Raises
    ------
    NatmapError
        Before anything runs, or where the run cannot go on. Tiles that fail are in the summary.
    """
    _require_workers(workers)
    if isinstance(cluster, str):
        cluster = load_cluster(cluster, workers)
    pace = limits or Limits()
    with unwinding() as done, Account().open() as account:
        return _run(recipe, base, cluster, workers, until, tiles, listeners, pace, done, account)


def _run(
    recipe: Recipe | str | Path | dict[str, Any],
    base: Path | None,
    cluster: ClusterSettings | Opened,
    workers: int | None,
    until: str | None,
    tiles: Iterable[str] | None,
    listeners: Sequence[Listener],
    limits: Limits,
    done: Callable[[], None],
    account: Account,
) -> Summary:
    prepared = prepare(*load(recipe, base))
    stage, wanted = _stage(prepared, until), named(tiles)
    store = prepared.open_store()
    with store.lock():
        freeze(prepared)
        session = store.writer()
        prepared.blank_ledger().create(zarr.open_group(session.store, mode="r+"))
        if session.has_uncommitted_changes:
            commit(session, "make the ledger")
        need = max(s.gigabytes for s in prepared.stages)
        gpu = any(s.resource == "gpu" for s in prepared.stages)
        # also where nothing is to be made: the items may say something new of themselves
        number = begin_run(store, facts_of(prepared), items_of(prepared))
        for start in range(_STARTS):
            schedule = prepared.schedule(store, until=stage, tiles=wanted)
            if not schedule.open:
                done()
                return Summary(0, (), 0, False, 0.0)
            try:
                with open_cluster(
                    cluster, workers, need, PRELOAD, gpu=gpu, again=start > 0
                ) as found:
                    require_product(found.client, prepared.product)
                    return execute(
                        schedule,
                        store,
                        found,
                        listeners=listeners,
                        limits=limits,
                        number=number,
                        done=done,
                        account=account,
                    )
            except SchedulerLostError:
                # the ledger knows what was committed: a new scheduler goes on from there
                if start == _STARTS - 1:
                    raise
        raise AssertionError("unreachable")


def describe(
    prepared: Prepared, schedule: Schedule, rates: Rates | None = None, workers: int = 1
) -> Plan:
    """A plan's figures, from a schedule and what earlier runs cost."""
    rates = rates or Rates(schedule.ledger.rates, prepared.grid.tile_size)
    items = [item for item in prepared.resolved.items if not item.suspect]
    days = len({item.solar_day for item in items})
    stages: list[StagePlan] = []
    cost = Cost()
    files = 0
    gigabytes = 0.0
    for stage in prepared.stages:
        name = stage.name
        ready = schedule.tiles(name, Status.READY)
        waiting = schedule.tiles(name, Status.WAITING)
        reasons = {str(tile): schedule.reason(name, tile) for tile in ready}
        stale = dict(Counter(reasons.values()).most_common())
        fresh = schedule.count(name, Status.SETTLED)
        stages.append(StagePlan(name, stale, len(waiting), fresh, reasons))
        parts = sum(schedule.stale_parts(name, tile) for tile in (*ready, *waiting))
        cost += rates.cost(stage, prepared.grid, parts, days)
        gigabytes = max(gigabytes, stage.gigabytes if parts else 0.0)
        files += parts * sum(
            len(tile_chunks(spec, prepared.grid, Tile(0, 0))) for spec in stage.outputs
        )
    notes = prepared.resolved.notes
    if files > MANY_CHUNKS and isinstance(prepared.place, Folder):
        text = f"up to {files:,} files in a folder: a bucket, or a larger grid.chunk, is better"
        notes = (*notes, text)
    price = prepared.recipe.price_per_worker_hour
    return Plan(
        name=prepared.recipe.name,
        tiles=int((schedule.status[_last(prepared.stages)] != Status.OUT).sum()),
        items=len(items),
        days=days,
        left_out=prepared.resolved.left_out,
        stages=tuple(stages),
        gigabytes_read=cost.read / 1e9,
        gigabytes=cost.stored / 1e9,
        seconds=cost.seconds,
        money=None if price is None else cost.seconds / 3600 * price,
        assumed=cost.assumed,
        notes=notes,
        files=files,
        worker_gigabytes=gigabytes,
        workers=workers,
        hours=cost.seconds / 3600 / workers,
    )


def _last(stages: Sequence[Stage]) -> str:
    """The last stage that is made tile by tile."""
    return [stage.name for stage in stages if stage.scope == "tile"][-1]


def load(
    recipe: Recipe | str | Path | dict[str, Any], base: Path | None
) -> tuple[Recipe, Path | None]:
    """A recipe in any of its forms, and the folder of its relative paths."""
    if isinstance(recipe, Recipe):
        return recipe, base
    if isinstance(recipe, dict):
        return load_recipe(recipe), base
    return load_recipe(recipe), base or Path(recipe).parent


def _stage(prepared: Prepared, until: str | None) -> str | None:
    names = [stage.name for stage in prepared.stages]
    if until is not None and until not in names:
        raise RecipeError(
            "no such stage", got=until, expected=", ".join(names), remedy="--until one of these"
        )
    return until


def _require_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise RecipeError("there must be workers", got=workers, expected="--workers 1 or more")
