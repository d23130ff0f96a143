"""The items that a map was made from: frozen in the store with the runs that made its tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

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
from engine.store.provenance import read_items, read_runs

__all__ = ["frozen_in", "items_by_tile", "tiles_before"]


@contextmanager
def frozen_in(root: zarr.Group) -> Iterator[dict[str, Path]]:
    """Catalogues of the last run in a store's table, as files, by the recipe's section.

    None of a store that keeps no table.
    """
    runs = read_runs(root)
    with TemporaryDirectory(prefix="natmap-") as scratch:
        found = {}
        for section, name in (runs[-1].get("items") or {}).items() if runs else ():
            found[section] = Path(scratch) / f"{section}.parquet"
            found[section].write_bytes(read_items(root, name))
        yield found


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
    table = read_runs(root)
    reach = max(schedule.links.reach.values())  # of the halos of all that a tile is made from
    bands = prepared.band_names

    @cache
    def index(run: int) -> ItemIndex:
        known: Mapping[str, str] = table[run - 1].get("items") or {} if run else {}
        found = items
        if known:
            with TemporaryDirectory(prefix="natmap-") as scratch:
                found = []
                for section, name in known.items():
                    path = Path(scratch) / section
                    path.write_bytes(read_items(root, name))
                    found += [item for item in read_snapshot(path) if not item.suspect]
        return ItemIndex(found, bands, prepared.grid)

    runs = schedule.ledger.column("map", "run")
    done = schedule.ledger.states("map") == State.DONE
    last = ItemIndex(items, bands, prepared.grid)
    used: dict[tuple[str, str], Item] = {}
    for row, col in np.argwhere(done).tolist():
        source = index(int(runs[row, col])) if before[row, col] else last
        for item in source.near(Tile(row, col), reach):
            used[item.collection, item.id] = item
    return tuple(item for _, item in sorted(used.items()))
