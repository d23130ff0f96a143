"""The table of runs: what each was told and ran with; a record of the ledger names its run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from engine.errors import StoreError
from engine.files import scratch
from engine.store.digests import commit
from engine.store.repository import Store

__all__ = ["begin_run", "frozen_in", "read_items", "read_runs"]

_MOST = np.iinfo(np.uint16).max  # numbers that a record has room for
_CHUNK = 2**24  # bytes of a snapshot that lie together
_WHEN = ("started",)  # what may differ between two runs that are one in the table


def begin_run(
    store: Store, facts: Mapping[str, Any], items: Mapping[str, tuple[str, bytes]]
) -> int:
    """Enter a run in the table; the caller holds the store's lock.

    A run that was told the same as the last one, and ran with the same, is that one resumed.

    Parameters
    ----------
    store : Store
    facts : JSON values, without secrets: recipe, card, software, started.
    items : frozen catalogues by the recipe's section: what names their content, and their bytes.

    Returns
    -------
    Its number, from 1

    Raises
    ------
    StoreError
        Where the table is full.
    """
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    group: Any = root.require_group("runs")
    known = json.loads(str(group.attrs.get("runs", "[]")))
    entry = {**facts, "items": {section: name for section, (name, _) in items.items()}}
    if known and _same(known[-1], entry):
        return len(known)
    if len(known) == _MOST:
        raise StoreError("the store's table of runs is full", got=f"{_MOST} runs")
    for name, content in items.values():
        if name not in group:
            values = np.frombuffer(content, np.uint8)
            array = group.create_array(
                name,
                shape=values.shape,
                chunks=(min(max(len(values), 1), _CHUNK),),
                dtype="uint8",
                dimension_names=("byte",),
                compressors=[ZstdCodec(), Crc32cCodec()],
            )
            array[:] = values
    group.attrs["runs"] = json.dumps([*known, entry])
    commit(session, f"run {len(known) + 1}")
    return len(known) + 1


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    def told(entry: Mapping[str, Any]) -> str:
        kept = {name: value for name, value in entry.items() if name not in _WHEN}
        return json.dumps(kept, sort_keys=True)

    return told(one) == told(other)


def read_runs(root: zarr.Group) -> Sequence[dict[str, Any]]:
    """All runs, the first is number 1; none of a store that kept no table."""
    if "runs" not in root:
        return []
    found: list[dict[str, Any]] = json.loads(str(root["runs"].attrs.get("runs", "[]")))
    return found


def read_items(root: zarr.Group, name: str) -> bytes:
    """A frozen catalogue (stac-geoparquet) by the name that a run has for it.

    Raises
    ------
    KeyError
        Where there is none of this name.
    """
    group: Any = root["runs"]
    return bytes(np.asarray(group[name][:]).tobytes())


@contextmanager
def frozen_in(root: zarr.Group, number: int = -1) -> Iterator[dict[str, Path]]:
    """Catalogues of a run in a store's table as files, by the recipe's section.

    None of a store that keeps no table. `number` is the run's, from 1; by default the last.
    """
    runs = read_runs(root)
    told = runs[number if number < 0 else number - 1] if runs and number else {}
    with scratch() as folder:
        found = {}
        for section, name in (told.get("items") or {}).items():
            found[section] = folder / f"{section}.parquet"
            found[section].write_bytes(read_items(root, name))
        yield found
