"""The items that a map was made from: frozen in the store with the runs that made its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import zarr

from engine.catalog.snapshot import read_snapshot
from engine.grid import Tile
from engine.items import Item
from engine.pipeline.prepare import Prepared
from engine.products.index import ItemIndex
from engine.runs.schedule import Schedule, Status
from engine.store.ledger import State
from engine.store.provenance import frozen_in

__all__ = ["items_by_tile", "tiles_before"]


def tiles_before(schedule: Schedule) -> npt.NDArray[np.bool_]:
    """Tiles of the map that are there and that the recipe would make anew: bool (rows, cols)."""
    done: npt.NDArray[np.bool_] = schedule.ledger.states("map") == State.DONE
    return done & np.isin(schedule.status["map"], (Status.READY, Status.WAITING, Status.BLOCKED))


def items_by_tile(
    prepared: Prepared,
    schedule: Schedule,
    root: zarr.Group,
    items: Sequence[Item],
    before: npt.NDArray[np.bool_],
) -> tuple[Item, ...]:
    """Items that reach the map's tiles: of each those of the run that it is the work of.

    Parameters
    ----------
    prepared, schedule, root : as of `engine.pipeline.made.made_of`.
    items : of the last run, of which all tiles are the work but those of `before`.
    """
    reach = max(schedule.links.reach.values())  # of the halos of all that a tile is made from

    @cache
    def index(run: int) -> ItemIndex:
        with frozen_in(root, run) as files:
            found = [i for path in files.values() for i in read_snapshot(path) if not i.suspect]
        return ItemIndex(found or items, prepared.band_names, prepared.grid)

    runs = schedule.ledger.column("map", "run")
    done = schedule.ledger.states("map") == State.DONE
    last = ItemIndex(items, prepared.band_names, prepared.grid)
    used: dict[tuple[str, str, str], Item] = {}
    for row, col in np.argwhere(done).tolist():
        source = index(int(runs[row, col])) if before[row, col] else last
        for item in source.near(Tile(row, col), reach):
            used[item.collection, item.id, item.stamp] = item
    return tuple(item for _, item in sorted(used.items()))
