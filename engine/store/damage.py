"""What is raised where a store cannot be opened or made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import icechunk

from engine.errors import StoreError, first_line, refusal_of
from engine.store.location import Bucket, Location
from engine.store.reading import damage_of

__all__ = ["making_errors", "opening_errors"]


@contextmanager
def opening_errors(place: Location) -> Iterator[None]:
    try:
        with place.errors("opened") if isinstance(place, Bucket) else nullcontext():
            yield
    except icechunk.IcechunkError as error:
        raise damage_of(error, place) or error from error
    except (KeyError, FileNotFoundError) as error:
        raise StoreError(
            "this is not a store of natmap, or it is damaged", got=f"{place}: {first_line(error)}"
        ) from error


@contextmanager
def making_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, icechunk.IcechunkError) as error:
        if refused := refusal_of(error, StoreError):
            raise refused from error
        raise StoreError(
            "the store cannot be made",
            got=f"{folder}: {first_line(error)}",
            remedy="name another folder in `store`",
        ) from error
