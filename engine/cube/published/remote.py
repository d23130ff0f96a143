"""Zarr on a web server: each file is fetched by ranges that are checked, from public hosts.

A web server lists no folders. So a store says by consolidated metadata which groups it has, or the
group itself is named.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import quote

import zarr
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype

from engine.addresses import public_address
from engine.cube.published.arrays import most_of, reading
from engine.cube.ranges import RangeError, RemoteFile
from engine.errors import ReadError, RecipeError

__all__ = ["open_address"]

_KNOWN = 1024  # files whose size and version are remembered
_MISSING = 404


class _Server(Store):
    """A folder of a web server, read only."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, address: str) -> None:
        super().__init__(read_only=True)
        self.address = address
        self._files: OrderedDict[str, RemoteFile] = OrderedDict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Server) and other.address == self.address

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        found = await asyncio.to_thread(self._fetch, key, byte_range)
        buffers = (prototype or default_buffer_prototype()).buffer
        return None if found is None else buffers.from_bytes(found)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        asked = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*asked))

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._fetch, key, RangeByteRequest(0, 1)) is not None

    def _fetch(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        """Bytes of a file; None where the server has none of that name, and says so."""
        file = self._files.pop(key, None) or RemoteFile(f"{self.address}/{quote(key)}")
        self._files[key] = file
        while len(self._files) > _KNOWN:
            self._files.popitem(last=False)
        try:
            size = file.size()
            first, stop = 0, size
            if isinstance(byte_range, RangeByteRequest):
                first, stop = byte_range.start, min(byte_range.end, size)
            elif isinstance(byte_range, OffsetByteRequest):
                first = byte_range.offset
            elif isinstance(byte_range, SuffixByteRequest):
                first = max(size - byte_range.suffix, 0)
            if stop - first > most_of(key):
                raise ReadError(
                    "a file of the Zarr store is too large",
                    got=f"{public_address(file.href)}: {(stop - first) / 2**20:.0f} MiB at once",
                    expected=f"at most {most_of(key) >> 20} MiB",
                    remedy="copy the part that is wanted, in smaller chunks",
                )
            return file.read(first, stop - 1) if first < stop else b""
        except RangeError as error:
            if error.status == _MISSING:
                return None
            raise ReadError(
                "a file of the Zarr store cannot be fetched",
                got=f"{public_address(file.href)}: {error}",
                transient=True,
            ) from error

    async def set(self, key: str, value: Buffer) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    def list(self) -> AsyncIterator[str]:
        raise NotImplementedError

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError


def open_address(address: str) -> zarr.Group:
    """The root of a Zarr v3 store, or a group of one, on a web server.

    Parameters
    ----------
    address : of http or https. Its own host may be private; no redirect leads to another such one.

    Raises
    ------
    RecipeError
        Where the address holds a password or a signature: it would be stored with the result.
    ReadError
        Where there is no store of version 3, or it cannot be fetched.
    """
    plain = public_address(address)
    if plain != address or "?" in address:
        raise RecipeError(
            "the address of a Zarr store has a password, a signature or other parameters",
            got=plain.partition("?")[0],
            expected="an address that anybody may read",
            remedy="copy the part that is wanted to a folder, and name that",
        )
    store = _Server(address.rstrip("/"))
    said = store._fetch("zarr.json", None)
    if said is None:
        raise ReadError(
            "this is not a Zarr store of version 3",
            got=f"{plain}: no zarr.json",
            expected="the address of a folder with zarr.json",
        )
    with reading(f"the Zarr store {plain}"):
        document: Any = json.loads(said)
        known = isinstance(document, dict) and bool(document.get("consolidated_metadata"))
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=known)
