"""Whether a place keeps the promises that a store relies on.

Two drivers that both believe they have written a new object would lose each other's commits: so a
bucket must refuse to create what is there, and to replace what has changed, however close two
requests come. Some services take the conditions and ignore them.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

from engine.errors import StoreError
from engine.store.location import Bucket, version_of

__all__ = ["MANY_CHUNKS", "count_chunks", "race_for", "require_conditions"]

MANY_CHUNKS = 1_000_000
"""Files above which a folder is slow to list, to copy and to collect."""

_LONG = timedelta(hours=1)  # that a race takes at most
_REFUSED = (AlreadyExistsError, PreconditionError)


def require_conditions(bucket: Bucket) -> None:
    """Make sure that a bucket refuses what a condition forbids, one request after the other.

    Raises
    ------
    StoreError
        Where it does not, or cannot be written at all.
    """
    _probe(bucket, 1, 1)


def race_for(bucket: Bucket, racers: int = 8, rounds: int = 5) -> None:
    """Let writers race to create and to replace one object: of each round one must win.

    Raises
    ------
    StoreError
        Where two win, or nobody does.
    """
    _probe(bucket, racers, rounds)


def _probe(bucket: Bucket, racers: int, rounds: int) -> None:
    probes = bucket.key("probes/")
    key = f"{probes}{uuid.uuid4().hex}"

    def write(racer: int, mode: Any) -> bool:
        try:
            obstore.put(bucket.objects, key, f"{racer} {uuid.uuid4()}".encode(), mode=mode)
        except _REFUSED:
            return False
        return True

    def winners(mode: Callable[[], Any], count: int) -> int:
        condition, line = mode(), Barrier(count)

        def go(racer: int) -> bool:
            line.wait()
            return write(racer, condition)

        with ThreadPoolExecutor(count) as pool:
            return sum(pool.map(go, range(count)))

    def seen() -> dict[str, str]:
        return version_of(obstore.head(bucket.objects, key))

    with bucket.errors("written"):
        _sweep(bucket, probes)
        try:
            for _ in range(rounds):
                _require_one(bucket, "create an object", winners(lambda: "create", racers), racers)
                old = seen()
                _require_one(bucket, "replace an object", winners(seen, racers), racers)
                # and what was true once is not enough
                for late, verb in (("create", "create an object that is there"), (old, "replace")):
                    if write(0, late):
                        raise _broken(bucket, f"let a late writer {verb}")
                obstore.delete(bucket.objects, key)
        finally:
            with contextlib.suppress(BaseError, FileNotFoundError, NotFoundError):
                obstore.delete(bucket.objects, key)


def _sweep(bucket: Bucket, probes: str) -> None:
    """Remove what killed drivers left."""
    old = datetime.now(UTC) - _LONG
    for part in obstore.list(bucket.objects, prefix=probes):
        if left := [o["path"] for o in part if o["last_modified"] < old]:
            obstore.delete(bucket.objects, left)


def _require_one(bucket: Bucket, verb: str, won: int, of: int) -> None:
    if won != 1:
        raise _broken(bucket, f"{won} of {of} writers at once could {verb}; one should")


def _broken(bucket: Bucket, what: str) -> StoreError:
    return StoreError(
        "this object store does not keep conditional writes; commits would be lost",
        got=f"{bucket}: {what}",
        expected="If-None-Match and If-Match, as Amazon S3, Ceph and MinIO keep them",
        remedy="keep the store in another service, or in a folder",
    )


def count_chunks(folder: Path, most: int = 10 * MANY_CHUNKS) -> int:
    """Chunk files of a store in a folder, counted up to `most`."""
    count = 0
    try:
        with os.scandir(folder / "chunks") as found:
            for _ in found:
                count += 1
                if count >= most:
                    break
    except FileNotFoundError:
        return 0
    return count
