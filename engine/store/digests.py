"""Digests of what no record of the ledger covers: metadata of a store, and files beside it.

Each digest lies in what it is of: that of a state with its commit, that of a file in the file.
So both are written in one, and a driver that is killed leaves no file beside another one's digest.
What was made before there were any is read as it was, and is called unverified by `verify`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
from zarr.core.buffer import default_buffer_prototype

from engine.store.chunks import wait_for
from engine.store.reading import Reader

__all__ = ["BLANK", "MARK", "commit", "is_sealed", "said_of", "seal", "told_by"]

MARK = "natmap:sha256"
"""Key under which a file names its digest."""
BLANK = "0" * 64
"""In place of a digest while it is made."""

_KEY = "natmap:state"  # under which a commit names the digest of its state
_RECORDS = ("ledger", "runs")  # groups whose chunks no digest of a tile covers
_SEAL = re.compile(MARK.encode() + rb".{0,16}?([0-9a-f]{64})", re.DOTALL)


def commit(session: icechunk.Session, message: str) -> str:
    """Commit a session with the digest of its state: every commit of natmap's is made here."""
    return session.commit(message, {_KEY: said_of(session)})


def told_by(info: icechunk.SnapshotInfo) -> str | None:
    """The digest of its state that a commit tells; None of one made before there were any."""
    found = info.metadata.get(_KEY)
    return None if found is None else str(found)


def said_of(session: icechunk.Session | Reader) -> str:
    """The digest of a state: of its metadata, and of which chunks its records have.

    Metadata are the documents of all groups and arrays as they are stored. A chunk of a tile that a
    manifest has lost is missed by the tile's own digest; one of the ledger would be missed by
    nothing, and its tiles would seem never to have been made. It takes a microsecond and a half
    for each chunk of the ledger.
    """
    return str(wait_for(_digest(session)))


async def _digest(session: icechunk.Session | Reader) -> str:
    found = hashlib.sha256()
    store = session.store
    async for path in _nodes(store):
        key = f"{path}/zarr.json".lstrip("/")
        document = await store.get(key, default_buffer_prototype())
        content = b"" if document is None else document.to_bytes()
        found.update(f"{key} {len(content)}\n".encode() + content)
        group, _, name = path.partition("/")
        if name and group in _RECORDS:
            # a set: Icechunk 1.1 lists chunks of a session twice until they are committed
            chunks = sorted({tuple(at) async for at in session.chunk_coordinates(f"/{path}")})
            found.update(f"{len(chunks)} chunks\n".encode() + np.array(chunks, "<i8").tobytes())
    return found.hexdigest()


async def _nodes(store: Any) -> AsyncIterator[str]:
    """The root, its groups, and their arrays: a store of natmap's has no other levels."""
    yield ""
    for group in sorted([name async for name in store.list_dir("")]):
        if group != "zarr.json":
            yield group
            inner = [name async for name in store.list_dir(group)]
            for name in sorted(set(inner) - {"zarr.json"}):
                yield f"{group}/{name}"


# -- files -------------------------------------------------------------------------------------


def seal(path: Path) -> None:
    """Put a file's digest into it, where it has `MARK` followed by `BLANK`.

    The digest is that of the file with `BLANK`.
    """
    content = path.read_bytes()
    place = _place(content)
    if place is None or content[place] != BLANK.encode():
        raise AssertionError(f"{path.name} has no room for a digest")
    digest = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content[: place.start] + digest + content[place.stop :])


def is_sealed(content: bytes) -> bool | None:
    """Whether a file is as it was written; None of one that has no digest."""
    place = _place(content)
    if place is None:
        return None
    blank = content[: place.start] + BLANK.encode() + content[place.stop :]
    return hashlib.sha256(blank).hexdigest().encode() == content[place]


def _place(content: bytes) -> slice | None:
    found = None
    for found in _SEAL.finditer(content):  # noqa: B007  # the last one: what lies at the end
        pass
    return None if found is None else slice(*found.span(1))
