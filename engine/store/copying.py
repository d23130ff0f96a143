"""A store copied into another of the present form: arrays under other names, ledger, releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import zarr

from engine.grid.grid import Grid
from engine.store.arrays import ArraySpec
from engine.store.chunks import wait_for
from engine.store.digests import commit
from engine.store.ledger import Ledger
from engine.store.location import Location
from engine.store.repository import Store

__all__ = ["copy_store"]

_COMMIT = 256  # chunks


def copy_store(
    old: Store,
    target: Location,
    names: Mapping[str, str],
    tell: Callable[[str], None] = lambda text: None,
) -> Store:
    """Copy a store, its releases included.

    A copy that breaks off leaves a store without the ledger of its last state.

    Parameters
    ----------
    old : of any version; the caller holds its lock.
    target : a place that holds no store.
    names : new name of each array that gets one.
    tell : gets a line of text for each release.

    Raises
    ------
    StoreError
        Where the target holds something, or cannot be written.
    """
    specs, grid, known = specs_of(old), grid_of(old), old.identity
    form = ("crs", "anchor", "tile_size", "bounds", "arrays")
    more = {key: value for key, value in known.items() if key not in form}
    renamed = [_renamed(spec, names) for spec in specs]
    new = Store.create(target, grid, renamed, **more)
    with new.lock():
        before: str | None = None
        for tag in (*_by_time(old), None):
            tell(f"copying {tag or 'the newest state'}")
            _copy_state(old, new, tag, before, specs, names)
            if tag is not None:
                new.tag(tag)
            before = tag
    for name, path in old.files():
        with new.place.replace(name) as copy:
            copy.write_bytes(path.read_bytes())
    return new


def grid_of(store: Store) -> Grid:
    """The grid that a store was made for."""
    known = store.identity
    return Grid.fit(
        tuple(known["bounds"]),
        crs=known["crs"],
        tile_size=known["tile_size"],
        anchor=tuple(known["anchor"]),
    )


def specs_of(store: Store) -> list[ArraySpec]:
    """Forms of a store's arrays, as far as they say it."""
    root: Any = zarr.open_group(store.reader().store, mode="r")
    found = []
    for path, form in store.identity["arrays"].items():
        array = root[path]
        dims = form["dims"]
        leading = tuple((dim, tuple(form["labels"][dim])) for dim in dims if dim in form["labels"])
        attrs = {k: v for k, v in array.attrs.items() if k not in ("_FillValue", "grid_mapping")}
        if "_FillValue" in array.attrs and not np.issubdtype(array.dtype, np.floating):
            attrs["_FillValue"] = array.attrs["_FillValue"]
        found.append(
            ArraySpec(
                path,
                form["dtype"],
                form.get("resolution", 0.0),
                form.get("chunk", 0),
                array.fill_value.item(),
                daily=dims[0] == "time" if dims else False,
                leading=leading,
                attrs=attrs,
                codec="lz4" if "lz4" in str(array.compressors) else "zstd",
                extent="pixels" if "resolution" in form else "area",
            )
        )
    return found


def _renamed(spec: ArraySpec, names: Mapping[str, str]) -> ArraySpec:
    return replace(spec, path=names.get(spec.path, spec.path))


def _by_time(store: Store) -> list[str]:
    """Releases, the oldest first, so that each is copied as what it changed."""
    history = {info.id: k for k, info in enumerate(store.history())}
    tags = {tag: store.reader(tag).snapshot_id for tag in store.tags()}
    return sorted(tags, key=lambda tag: -history.get(tags[tag], len(history)))


def _copy_state(
    old: Store,
    new: Store,
    tag: str | None,
    before: str | None,
    specs: list[ArraySpec],
    names: Mapping[str, str],
) -> None:
    """One state of all arrays, and of the ledger; chunks that the state before had are there."""
    reader = old.reader(tag)
    root: Any = zarr.open_group(reader.store, mode="r")
    past: Any = None if before is None else zarr.open_group(old.reader(before).store, mode="r")
    session, written = new.writer(), 0
    for spec in specs:
        if spec.path not in root:
            continue
        source = root[spec.path]
        for place in wait_for(_places(reader, f"/{spec.path}")):
            index = tuple(
                slice(k * size, min((k + 1) * size, whole))
                for k, size, whole in zip(place, source.chunks, source.shape, strict=True)
            )
            values = np.asarray(source[index])
            if past is not None and spec.path in past:
                had = past[spec.path][index]
                if np.array_equal(had, values, equal_nan=values.dtype.kind == "f"):
                    continue
            target: Any = zarr.open_group(session.store, mode="r+")
            array = target[names.get(spec.path, spec.path)]
            array.with_config({"write_empty_chunks": True})[index] = values
            written += 1
            if written % _COMMIT == 0:
                commit(session, f"copy {written} chunks")
                session = new.writer()
    _copy_ledger(reader, root, session)
    if session.has_uncommitted_changes:
        commit(session, f"copy {tag or 'the newest state'}")


def _copy_ledger(reader: Any, root: Any, session: Any) -> None:
    if "ledger" not in root:
        return
    stages = list(root["ledger"].array_keys())
    daily = {name: root["ledger"][name].ndim == 4 for name in stages}
    shape = root["ledger"][stages[0]].shape[-3:-1]
    ledger = Ledger(shape, daily)
    ledger.load(reader, root)
    target = zarr.open_group(session.store, mode="r+")
    ledger.create(target)
    ledger.touch()
    ledger.write(target)


async def _places(session: Any, path: str) -> list[tuple[int, ...]]:
    return [tuple(c) async for c in session.chunk_coordinates(path)]
