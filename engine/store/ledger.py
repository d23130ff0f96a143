"""The ledger: what every tile of every stage was made from, and what came of it.

One record of 80 bytes per stage and tile (per tile and day where a stage keeps days apart), in
blocks of 32 x 32 tiles. The driver alone writes it, in the same commit as the data; so it is never
ahead of the arrays nor behind them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from engine.errors import StoreError
from engine.grid.grid import Tile
from engine.store.arrays import DAYS
from engine.store.chunks import wait_for

__all__ = [
    "MARKS",
    "RATES",
    "RECORD",
    "SIDES",
    "Flag",
    "Ledger",
    "Mark",
    "State",
    "digest_of",
    "recorded_days",
]

SIDES = ("north", "south", "west", "east")
"""Border strips that are digested apart from the whole tile."""

MARKS = ("settings", "support", "inputs", "part")
"""What a fingerprint is made of: the stage's settings, where it is defined, the digests of what it
reads, and what comes from outside the store (items, polygons)."""

RECORD = np.dtype(
    [
        ("fingerprint", "<u8"),  # of what went in, all of it
        ("digest", "<u8"),  # of what came out, whole tile
        *((side, "<u8") for side in SIDES),  # of the strips that neighbours read
        ("state", "u1"),
        ("reason", "u1"),
        ("flags", "u1"),
        ("attempts", "u1"),
        ("run", "<u2"),  # its number in the table of runs (`engine.store.provenance`), 0: unknown
        ("megabytes", "<u2"),  # peak memory of the worker
        ("seconds", "<f4"),
        ("finished", "<u4"),  # Unix time
        *((part, "<u4") for part in MARKS),  # stamps of the fingerprint's parts
    ]
)
assert RECORD.itemsize == 80

RATES = ("records", "seconds", "bytes_read", "bytes_stored")
"""What is summed for each stage over all runs."""

_BLOCK = 32  # tiles each way in a chunk of the ledger
_NOTES = 2000  # failure texts kept per store; more are only counted


class Mark(NamedTuple):
    """A fingerprint with the stamps of its parts."""

    fingerprint: int
    settings: int
    support: int
    inputs: int
    part: int


class State(IntEnum):
    """What became of a tile."""

    NONE = 0
    DONE = 1
    FAILED = 2
    BLOCKED = 3


class Flag(IntFlag):
    """What else there is to say of a finished tile."""

    DEGRADED = 1
    """A neighbour had failed; its halo was read as nodata."""
    TRANSIENT_GAP = 2
    """Something could not be read this time; the tile is stale in the next run."""
    STRUCTURAL_GAP = 4
    """Something can never be read; trying again would change nothing."""
    GPU = 8
    """A network ran on a GPU for it: another device's last bits differ. `Ledger.devices` says which
    kinds there were."""


Key = tuple[str, int, int, int]  # stage, part, block row, block col


class Ledger:
    """All records in memory, by block; written back where they changed.

    Parameters
    ----------
    shape : (int, int)
        Tiles down and across.
    daily : mapping of stage name to bool
        Whether the stage keeps days apart (its parts are positions of the time axis).
    """

    def __init__(self, shape: tuple[int, int], daily: Mapping[str, bool]) -> None:
        self.shape = shape
        self.daily = dict(daily)
        self.notes: dict[str, str] = {}
        self.notes_dropped = 0
        self.settings: dict[str, dict[str, Any]] = {}
        self.rates: dict[str, dict[str, float]] = {}
        self.usage: dict[str, Any] = {}  # by run, as `engine.runs.usage` tells it
        self.devices: dict[str, dict[str, int]] = {}
        self._blocks: dict[Key, npt.NDArray[np.void]] = {}
        self._dirty: set[Key] = set()
        self._notes_dirty = False

    @classmethod
    def of(cls, reader: Any) -> Ledger:
        """The whole ledger of a store's state, of whatever stages it has.

        Parameters
        ----------
        reader : a session of the store.
        """
        root: Any = zarr.open_group(reader.store, mode="r")
        names = sorted(root["ledger"].array_keys()) if "ledger" in root else []
        daily = {name: root["ledger"][name].ndim == 4 for name in names}
        ledger = cls(root["ledger"][names[0]].shape[-3:-1] if names else (0, 0), daily)
        if names:
            ledger.load(reader, root)
        return ledger

    # -- records ------------------------------------------------------------------------------

    def get(self, stage: str, tile: Tile, part: int = 0) -> np.void | None:
        """A tile's record, or None where there is none."""
        block = self._blocks.get((stage, part, tile.row // _BLOCK, tile.col // _BLOCK))
        if block is None:
            return None
        record = block[tile.row % _BLOCK, tile.col % _BLOCK]
        return record if record["state"] else None

    def put(self, stage: str, tile: Tile, record: np.void, part: int = 0) -> None:
        """Set a tile's record; it reaches the store with the next `write`."""
        key = (stage, part, tile.row // _BLOCK, tile.col // _BLOCK)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = np.zeros((_BLOCK, _BLOCK), RECORD)
        block[tile.row % _BLOCK, tile.col % _BLOCK] = record
        self._dirty.add(key)

    def note(self, stage: str, tile: Tile, text: str | None) -> None:
        """Keep the text of a failure or gap, or forget it (None) once the tile is well."""
        name = f"{stage}/{tile}"
        if text is None:
            self._notes_dirty |= self.notes.pop(name, None) is not None
        elif name in self.notes or len(self.notes) < _NOTES:
            self.notes[name] = text[:2000]
            self._notes_dirty = True
        else:
            self.notes_dropped += 1
            self._notes_dirty = True

    def remember(self, stage: str, stamp: int, settings: Mapping[str, Any]) -> None:
        """Keep what a stamp of a stage's settings stands for, so that a plan can tell changes."""
        known = self.settings.setdefault(stage, {})
        if str(stamp) not in known:
            known[str(stamp)] = dict(settings)
            self._notes_dirty = True

    def count(self, stage: str, records: int, seconds: float, read: int, stored: int) -> None:
        """Add to what a stage has cost in all runs: a plan's rates."""
        rate = self.rates.setdefault(stage, dict.fromkeys(RATES, 0.0))
        for name, value in zip(RATES, (records, seconds, read, stored), strict=True):
            rate[name] += value

    def ran_on(self, stage: str, devices: Iterable[str]) -> None:
        """Count a tile of a stage whose networks ran on these kinds of devices."""
        counts = self.devices.setdefault(stage, {})
        for name in devices:
            counts[name] = counts.get(name, 0) + 1

    def records(self, stage: str) -> Iterator[tuple[int, Tile, np.void]]:
        """All records of a stage as (part, tile, record), block by block."""
        for (name, part, row, col), block in sorted(self._blocks.items()):
            if name == stage:
                for r, c in np.argwhere(block["state"]):
                    yield part, Tile(int(row * _BLOCK + r), int(col * _BLOCK + c)), block[r, c]

    def states(self, stage: str) -> npt.NDArray[np.uint8]:
        """State of every tile of a stage without days: uint8 (rows, cols)."""
        return self.column(stage, "state")

    def column(self, stage: str, name: str) -> npt.NDArray[Any]:
        """A field of `RECORD` of every tile of a stage without days: (rows, cols), 0 for none."""
        rows, cols = self.shape
        down, across = -(-rows // _BLOCK), -(-cols // _BLOCK)
        out = np.zeros((down * _BLOCK, across * _BLOCK), RECORD[name])
        for (owner, _, row, col), block in self._blocks.items():
            if owner == stage:
                window = out[row * _BLOCK :, col * _BLOCK :][:_BLOCK, :_BLOCK]
                np.maximum(window, block[name], out=window)
        return out[:rows, :cols]

    # -- the store ----------------------------------------------------------------------------

    def create(self, root: zarr.Group) -> None:
        """Make the ledger's arrays for stages that have none yet."""
        group: Any = root.require_group("ledger")
        group.attrs.setdefault("notes", "{}")
        rows, cols = self.shape
        for stage, daily in self.daily.items():
            if stage in group:
                continue
            group.create_array(
                stage,
                shape=((DAYS,) if daily else ()) + (rows, cols, RECORD.itemsize),
                chunks=((1,) if daily else ()) + (_BLOCK, _BLOCK, RECORD.itemsize),
                dtype="uint8",
                fill_value=0,
                dimension_names=(("time",) if daily else ()) + ("tile_row", "tile_col", "byte"),
                compressors=[
                    BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle"),
                    Crc32cCodec(),
                ],
                attributes={"record": json.dumps(RECORD.descr)},
            )

    def write(self, root: zarr.Group) -> None:
        """Write the blocks that changed since the last `write` or `load`."""
        group: Any = root["ledger"]
        rows, cols = self.shape
        for key in self._dirty:
            stage, part, row, col = key
            r0, c0 = row * _BLOCK, col * _BLOCK
            r1, c1 = min(r0 + _BLOCK, rows), min(c0 + _BLOCK, cols)
            block = np.ascontiguousarray(self._blocks[key][: r1 - r0, : c1 - c0])
            raw = block.view(np.uint8).reshape(r1 - r0, c1 - c0, RECORD.itemsize)
            index: tuple[Any, ...] = (slice(r0, r1), slice(c0, c1))
            group[stage][(part, *index) if self.daily[stage] else index] = raw
        if self._dirty:
            group.attrs["rates"] = json.dumps(self.rates)
            group.attrs["usage"] = json.dumps(self.usage)
            group.attrs["devices"] = json.dumps(self.devices)
        if self._notes_dirty:
            group.attrs["notes"] = json.dumps(self.notes)
            group.attrs["notes_dropped"] = self.notes_dropped
            group.attrs["settings"] = json.dumps(self.settings)

    def touch(self) -> None:
        """Let the next `write` write everything, into a store that has nothing of it."""
        self._dirty = set(self._blocks)
        self._notes_dirty = True

    def written(self) -> None:
        """Say that the last `write` was committed."""
        self._dirty.clear()
        self._notes_dirty = False

    def load(self, session: Any, root: zarr.Group) -> None:
        """Read the whole ledger of a session: only chunks that exist are touched."""
        group: Any = root["ledger"]
        self.notes = json.loads(str(group.attrs.get("notes", "{}")))
        self.notes_dropped = int(group.attrs.get("notes_dropped", 0))
        self.settings = json.loads(str(group.attrs.get("settings", "{}")))
        self.rates = json.loads(str(group.attrs.get("rates", "{}")))
        self.usage = json.loads(str(group.attrs.get("usage", "{}")))
        self.devices = json.loads(str(group.attrs.get("devices", "{}")))
        rows, cols = self.shape
        for stage, daily in self.daily.items():
            if stage not in group:
                continue
            array = group[stage]
            form = _form_of(array)
            for chunk in _chunks(session, f"/ledger/{stage}"):
                part, row, col = (chunk[0], chunk[1], chunk[2]) if daily else (0, *chunk[:2])
                r0, c0 = row * _BLOCK, col * _BLOCK
                r1, c1 = min(r0 + _BLOCK, rows), min(c0 + _BLOCK, cols)
                index: tuple[Any, ...] = (slice(r0, r1), slice(c0, c1))
                raw = np.ascontiguousarray(array[(part, *index) if daily else index])
                block = np.zeros((_BLOCK, _BLOCK), RECORD)
                found = raw.view(form)[..., 0]
                for name in set(RECORD.names or ()) & set(form.names or ()):
                    block[name][: r1 - r0, : c1 - c0] = found[name]
                self._blocks[stage, part, row, col] = block


def digest_of(arrays: Iterable[npt.NDArray[Any]]) -> int:
    """Digest of decoded values, one array after the other; each lies in memory row by row.

    Of our own arrays, against change and not against malice: ten times as fast as a secure one.
    """
    found = xxhash.xxh3_64()
    for values in arrays:
        found.update(values.data)
    return found.intdigest()


def _form_of(array: Any) -> np.dtype[np.void]:
    """The form of a ledger's records, as the array says it; of another version what both know."""
    try:
        told = json.loads(str(array.attrs["record"]))
        form = np.dtype([(str(name), str(kind)) for name, kind in told])
        fits = form.itemsize == array.shape[-1] and not form.hasobject
        known = fits and "state" in (form.names or ())
    except (KeyError, ValueError, TypeError):
        known = False
    if not known:
        raise StoreError(
            "the store's ledger was written by another version of natmap",
            got=f"records of {array.shape[-1]} bytes",
            expected=f"{RECORD.itemsize} bytes",
            remedy="open it with the natmap that made it, or name a new folder in `store`",
        )
    return form


def recorded_days(session: Any, stage: str) -> list[int]:
    """Positions on the time axis of days that a daily stage has some record of, ascending.

    It looks at what chunks there are and reads none of them: a chunk of the ledger is a day of
    32 x 32 tiles, so decades of a country are some ten thousand references.
    """
    root: Any = zarr.open_group(session.store, mode="r")
    if f"ledger/{stage}" not in root:
        return []
    return sorted({chunk[0] for chunk in _chunks(session, f"/ledger/{stage}")})


def _chunks(session: Any, path: str) -> Iterable[tuple[int, ...]]:
    async def collect() -> list[tuple[int, ...]]:
        return [tuple(c) async for c in session.chunk_coordinates(path)]

    return wait_for(collect())
