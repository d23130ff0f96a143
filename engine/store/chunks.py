"""Which chunks are a tile's own, and which a fork changed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engine.errors import ChunkError
from engine.grid.grid import Grid, Tile
from engine.store.arrays import ArraySpec

__all__ = [
    "Changes",
    "changes_of",
    "check_changes",
    "has_blank_chunk",
    "stored_bytes",
    "tile_chunks",
    "wait_for",
]

T = TypeVar("T")

Changes = dict[str, list[Any]]
"""Chunks by array; what is no chunk under the name of its kind, which has a space in it."""


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; in a thread where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


def tile_chunks(spec: ArraySpec, grid: Grid, tile: Tile, part: int = 0) -> set[tuple[int, ...]]:
    """Coordinates of the chunks of an array that are a tile's own."""
    lead = ((part,) if spec.daily else ()) + (0,) * len(spec.leading)
    if spec.extent == "area":
        return {lead}
    n = grid.pixels(spec.resolution) // spec.chunk
    return {(*lead, tile.row * n + r, tile.col * n + c) for r in range(n) for c in range(n)}


def changes_of(fork: Any) -> Changes:
    """What a fork changed, by its own account; asked by the worker, who has the time."""
    status = fork.status()
    others = {
        "new groups": status.new_groups,
        "new arrays": status.new_arrays,
        "deleted groups": status.deleted_groups,
        "deleted arrays": status.deleted_arrays,
        "changed groups": status.updated_groups,
        "changed arrays": status.updated_arrays,
    }
    found: Changes = {name: sorted(value) for name, value in others.items() if value}
    for path, chunks in status.updated_chunks.items():
        found[path.strip("/")] = [tuple(chunk) for chunk in chunks]
    return found


def stored_bytes(fork: Any, changes: Changes, paths: Iterable[str]) -> int:
    """Bytes of the chunks that a fork wrote into some arrays, as they are stored."""
    chunks = [(path, chunk) for path in paths for chunk in changes.get(path, ())]
    keys = ["/".join([path, "c", *map(str, chunk)]) for path, chunk in chunks]

    async def ask() -> int:
        return sum(await asyncio.gather(*map(fork.store.getsize, keys)))

    return wait_for(ask())


def check_changes(changes: Changes, own: Mapping[str, set[tuple[int, ...]]]) -> None:
    """Make sure that a fork changed chunks of its own tile, and nothing else.

    Two forks that write one chunk lose one of the writes without an error when they are merged;
    this is where it would show.

    Raises
    ------
    ChunkError
    """
    foreign = {
        path: strange
        for path, found in changes.items()
        if (strange := sorted(set(found) - own.get(path, set())))
    }
    if foreign:
        raise ChunkError(
            "a task changed more than its own tile's chunks; nothing of it is kept",
            got=foreign,
            expected="chunks of " + ", ".join(sorted(own)),
        )


def has_blank_chunk(values: npt.NDArray[Any], spec: ArraySpec) -> bool:
    """Whether some chunk holds nothing but fill, and should not be stored."""
    if spec.extent == "area":
        return False
    side = spec.chunk

    def blank(part: npt.NDArray[Any]) -> bool:
        if isinstance(spec.fill, float) and np.isnan(spec.fill):
            return bool(np.isnan(part).all())
        return bool((part == spec.fill).all())

    chunks = (
        values[..., top : top + side, left : left + side]
        for top in range(0, values.shape[-2], side)
        for left in range(0, values.shape[-1], side)
    )
    # a few pixels tell of most that they are not blank
    return any(blank(chunk[..., ::37, ::37]) and blank(chunk) for chunk in chunks)
