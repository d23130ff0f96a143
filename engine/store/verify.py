"""Verify: whether what is stored is what the ledger says was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import MemoryStore

from engine.errors import StoreError, first_line
from engine.grid.grid import Tile
from engine.store.arrays import index_day
from engine.store.copying import grid_of, specs_of
from engine.store.digests import commit, is_sealed
from engine.store.layout import create_arrays
from engine.store.ledger import RECORD, Ledger, State, digest_of
from engine.store.provenance import read_items
from engine.store.repository import Store

__all__ = ["Bad", "Verified", "verify"]

_MOST = 4  # arrays of a stage of which all orders are tried


@dataclass(frozen=True)
class Bad:
    """A tile whose values are not those that were written; `day` of a stage that keeps days.

    Of what is no tile's, `tile` is the name of an array and `stage` its group, or `tile` that of a
    file.
    """

    stage: str
    tile: str
    day: str | None
    text: str


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what was found.

    Attributes
    ----------
    checked : tiles, of daily stages tiles x days.
    bad : those that cannot be read, or hold other values.
    healed : whether these are stale now, so that the next run makes them anew.
    unverified : what older versions wrote without a digest, so that nothing can be said of it.
    """

    checked: int
    bad: tuple[Bad, ...]
    healed: bool
    unverified: tuple[str, ...] = ()


def verify(
    where: str | Path,
    *,
    tag: str | None = None,
    heal: bool = False,
    tell: Callable[[Bad], None] = lambda bad: None,
) -> Verified:
    """Read all that the ledger says is done, and compare digests.

    Parameters
    ----------
    where : folder of the store, or ``s3://bucket/prefix``.
    tag : a release; by default the newest state.
    heal : make bad tiles of the newest state stale.
    tell : hears of each bad tile as it is found.

    Raises
    ------
    StoreError
        Where there is no store, its ledger cannot be read, or a release is to be healed.
    LockedError
        Where a run is at work on a store that is to be healed.
    """
    if heal and tag is not None:
        raise StoreError(
            "a release cannot be healed: it stays what it was",
            got=tag,
            remedy="heal the newest state, run, publish, and name that as a release",
        )
    store = Store.open(where)
    if heal:
        store.require_current()
    with store.lock() if heal else nullcontext():
        reader = store.reader(tag)
        ledger = Ledger.of(reader)
        root: Any = zarr.open_group(reader.store, mode="r")
        found: list[tuple[str, int, Tile]] = []
        bad: list[Bad] = []
        checked = 0
        for stage in ledger.daily:
            look = _Look(root, store.identity["arrays"], stage, ledger)
            for part, tile, record in ledger.records(stage):
                if record["state"] != State.DONE:
                    continue
                checked += 1
                text = look.wrong(tile, part, int(record["digest"]))
                if text is not None:
                    day = str(index_day(part)) if ledger.daily[stage] else None
                    bad.append(Bad(stage, str(tile), day, text))
                    found.append((stage, part, tile))
                    tell(bad[-1])
        unverified = []
        sound = store.is_verified(reader)
        if sound is None:
            unverified.append("metadata and ledger of the store")
        elif not sound:
            bad.append(Bad("store", "metadata", None, "they have lost their digest"))
            tell(bad[-1])
        for group, name, text in (*_others(root, store), *_files(root, store)):
            if text is None:
                unverified.append(f"{group} {name}")
            else:
                bad.append(Bad(group, name, None, text))
                tell(bad[-1])
        if heal and found:
            _heal(store, ledger, found)
    return Verified(checked, tuple(bad), heal and bool(found), tuple(unverified))


def _heal(store: Store, ledger: Ledger, found: Iterable[tuple[str, int, Tile]]) -> None:
    """Take bad tiles out of the ledger, as if they had never been made."""
    blank = np.zeros(1, RECORD)[0]
    count = 0
    for stage, part, tile in found:
        ledger.put(stage, tile, blank, part)
        count += 1
    session = store.writer()
    ledger.write(zarr.open_group(session.store, mode="r+"))
    commit(session, f"verify: {count} tiles are to be made anew")


def _others(root: Any, store: Store) -> Iterator[tuple[str, str, str]]:
    """Arrays of no tile that cannot be read, and coordinates that are not those of the grid."""
    known = store.identity["arrays"]
    fresh: Any = zarr.open_group(MemoryStore(), mode="w")
    create_arrays(fresh, grid_of(store), specs_of(store))
    for group, node in root.groups():
        for name, array in node.arrays() if group != "ledger" else ():
            path = f"{group}/{name}"
            if path not in known:
                values, text = _tried(partial(np.asarray, array))
                if text is None and path in fresh:
                    same = np.array_equal(values, np.asarray(fresh[path]))
                    text = None if same else "it holds other values than the grid's"
                if text is not None:
                    yield group, name, text


def _files(root: Any, store: Store) -> Iterator[tuple[str, str, str | None]]:
    """Files with items, beside the store and in it, that are not as they were written.

    Those without a digest have no text.
    """
    found = [("beside the store", name, path.read_bytes()) for name, path in store.files()]
    for name in root["runs"].array_keys() if "runs" in root else ():
        content, text = _tried(partial(read_items, root, name))
        if text is None:  # else it is one of the arrays that cannot be read
            found.append(("runs", name, content))
    for group, name, content in found:
        sound = is_sealed(content)
        if not sound:
            yield group, name, None if sound is None else "it is not as it was written"


def _tried(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """What a read gave, or what is said of it."""
    try:
        return read(), None
    except Exception as error:  # a codec answers damaged bytes with whatever it likes
        said = error.got if isinstance(error, StoreError) else first_line(error)
        return None, f"it cannot be read: {said}"


class _Look:
    """Looks at the tiles of one stage."""

    def __init__(self, root: Any, forms: dict[str, Any], stage: str, ledger: Ledger) -> None:
        self._rows, self._cols = ledger.shape
        self._daily = ledger.daily[stage]
        paths = [path for path in forms if path.partition("/")[0] == stage]
        self._arrays = [(root[path], "y" in forms[path]["dims"]) for path in paths]
        self._order: tuple[int, ...] = tuple(range(len(paths)))

    def wrong(self, tile: Tile, part: int, digest: int) -> str | None:
        """What is wrong with a tile; None where nothing is."""
        values, text = _tried(
            lambda: [self._read(array, placed, tile, part) for array, placed in self._arrays]
        )
        if text is not None:
            return text
        for order in (self._order, *self._orders()):
            if order and digest_of(values[k] for k in order) == digest:
                self._order = order
                return None
        return "it holds other values than were written"

    def _orders(self) -> Iterator[tuple[int, ...]]:
        """Arrays that the run may have written, in which order: a store may have got more since."""
        count = len(self._arrays)
        if count <= _MOST:
            for size in range(count, 0, -1):
                yield from permutations(range(count), size)

    def _read(self, array: Any, placed: bool, tile: Tile, part: int) -> npt.NDArray[Any]:
        index: tuple[Any, ...] = (part,) if self._daily else ()
        if placed:
            high, wide = array.shape[-2] // self._rows, array.shape[-1] // self._cols
            rows = slice(tile.row * high, (tile.row + 1) * high)
            cols = slice(tile.col * wide, (tile.col + 1) * wide)
            index = (*index, Ellipsis, rows, cols)
        return np.asarray(array[index or ...], order="C")
