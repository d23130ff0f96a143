"""One thing is loaded while the one before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from engine.accounting import Pool

__all__ = ["ahead"]

T = TypeVar("T")
Loaded = TypeVar("Loaded")


def ahead(load: Callable[[T], Loaded], wanted: Iterable[T]) -> Iterator[tuple[T, Future[Loaded]]]:
    """Each of `wanted` with what `load` makes of it, the next being loaded meanwhile.

    Memory holds two. An error of `load` is that of its own future: the others come all the same.
    """
    with Pool(max_workers=1) as pool:
        before: tuple[T, Future[Loaded]] | None = None
        for one in wanted:
            coming = one, pool.submit(load, one)
            if before is not None:
                yield before
            before = coming
        if before is not None:
            yield before
