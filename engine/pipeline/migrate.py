"""Migrate: a store of an older form, copied into one that runs can continue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.errors import StoreError
from engine.products.registry import PRODUCTS
from engine.store.copying import copy_store
from engine.store.location import location_of
from engine.store.repository import VERSION, Store

__all__ = ["migrate"]


def migrate(
    old: str | Path, new: str | Path, *, tell: Callable[[str], None] = lambda text: None
) -> None:
    """Copy a store into one of the present form: all arrays, records and releases.

    What was computed stays computed: `run` on the copy finds nothing stale. The old store is left
    as it is. Of what its tiles were made with the copy says that it is unknown.

    Parameters
    ----------
    old : folder, or ``s3://bucket/prefix``, of a store of an older form.
    new : the same, where nothing is yet.
    tell : gets a line of text for each release.

    Raises
    ------
    StoreError
        Where the store needs no migration, or the new place cannot be written or holds something.
    LockedError
        Where a run is at work on the old store.
    """
    source = Store.open(old)
    if source.version == VERSION:
        raise StoreError(
            "the store is of the present form", got=f"{old}: version {VERSION}", remedy="run on it"
        )
    target = location_of(new)
    if Store.exists(target):
        raise StoreError(
            "there is a store already",
            got=str(new),
            remedy="name another place; a copy that broke off can be removed",
        )
    there = set(source.identity["arrays"])
    names: dict[str, str] = {}
    for product in PRODUCTS.values():
        back = {before: now for now, before in product.before.items() if before in there}
        # arrays of one product may have the names that another's had
        if set(back) - set(product.before):
            names = back
    with source.lock():
        copy_store(source, target, names, tell)
