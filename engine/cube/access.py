"""How assets are opened: signed, tried again, and checked against the catalogue where asked for.

A range read over a network cannot be checked: the checksum is of the whole file. So with `verify`
a remote file is fetched whole, once per machine, checked, and read from the copy. Copies lie in a
private folder, the oldest go first; nothing is read from it that was not checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import rasterio
import rasterio.shutil
from filelock import FileLock
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioIOError

from engine.accounting import spent
from engine.addresses import is_http, public_address
from engine.cube.gateway import lend
from engine.cube.gdal import gdal_settings, is_remote
from engine.cube.ranges import download
from engine.environment import number
from engine.errors import ReadError, RunError
from engine.items import Asset, Item, Sign, unsigned

__all__ = ["PLAIN", "Access", "count_unverifiable", "require_folder"]

_HASHES = {  # multihash codes
    0x11: "sha1",
    0x12: "sha256",
    0x13: "sha512",
    0x14: "sha3_512",
    0x16: "sha3_256",
    0xD5: "md5",
}
_STALE = 3600.0  # seconds after which a half-fetched file belongs to a dead process


@dataclass(frozen=True)
class Access:
    """How assets are opened.

    Attributes
    ----------
    sign : Sign
        Makes an address ready for reading, just before it is opened.
    retries : int
        Further tries of a transient failure, with growing pauses.
    verify : bool
        Read only files whose bytes are those of the item's ``file:checksum``, where it has one.
    hosts : set of str or None
        Hosts that may be private. None: of a catalogue on this machine, where each address may,
        and leads to no other private one.
    """

    sign: Sign = unsigned
    retries: int = 2
    verify: bool = False
    hosts: frozenset[str] | None = None

    def place(self, asset: Asset, what: str, *, again: bool = False) -> str:
        """What GDAL is to open: an address, or the path of a file that was checked.

        Parameters
        ----------
        asset : Asset
        what : names the asset in errors.
        again : the last try failed.

        Raises
        ------
        ReadError
            Where the file is not the one that the catalogue describes. A further try may help:
            bits flip on the way, and files are replaced by halves.
        """
        with spent("sign"):
            href = self.sign(asset.href, again=again)
        declared = _parse(asset.checksum) if self.verify else None
        if declared is None:
            return lend(asset.href, href, self.hosts) if is_http(href) else href
        if not is_remote(href):
            status = os.stat(href)
            found = _hash_local(href, declared[0], status.st_size, status.st_mtime_ns)
            _require(found, declared, asset, what)
            return href
        return str(_fetch(href, declared, asset, what, self.hosts))


PLAIN = Access()
"""For files that anybody may read, unchecked."""


def count_unverifiable(items: Iterable[Item], names: Sequence[str]) -> tuple[int, int]:
    """Assets of these names, and how many of them have no checksum that can be checked."""
    assets = [item.assets[name] for item in items for name in names if name in item.assets]
    return len(assets), sum(_parse(asset.checksum) is None for asset in assets)


def _parse(text: str | None) -> tuple[str, str] | None:
    """A ``file:checksum`` as hash function and digest, both as hashlib writes them.

    It is a multihash in hexadecimal: code, length in bytes, digest, the first two as varints. None
    where there is none, it is malformed, or its function is not known here.
    """
    try:
        raw = bytes.fromhex(text or "")
        code, raw = _varint(raw)
        length, raw = _varint(raw)
    except (ValueError, IndexError):
        return None
    name = _HASHES.get(code)
    if name is None or len(raw) != length or hashlib.new(name).digest_size != length:
        return None
    return name, raw.hex()


def _varint(raw: bytes) -> tuple[int, bytes]:
    value = 0
    for position, byte in enumerate(raw[:9]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, raw[position + 1 :]
    raise ValueError("no end of a number")


def _require(found: str, declared: tuple[str, str], asset: Asset, what: str) -> None:
    if found != declared[1]:
        raise ReadError(
            f"{what} is not the file that the catalogue describes",
            got=f"{public_address(asset.href)}: {declared[0]} {found[:16]}…",
            expected=f"{declared[1][:16]}… by its file:checksum",
            remedy="it was damaged, or replaced while its item was not; the next run tries again",
            transient=True,
        )


@lru_cache(maxsize=100_000)
def _hash_local(path: str, function: str, size: int, modified: int) -> str:
    """Digest of a file; once per process for as long as it does not change."""
    return _hash(Path(path), function)


def _hash(path: Path, function: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, function).hexdigest()


# -- copies of remote files -------------------------------------------------------------------


def _fetch(
    href: str, declared: tuple[str, str], asset: Asset, what: str, hosts: frozenset[str] | None
) -> Path:
    """A checked copy of a remote file, made by the first of this machine's readers to ask."""
    folder = require_folder()
    copy = folder / f"{declared[0]}-{declared[1]}{Path(asset.href.split('?')[0]).suffix}"
    with FileLock(f"{copy}.lock", mode=0o600):
        if not copy.exists():
            part = copy.with_name(f".part-{copy.name}")
            if is_http(href):
                download(href, part, hosts, number("NATMAP_VERIFIED_GB") * 1e9)
            else:
                _copy(href, part)
            try:
                _require(_hash(part, declared[0]), declared, asset, what)
            except ReadError:
                part.unlink()
                raise
            _make_room(folder, part.stat().st_size)
            part.rename(copy)
        os.utime(copy)
    return copy


def _copy(href: str, part: Path) -> None:
    """Fetch a whole file from an object store."""
    try:
        with rasterio.Env(**gdal_settings(href)):
            rasterio.shutil.copyfiles(href, str(part))
    except CPLE_BaseError as error:
        raise RasterioIOError(str(error)) from error


def require_folder() -> Path:
    """The folder for checked copies: NATMAP_VERIFIED, else one of this user's for scratch.

    Raises
    ------
    RunError
        Where somebody else could write into it.
    """
    told = os.environ.get("NATMAP_VERIFIED")
    folder = Path(told or Path(tempfile.gettempdir()) / f"natmap-verified-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise RunError(
            "the folder for checked files is open to others",
            got=folder,
            expected="a folder of this user's that nobody else can write",
            remedy="set NATMAP_VERIFIED to one, or remove it",
        )
    return folder


def _make_room(folder: Path, size: int) -> None:
    """Drop what was used longest ago, and what dead processes left behind."""
    room = number("NATMAP_VERIFIED_GB") * 1e9 - size
    files: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process makes room, too
            status = path.stat()
            if path.name.startswith(".part-"):
                if time.time() - status.st_mtime > _STALE:
                    path.unlink()
            elif path.suffix != ".lock":
                files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= room:
            break
        path.unlink(missing_ok=True)  # whoever has it open reads on
        total -= size
