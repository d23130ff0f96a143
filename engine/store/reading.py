"""Reading a store: what cannot be read is said as an error of natmap's, wherever it shows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import icechunk
from zarr.storage import WrapperStore

from engine.errors import NatmapError, StoreError, first_line, refusal_of

__all__ = ["Reader", "damage_of"]

_CODECS = ("checksum do not match", "checksums do not match", "blosc", "zstd", "Zstd")
"""Words of the errors with which codecs answer bytes that are not what was written."""

_FRAME = r"^[\s|│×╰─▶├`>-]*(x\s+)?|\s+$"
"""What Icechunk frames its words with; without a locale in letters."""


def damage_of(error: BaseException, place: object = "the store") -> NatmapError | None:
    """What an error of the store's libraries says of the store; None of any other error.

    A full disk or missing rights are no damage, though the libraries say them as they say that.
    """
    codec = isinstance(error, ValueError | RuntimeError) and any(w in str(error) for w in _CODECS)
    if not isinstance(error, icechunk.IcechunkError) and not codec:
        return None
    if refused := refusal_of(error, StoreError):
        return refused
    return StoreError(
        "the store cannot be read: it is damaged, or out of reach",
        got=f"{place}: {_words(error)}",
        remedy="`natmap verify STORE` looks at all of it, and --heal lets the next run make tiles "
        "anew; a store whose refs, snapshots or manifests are gone comes back from a copy only",
    )


class Reader:
    """A read-only session whose errors are natmap's.

    Parameters
    ----------
    session : of Icechunk.
    place : named in errors.
    """

    def __init__(self, session: icechunk.Session, place: object) -> None:
        self._session, self._place = session, str(place)
        self.snapshot_id: str = session.snapshot_id
        self.store = _Checked(session.store, self._place)

    async def chunk_coordinates(self, path: str) -> AsyncIterator[tuple[int, ...]]:
        """Chunks of an array that are there."""
        try:
            async for chunk in self._session.chunk_coordinates(path):
                yield tuple(chunk)
        except icechunk.IcechunkError as error:
            raise damage_of(error, self._place) or error from error


class _Checked(WrapperStore[Any]):
    """A store of Zarr's whose errors are natmap's; it pickles as the one within."""

    def __init__(self, store: Any, place: str) -> None:
        super().__init__(store)
        self._place = place

    def _with_store(self, store: Any) -> _Checked:
        return type(self)(store, self._place)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        """Bytes of a key, None where there is none."""
        return await self._try(self._store.get(*args, **kwargs))

    async def get_partial_values(self, *args: Any, **kwargs: Any) -> Any:
        """Bytes of several keys."""
        return await self._try(self._store.get_partial_values(*args, **kwargs))

    async def exists(self, key: str) -> bool:
        """Whether a key is there."""
        return bool(await self._try(self._store.exists(key)))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Keys in a group."""
        try:
            async for key in self._store.list_dir(prefix):
                yield key
        except icechunk.IcechunkError as error:
            raise damage_of(error, self._place) or error from error

    async def _try(self, work: Any) -> Any:
        try:
            return await work
        except icechunk.IcechunkError as error:
            raise damage_of(error, self._place) or error from error


def _words(error: BaseException) -> str:
    """The first line that says something: Icechunk frames what it says with bars."""
    lines = (re.sub(_FRAME, "", line) for line in str(error).splitlines())
    return next((line for line in lines if line), first_line(error))
