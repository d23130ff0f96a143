"""A product folder put in place whole: whose it is, what of it natmap wrote, and what is kept."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from engine.errors import PublishError
from engine.files import exchange, is_alive
from engine.models.footprint import FOOTPRINT
from engine.publishing.report import SCHEMA

__all__ = ["contents_of", "replacing"]

_OLD = "-old"
_LEFT = re.compile(r"(?P<host>[^~]*)~(?P<process>\d+)~[^~-]+(?P<old>-old)?")
"""What the name of a folder in the making says after the product's: who makes it."""
_DAY = 86_400.0
_ours: set[str] = set()
"""Names of the folders that this process is filling."""


def contents_of(folder: Path) -> set[str] | None:
    """Files of a folder that natmap wrote, by relative path; None where it is no product.

    A report lists them. In folders of before it did, they are what the product's own collection and
    items name.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if report["schema"] != SCHEMA:
            return None
        if (listed := report.get("contents")) is not None:
            return _with_side_files(name for name in listed if isinstance(name, str))
        name = str(report["name"])
        found = {"report.json", "preview.png", "collection.json", FOOTPRINT}
        for item in (folder / "items").glob(f"{name}*.json"):
            assets = json.loads(item.read_text(encoding="utf-8"))["assets"]
            found |= {
                f"items/{item.name}",
                *(a["href"].removeprefix("../") for a in assets.values()),
            }
        collection = json.loads((folder / "collection.json").read_text(encoding="utf-8"))
        found |= {a["href"].removeprefix("./") for a in collection.get("assets", {}).values()}
        listed = any(entry.startswith("items/") for entry in found)
        return _with_side_files(found) if listed else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _with_side_files(names: Iterable[str]) -> set[str]:
    """Names, and those of the side files that programs write beside a raster when they open it."""
    found = set(names)
    return found | {f"{name}.aux.xml" for name in found if name.endswith((".tif", ".vrt"))}


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes another one's place when it is whole.

    What natmap did not write in the old one is carried over. Where the file system can exchange two
    folders nobody ever sees neither; else there is a moment between two renames, and a process
    that dies in it is made up for by the next.

    Parameters
    ----------
    folder : of the product.

    Raises
    ------
    PublishError
        Where the folder holds something else, or a file of somebody else's that the new one would
        replace, or is being published by another process; it stays as it is.
    """
    if os.path.ismount(folder):
        raise PublishError(
            "the product folder is where a disk is mounted, which nothing can replace",
            got=folder,
            remedy=f"name a folder within it in `publish`, such as {folder / 'product'}",
        )
    _recover(folder)
    if folder.exists() and contents_of(folder) is None and any(_entries(folder)):
        raise PublishError(
            "the product folder holds something else",
            got=folder,
            expected="a product of natmap, an empty folder, or none",
            remedy="name another folder in `publish`",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}~{_whose()}~{secrets.token_hex(4)}")
    with _held(folder):
        part.mkdir()
        _ours.add(part.name)
        try:
            with _held(part):
                yield part
                _require_room(folder, part)
                _put(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            _ours.discard(part.name)


def _put(part: Path, folder: Path) -> None:
    old = part.with_name(part.name + _OLD)
    if folder.exists():
        shutil.copymode(folder, part)
    if exchange(part, folder):
        part.rename(old)
    elif folder.exists():
        folder.rename(old)
        try:
            part.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    else:
        part.rename(folder)
    _retire(old, folder)


def _require_room(folder: Path, part: Path) -> None:
    """Refuse to replace a file that natmap did not write."""
    written = contents_of(folder) or set()
    wanted = {path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()}
    above = {str(parent) for name in wanted for parent in PurePosixPath(name).parents}
    theirs = {name for name in _names_in(folder) if name not in written}
    clash = theirs & (wanted | above)
    clash |= {n for n in theirs for parent in PurePosixPath(n).parents if str(parent) in wanted}
    if clash:
        raise PublishError(
            "files that natmap did not write have names of the product's",
            got=", ".join(sorted(clash)[:5]),
            remedy=f"move them out of {folder}, or name another folder in `publish`",
        )


def _names_in(folder: Path) -> Iterator[str]:
    """Files and links of a folder, by relative path."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other processes from publishing into a folder, where the file system can."""
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # there is none yet
        yield
        return
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PublishError(
                "another process is publishing into this folder",
                got=folder,
                remedy="wait for it, or name another folder in `publish`",
            ) from error
        except OSError:  # not every network's file system can
            pass
        yield
    finally:
        os.close(place)


def _entries(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        yield folder
    else:
        yield from folder.iterdir()


def _retire(old: Path, folder: Path) -> None:
    """Carry over what natmap did not write, and remove the rest."""
    if not old.exists():
        return
    written = contents_of(old) or set()
    ours = {str(parent) for name in written for parent in PurePosixPath(name).parents}
    _carry(old, folder, PurePosixPath(), written, ours)
    # without its list, which may go first, all that is left would be taken for a person's
    gone = old.rename(old.with_name(old.name.removesuffix(_OLD)))
    shutil.rmtree(gone, ignore_errors=True)


def _carry(old: Path, folder: Path, at: PurePosixPath, written: Set[str], ours: Set[str]) -> None:
    """Move what is not `written` from one folder to another; `ours` are folders of what is."""
    for path in sorted((old / at).iterdir()):
        name, target = at / path.name, folder / at / path.name
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and (str(name) in ours or target.is_dir()):
            if not os.path.lexists(target):
                target.mkdir()
            _carry(old, folder, name, written, ours)
            if not any(target.iterdir()):
                target.rmdir()  # it held what natmap wrote, and nothing else
        elif is_folder or str(name) not in written:
            while os.path.lexists(target):  # put there by somebody in this very moment
                target = target.with_name(f"{target.name}.before")
            path.rename(target)


def _recover(folder: Path) -> None:
    """Make up for processes that died: put back what one had moved away, sweep what it left."""
    if not folder.parent.is_dir():
        return
    # what was moved away comes first
    for path in sorted(folder.parent.glob(f".{glob.escape(folder.name)}~*"), reverse=True):
        match = _LEFT.fullmatch(path.name.removeprefix(f".{folder.name}~"))
        if match is None or not _is_dead(path, match["host"], int(match["process"])):
            continue
        if match["old"] and not folder.exists():
            path.rename(folder)
        elif folder.exists() and (match["old"] or contents_of(path) is not None):
            _retire(path, folder)  # exchanged perhaps, and not named so yet
        else:
            shutil.rmtree(path, ignore_errors=True)


def _whose() -> str:
    return f"{socket.gethostname()}~{os.getpid()}"


def _is_dead(path: Path, host: str, process: int) -> bool:
    """Whether nobody is at work on a folder any more; of another machine's, after a day."""
    if host != socket.gethostname():
        return time.time() - path.stat().st_ctime > _DAY
    if process == os.getpid():  # of a container, the first process has this number each time
        return path.name.removesuffix(_OLD) not in _ours
    return not is_alive(process)
